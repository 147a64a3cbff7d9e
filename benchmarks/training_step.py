"""Images a second of a whole training step (data, both phases, averages), for variants that take turns.

    python benchmarks/training_step.py DATA VARIANT [VARIANT ...] [--turns 5] [--profile] [--peak] [--loop]

VARIANT: see variants.py. The turns of the variants alternate in one process, so that a busy machine slows all of them;
on a GPU, whose memory they would share, one variant follows the other. The ratio is the median over the turns of each
variant's speed by the first one's. --profile adds where the time of a
step goes, by torch.profiler: the shares of kinds of operations, and the longest operations. --peak adds how many
operations a step takes, what share that is of those that a product of large matrices reaches here in the variant's
precision, how long the host was at loading batches, how much faster a step is where nothing is loaded (a GPU works
through what it was asked for before, so the host's time need not be the step's), and on a GPU the memory. --loop adds
each variant once more, by the loop of `t2i train`: what is due, and the metrics every 1,000 images, without snapshots.
"""

import argparse
import contextlib
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from script import run_script
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from variants import settings_of

from t2i.config import TrainConfig
from t2i.data.prepared import PreparedDataset
from t2i.device import pick_device
from t2i.models.growing import real_at
from t2i.training.distributed import ALONE
from t2i.training.loading import BatchLoader, resident_images
from t2i.training.loop import Loop
from t2i.training.randomness import StepRandom
from t2i.training.run import Run
from t2i.training.schedule import Schedule
from t2i.training.text import make_text
from t2i.training.trainer import Trainer


class Steps:
    """A run without its loop: `take(n)` trains n steps at full size and returns the seconds they took."""

    warm_up = 32  # on a GPU, where each kind of step is captured at its third time

    def __init__(self, settings: TrainConfig, data: PreparedDataset, device: torch.device):
        self.settings, self.device = settings, device
        text = make_text(settings, data, Path(tempfile.mkdtemp()), write=False)
        self.trainer = Trainer(settings, data.resolution, text, device)
        self.loader = BatchLoader(
            data, text, settings.run.seed, device,
            mismatches=settings.adversarial.mismatches,
            flips="word_region" in settings.terms,
            resident=resident_images(data, device),
        )  # fmt: skip
        self.schedule = Schedule(settings, data.resolution)
        last = self.schedule.stages[-1]
        self.images_seen, self.batch = last.faded, last.batch
        self.loading = 0.0  # seconds in all

    def take(self, count: int) -> float:
        _wait(self.device)
        started = time.perf_counter()
        for _ in range(count):
            self._step()
        _wait(self.device)
        return time.perf_counter() - started

    def _step(self) -> None:
        plan = self.schedule.plan(self.images_seen)
        started = time.perf_counter()
        batch = self.loader.load(self.images_seen, self.batch)
        self.loading += time.perf_counter() - started
        batch = batch.with_images(real_at(batch.images, plan.growth))
        seed = self.settings.run.seed
        self.trainer.step(plan, batch, StepRandom(seed, self.images_seen, self.batch, device=str(self.device)))
        self.images_seen += self.batch


class LoopSteps(Steps):
    """The same steps, by the loop."""

    def __init__(self, settings: TrainConfig, data: PreparedDataset, device: torch.device):
        self.settings, self.device = settings, device
        run = Run.begin(Path(tempfile.mkdtemp()), settings, data, str(device))
        self.loop = Loop(settings, data, run, device, False, ALONE, lambda line: None)
        self.trainer, self.loader = self.loop.trainer, self.loop.loader
        last = self.loop.schedule.stages[-1]
        self.images_seen, self.batch = last.faded, last.batch
        self.loop.progress.images_seen = self.images_seen

    def _step(self) -> None:
        due = self.loop.progress.due(lambda: False, ALONE)
        if due.log:
            self.loop.trainer.guard.flush()
            self.loop.log(due.score, lambda status: None)
        self.loop.step()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def compare(
    loops: dict[str, Callable[[], Any]],
    steps: int,
    turns: int,
    device: torch.device,
    after: Callable[[str, Any], None] = lambda name, loop: None,
) -> dict[str, list[float]]:
    """Images a second of each loop in each turn of so many steps. after: what to do with each one in the end."""
    alone = device.type == "cuda"
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for group in [[name] for name in loops] if alone else [list(loops)]:
        running = {name: loops[name]() for name in group}
        for loop in running.values():
            loop.take(max(steps, loop.warm_up) if alone else steps)  # every kind: with a penalty and without
        for _ in range(turns):
            for name, loop in running.items():
                speeds[name].append(steps * loop.batch / loop.take(steps))
        for name, loop in running.items():
            if alone:
                print(f"{name}: {statistics.median(speeds[name]):.1f} images/s", file=sys.stderr)
            after(name, loop)
            loop.loader.close()
        del loop, running
        gc.collect()
        if alone:
            torch.cuda.empty_cache()
    return speeds


