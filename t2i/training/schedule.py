"""What each step of a run is: a StepPlan, a pure function of the settings and of the images seen.

A stage of progressive growing is a whole number of its batches. In the first `fade` of each stage but the first, alpha
rises from 0 to 1.
"""

import contextlib
import math
import struct
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from t2i.config import TrainConfig
from t2i.errors import UsageError
from t2i.losses.penalties import default_weight
from t2i.models.growing import Growth
from t2i.setting_groups import Stage as StageSettings

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepPlan:
    """One step.

    images_seen: before it. batch: images of it. growth: where growing networks stand.
    penalty: weight of the gradient penalty, 0 in a step that does not take it; taken every k-th step it is `lazy` = k
    times as heavy (lazy regularisation, Karras et al. 2020, appendix B).
    warm_up: the generator alone learns, by the energy score. reset_optimizers: their moments are dropped before it.
    dtype: of the passes under autocast; None for fp32. While a captured step is replayed growth.alpha is a tensor.
    """

    images_seen: int
    batch: int
    growth: Growth
    lr_g: float
    lr_d: float
    penalty: float = 0.0
    lazy: int = 1
    warm_up: bool = False
    reset_optimizers: bool = False
    dtype: torch.dtype | None = None

    @property
    def graph_key(self) -> tuple[Hashable, ...]:
        """Equal for steps that differ in tensors and in `scalars` alone."""
        fades = self.growth.resolution, self.growth.fades
        return *fades, self.warm_up, self.penalty, self.lazy

    @property
    def scalars(self) -> tuple[float]:
        """The numbers that steps of one graph_key differ in."""
        return (float(self.growth.alpha),)

    def with_scalars(self, scalars: Tensor) -> "StepPlan":
        """The same step with `scalars` in a tensor."""
        growth = self.growth._replace(alpha=scalars[0]) if self.growth.fades else self.growth
        return replace(self, growth=growth)

    def autocast(self, device: str) -> contextlib.AbstractContextManager[Any]:
        """For the networks' passes on a kind of device."""
        return contextlib.nullcontext() if self.dtype is None else torch.autocast(device, self.dtype)


@dataclass(frozen=True)
class Stage:
    """A stage in counts of images: from `start` to before `end` (None: to the end of the run)."""

    start: int
    end: int | None
    faded: int  # alpha is 1 from here on
    resolution: int
    batch: int
    lr_g: float
    lr_d: float

    def growth(self, images_seen: int) -> Growth:
        """Where the networks stand for the batch that begins at `images_seen`."""
        length = self.faded - self.start
        alpha = 1.0 if images_seen >= self.faded else (images_seen - self.start) / length
        return Growth(self.resolution, as_fp32(alpha))


