"""How long will a run take, and how much memory? A few steps of every kind, timed and thrown away."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from t2i.config import TrainConfig
from t2i.data.prepared import PreparedDataset
from t2i.errors import is_out_of_memory
from t2i.training.distributed import ALONE
from t2i.training.loop import Loop
from t2i.training.memory import memory_gib, out_of_memory
from t2i.training.run import Run
from t2i.training.schedule import Schedule, StepPlan

STEPS, MOST, SECONDS = 5, 20, 4.0  # of each kind so many are timed; of short ones more, in so many seconds
# Untimed before them: the first allocates; CUDA also chooses its kernels, and captures a graph.
WARM = {"cpu": 2, "cuda": 5}


@dataclass(frozen=True)
class Part:
    """A part of a run whose steps cost the same. images_per_second: of its steps. memory_gib: the most so far."""

    name: str
    images: int
    images_per_second: float
    memory_gib: float

    @property
    def seconds(self) -> float:
        return self.images / self.images_per_second


@dataclass(frozen=True)
class Rehearsal:
    """parts: of the run, in order. snapshots: seconds that all of them take. out_of_memory: the part that did not fit,
    and what to do; then the later ones are missing."""

    parts: list[Part]
    snapshots: float
    out_of_memory: str = ""

    @property
    def minutes(self) -> float:
        return (sum(part.seconds for part in self.parts) + self.snapshots) / 60

    def lines(self, config: TrainConfig) -> list[str]:
        """For the user."""
        said = []
        for part in self.parts:
            speed, took = f"{part.images_per_second:.0f} images a second", part.seconds / 60
            said.append(
                f"{part.name}: {speed}, {part.images / 1000:g} kimg in {took:.1f} minutes, {part.memory_gib:.1f} GiB"
            )
        if self.out_of_memory:
            return [*said, self.out_of_memory]
        limit, scores = config.schedule.minutes, " and without scores" if config.eval.every else ""
        minutes = f"{self.minutes:.0f}" if self.minutes >= 10 else f"{self.minutes:.1f}"
        said.append(f"in all: {minutes} minutes, {self.snapshots / 60:.1f} of them for snapshots{scores}")
        if limit and limit < self.minutes:
            said.append(f"it ends after {limit:g} minutes, before its {config.schedule.kimg:g} kimg")
        return said


def rehearse(config: TrainConfig, dataset: PreparedDataset, device: torch.device) -> Rehearsal:
    """Time a run of `config` in one process, in a folder that is then removed. Raises UserError, one line."""
    quiet = config.changed(eval__every=None, run__trackers=())
    with tempfile.TemporaryDirectory() as folder:
        run = Run.begin(Path(folder), quiet, dataset, str(device))
        loop = Loop(quiet, dataset, run, device, False, ALONE, lambda line: None)
        try:
            return _rehearse(loop, Schedule(config, dataset.resolution))
        finally:
            loop.close()


def _rehearse(loop: Loop, schedule: Schedule) -> Rehearsal:
    config, device = loop.config, loop.device
    loop.save()  # the first one is slower: libraries are loaded
    parts: list[Part] = []
    for name, start, images in _parts(schedule, int(config.schedule.kimg * 1000)):
        try:
            parts.append(Part(name, images, _speed(loop, schedule, start), memory_gib(device)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            advice = str(out_of_memory(config, schedule.plan(start), ALONE)).replace("t2i train --resume ", "")
            return Rehearsal(parts, 0.0, f"{name}: {advice}")
    loop.progress.images_seen = config.optim.batch  # a snapshot of its own
    began = time.perf_counter()
    loop.save()
    seconds = time.perf_counter() - began
    parts[-1] = replace(parts[-1], memory_gib=memory_gib(device))  # a snapshot takes some too
    return Rehearsal(parts, seconds * (1 + config.schedule.kimg // max(config.run.snapshot_kimg, 1e-9)))


def _parts(schedule: Schedule, goal: int) -> Iterator[tuple[str, int, int]]:
    """Name, first image and number of images of each part of a run of `goal` images."""
    warm_up = schedule.warm_up_images
    grows = len(schedule.stages) > 1
    for stage in schedule.stages:
        end = goal if stage.end is None else min(stage.end, goal)
        borders = [stage.start, stage.faded, end]
        for first, last in pairwise(borders):
            pieces = [(first, min(last, warm_up), "warm-up"), (max(first, warm_up), last, "")]
            for start, stop, kind in pieces:
                if stop <= start:
                    continue
                words = [f"{stage.resolution} px"] if grows else []
                words += ["fading in"] if first < stage.faded else []
                words += [kind] if kind else []
                yield " ".join(words) or "training", int(start), int(stop - start)


def _speed(loop: Loop, schedule: Schedule, start: int) -> float:
    """Images a second from image `start` on: steps with a penalty, which is taken every k-th time, have their share."""
    batch, every = schedule.plan(start).batch, loop.config.penalty.every
    plans = [schedule.plan(start + number * batch) for number in range(every)]
    first = {bool(plan.penalty): plan for plan in reversed(plans)}
    seconds = {kind: _step_seconds(loop, plan) for kind, plan in first.items()}
    share = sum(bool(plan.penalty) for plan in plans) / every
    return batch / (share * seconds.get(True, 0.0) + (1 - share) * seconds.get(False, 0.0))


def _step_seconds(loop: Loop, plan: StepPlan) -> float:
    """Mean seconds of steps like this one."""
    times: list[float] = []
    warm = WARM.get(loop.device.type, 1)
    for number in range(warm + MOST):
        if len(times) >= STEPS and sum(times) > SECONDS:
            break
        began = time.perf_counter()
        seen = plan.images_seen + number * plan.batch  # one after the other: the next images are read meanwhile
        loop.take(replace(plan, images_seen=seen, reset_optimizers=False))
        if loop.device.type == "cuda":
            torch.cuda.synchronize(loop.device)
        if number >= warm:
            times.append(time.perf_counter() - began)
    return sum(times) / len(times)