TURNS_WITHOUT = 5  # with loading and without
KINDS = {  # by a part of an operation's name, the first that fits
    "convolution": ("convolution", "conv2d"),
    "linear layers": ("addmm", "aten::mm", "bmm", "baddbmm", "linear"),
    "optimisers, averages": ("adam", "_foreach"),
}


def shares(profile: torch.profiler.profile, device: torch.device) -> dict[str, float]:
    """The share of each kind of operation in the time of all, without what it calls; they sum to 1."""
    where = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    times = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in profile.key_averages():
        name = event.key.lower()
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "the rest")
        times[kind] += getattr(event, where)
    return {kind: value / sum(times.values()) for kind, value in times.items()}


def operations_at_best(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of a product of large matrices."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):
        _wait(device)
        started = time.perf_counter()
        for _ in range(4):
            a @ b
        _wait(device)
        best = max(best, 4 * 2 * side**3 / (time.perf_counter() - started))
    return best


class CountOperations(TorchDispatchMode):
    """Floating-point operations of products and convolutions, backward passes too. (FlopCounterMode's own tracking of
    modules does not go with a penalty's autograd.grad.)"""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def describe_peak(run: Steps, steps: int) -> str:
    precision = torch.bfloat16 if run.settings.optim.precision == "bf16" else torch.float32
    best = operations_at_best(precision, run.device)
    with one_by_one(run.trainer), CountOperations() as counter:
        run.take(steps)
    operations = counter.total / steps
    run.loading, with_loading, without = 0.0, [], []
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(TURNS_WITHOUT):
        with_loading.append(run.take(steps))
        with one_batch(run.loader, run.images_seen, run.batch):
            without.append(run.take(steps))
    seconds, share = statistics.median(with_loading), run.loading / sum(with_loading)
    gain = statistics.median(a / b for a, b in zip(with_loading, without))
    line = (
        f"{operations / 1e9:.1f} billion operations a step, {operations * steps / seconds / best:.1%} of the "
        f"{best / 1e9:,.0f} billion a second of large matrices in {run.settings.optim.precision}; "
        f"loading took the host {share:.2%} of the time, and without it a step is {gain:.3f} times as fast"
    )
    if run.device.type == "cuda":
        line += f"; {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"
    return line


@contextlib.contextmanager
def one_batch(loader: BatchLoader, images_seen: int, size: int) -> Iterator[None]:
    """The same batch again and again, which is loaded once."""
    batch, load = loader.load(images_seen, size), loader.load
    loader.load = lambda *place: batch
    yield
    loader.load = load


@contextlib.contextmanager
def one_by_one(trainer: Trainer) -> Iterator[None]:
    """Operations that are asked for one by one, and can be counted and named."""
    graphs, trainer.graphs = trainer.graphs, None
    yield
    trainer.graphs = graphs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--steps", type=int, default=16, help="a turn; a multiple of loss.penalty.every")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--peak", action="store_true")
    parser.add_argument("--loop", action="store_true")
    options = parser.parse_args()
    data, device = PreparedDataset(options.data), pick_device(options.device)
    loops: dict[str, Callable[[], Steps]] = {}
    for text in options.variants:
        name, settings = settings_of(text, data, device)
        loops[name] = partial(Steps, settings, data, device)
        if options.loop:
            loops[f"{name}, loop"] = partial(LoopSteps, settings, data, device)
    told: list[str] = []
    sizes = {}

    def look(name: str, run: Steps) -> None:
        sizes[name] = run.batch
        if options.peak and not isinstance(run, LoopSteps):
            told.append(f"{name}: {describe_peak(run, options.steps)}")
        if options.profile:
            with one_by_one(run.trainer), torch.profiler.profile() as profile:
                run.take(run.settings.penalty.every)
            kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in shares(profile, device).items())
            order = f"self_{device.type}_time_total"
            table = profile.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=40)
            told.append(f"\n{name}: {kinds}\n{table}")

    speeds = compare(loops, options.steps, options.turns, device, look)
    print(f"{data.path}, {data.resolution} px, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    first = next(iter(speeds.values()))
    for name, values in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(values, first))
        print(
            f"{name:24} batch {sizes[name]}  {statistics.median(values):8.1f} images/s "
            f"({min(values):.1f}-{max(values):.1f})  {ratio:.2f} times the first"
        )
    print("\n".join(told))


if __name__ == "__main__":
    run_script(main)