class Schedule:
    """The stages of a run, and the plan of each step."""

    def __init__(self, config: TrainConfig, resolution: int):
        times, optim = config.schedule, config.optim
        self.config, self.resolution = config, resolution
        stages = fit_stages(times.stages, resolution) if times.growing else (StageSettings(resolution, 1.0),)
        images = 1000 * (times.grow_kimg or times.kimg)
        self.stages: list[Stage] = []
        start = 0
        for number, stage in enumerate(stages):
            batch = stage.batch or optim.batch
            length = max(1, round(stage.share * images / batch)) * batch
            fading = int(times.fade * length) if number else 0
            end = None if number == len(stages) - 1 else start + length
            rates = stage.lr or optim.lr_g, stage.lr or optim.lr_d
            self.stages.append(Stage(start, end, start + fading, stage.resolution, batch, *rates))
            start += length

    @property
    def resolutions(self) -> list[int]:
        """Those that the run goes through."""
        return [stage.resolution for stage in self.stages]

    @property
    def warm_up_images(self) -> float:
        return 1000 * self.config.schedule.warm_up_kimg

    def stage(self, images_seen: int) -> Stage:
        """The one that a batch beginning at `images_seen` belongs to."""
        return next(stage for stage in reversed(self.stages) if stage.start <= images_seen)

    def plan(self, images_seen: int) -> StepPlan:
        """The step that begins at `images_seen`."""
        stage, end, every = self.stage(images_seen), self.warm_up_images, self.config.penalty.every
        warm_up, growth = images_seen < end, stage.growth(images_seen)
        lr_g = stage.lr_g
        if warm_up and (peak := self.config.schedule.warm_up_lr):
            lr_g += (peak - lr_g) * (1 + math.cos(math.pi * images_seen / end)) / 2
        due = (images_seen - stage.start) // stage.batch % every == 0
        return StepPlan(
            images_seen, stage.batch, growth, lr_g, stage.lr_d,
            penalty=self._penalty(stage) if due and not warm_up else 0.0,
            lazy=every,
            warm_up=warm_up,
            # Moments of another resolution mislead (Karras et al. 2018, sec. A.1), and so do those of the warm-up: the
            # gradients of the losses after it are a thousand times as large.
            reset_optimizers=images_seen == stage.start or images_seen - stage.batch < end <= images_seen,
            dtype=DTYPES[self.config.optim.precision],
        )  # fmt: skip

    def growth_after(self, images_seen: int) -> Growth:
        """Where the networks stood in the step that ended at `images_seen`."""
        return self.stage(max(images_seen - 1, 0)).growth(self._last_step(images_seen))

    def discriminator_trained(self, images_seen: int) -> bool:
        """Did the step that ended at `images_seen` train a discriminator? False in the warm-up."""
        return self._last_step(images_seen) >= self.warm_up_images

    def _last_step(self, images_seen: int) -> int:
        """Where the step began that ended at `images_seen`."""
        return max(images_seen - self.stage(max(images_seen - 1, 0)).batch, 0)

    def _penalty(self, stage: Stage) -> float:
        """The penalty's weight in a stage. R1's goes with the number of pixels, as its heuristic does: the config's is
        that of the last stage."""
        kind, weight = self.config.penalty.kind, self.config.penalty.weight
        if kind == "none":
            return 0.0
        if weight is None:
            return default_weight(kind, stage.resolution, stage.batch)
        return weight * ((stage.resolution / self.resolution) ** 2 if kind == "r1" else 1.0)

    def describe(self) -> str:
        """For the user: from which image on which resolution; batch and learning rates where not all have the run's."""
        optim = self.config.optim
        batches = any(stage.batch != optim.batch for stage in self.stages)
        rates = any((stage.lr_g, stage.lr_d) != (optim.lr_g, optim.lr_d) for stage in self.stages)
        found = []
        for stage in self.stages:
            own = [f"batch {stage.batch}"] if batches else []
            if rates:
                equal = stage.lr_g == stage.lr_d
                own.append(f"lr {stage.lr_g:g}" if equal else f"lr_g {stage.lr_g:g} and lr_d {stage.lr_d:g}")
            with_own = f" with {' and '.join(own)}" if own else ""
            found.append(f"{stage.resolution} px from {stage.start / 1000:g} kimg{with_own}")
        return ", ".join(found)


def as_fp32(value: float) -> float:
    """Rounded to 32 bits: the same as a number of the host and as a tensor."""
    return struct.unpack("f", struct.pack("f", value))[0]


def fit_stages(stages: tuple[StageSettings, ...], resolution: int) -> tuple[StageSettings, ...]:
    """The stages of a run at `resolution`: those up to it, the last one stretched to it, shares that sum to 1.

    Raises UsageError where none fits, or growing cannot reach the resolution by doubling.
    """
    fitting = [stage for stage in stages if stage.resolution <= resolution]
    if not fitting:
        raise UsageError(f"no stage of growing is as small as the data set's {resolution} px; use --no-growing")
    while fitting[-1].resolution < resolution:
        last = fitting[-1]
        fitting.append(replace(last, resolution=2 * last.resolution, share=2 * last.share))
    if fitting[-1].resolution != resolution:
        raise UsageError(
            f"growing doubles from {fitting[0].resolution} px and never meets the data set's {resolution} px; "
            "use --no-growing, or prepare the data at another --resolution"
        )
    total = sum(stage.share for stage in fitting)
    return tuple(replace(stage, share=stage.share / total) for stage in fitting)
