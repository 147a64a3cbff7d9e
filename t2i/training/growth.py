"""When a run grows: its resolution, alpha, batch and learning rates as a function of the images seen, and of no more.

A stage is a whole number of its batches. In the first `fade` of each stage but the first, alpha rises from 0 to 1.
"""

import struct
from dataclasses import dataclass, replace

from t2i.config import Stage, TrainConfig
from t2i.errors import UsageError
from t2i.models.growing import Growth


def single(value: float) -> float:
    """Rounded to 32 bits: the same as a number of the host and as a tensor."""
    return struct.unpack("f", struct.pack("f", value))[0]


@dataclass(frozen=True)
class Span:
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
        return Growth(self.resolution, single(alpha))

    def step(self, images_seen: int) -> int:
        """Number of the step within the stage."""
        return (images_seen - self.start) // self.batch


def fit_stages(stages: tuple[Stage, ...], resolution: int) -> tuple[Stage, ...]:
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


class Schedule:
    """The spans of a run. `at(images_seen)` is the one that a batch beginning there belongs to."""

    def __init__(self, config: TrainConfig, resolution: int):
        stages = fit_stages(config.stages, resolution) if config.growing else (Stage(resolution, 1.0),)
        self._config = config
        images = 1000 * (config.grow_kimg or config.kimg)
        self.spans: list[Span] = []
        start = 0
        for number, stage in enumerate(stages):
            batch = stage.batch or config.batch
            length = max(1, round(stage.share * images / batch)) * batch
            fading = int(config.fade * length) if number else 0
            self.spans.append(
                Span(
                    start,
                    None if number == len(stages) - 1 else start + length,
                    start + fading,
                    stage.resolution,
                    batch,
                    stage.lr or config.lr_g,
                    stage.lr or config.lr_d,
                )
            )
            start += length

    @property
    def sides(self) -> list[int]:
        """The resolutions that the run goes through."""
        return [span.resolution for span in self.spans]

    def at(self, images_seen: int) -> Span:
        return next(span for span in reversed(self.spans) if span.start <= images_seen)

    def latest(self, images_seen: int) -> Growth:
        """Where the networks stood in the step that ended at `images_seen`."""
        return self.at(max(images_seen - 1, 0)).growth(self._last_step(images_seen))

    def judged(self, images_seen: int) -> bool:
        """Has a discriminator trained in the step that ended at `images_seen`, or was it pretraining still?"""
        return self._last_step(images_seen) >= 1000 * self._config.pretrain_kimg

    def _last_step(self, images_seen: int) -> int:
        """Where the step began that ended at `images_seen`."""
        return max(images_seen - self.at(max(images_seen - 1, 0)).batch, 0)

    def describe(self) -> str:
        """For the user: from which image on which resolution; batch and learning rates where not all have the run's."""
        config, spans = self._config, self.spans
        batches = any(span.batch != config.batch for span in spans)
        rates = any((span.lr_g, span.lr_d) != (config.lr_g, config.lr_d) for span in spans)
        found = []
        for span in spans:
            own = [f"batch {span.batch}"] if batches else []
            if rates:
                equal = span.lr_g == span.lr_d
                own.append(f"lr {span.lr_g:g}" if equal else f"lr_g {span.lr_g:g} and lr_d {span.lr_d:g}")
            with_own = f" with {' and '.join(own)}" if own else ""
            found.append(f"{span.resolution} px from {span.start / 1000:g} kimg{with_own}")
        return ", ".join(found)
