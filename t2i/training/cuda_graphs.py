"""CUDA graphs: each kind of step is captured once and then replayed.

A small network's step is thousands of kernels of a few microseconds each, and the host takes longer to launch one than
the GPU to run it. A graph is launched once. It is the same kernels on the same addresses: weights stay where they are,
and a batch, its random numbers and the plan's scalars are copied to where the captured kernels read them. Optimisers
and averages, a few kernels each, run eagerly.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.errors import is_out_of_memory
from t2i.files import first_line
from t2i.text.pooler import TextBatch
from t2i.text.transformer import TransformerEncoder
from t2i.training.batch import Batch
from t2i.training.randomness import StepRandom
from t2i.training.schedule import StepPlan
from t2i.training.statistics import Statistics
from t2i.training.step import Phase, Shared

Backward = Callable[[StepPlan, Batch, StepRandom, Shared | None], Shared | None]
WARM_UP = 2  # eager steps of a kind before it is captured: libraries choose and set up what they will use
LENGTHS = 8  # captions are padded to a multiple, so that a few graphs serve all lengths


def capture_on_cuda(work: Callable[[], None], pool: Any) -> Callable[[], None]:
    """`work` as a CUDA graph; nothing is computed yet. pool: of the memory that the graphs of a run share."""
    graph = torch.cuda.CUDAGraph()
    # Batches are read ahead, into pinned memory, by a thread of their own: what it does is not to be captured.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        work()
    return graph.replay


class StepGraphs:
    """The captured steps of a run.

    capture: (work, pool) -> what does `work` again on the same memory; capture_on_cuda, or a test's.
    refusal: why a step could not be captured; all that follow then run eagerly.
    """

    def __init__(
        self,
        statistics: Statistics,
        text_encoder: TransformerEncoder | None,
        capture: Callable[..., Callable[[], None]] = capture_on_cuda,
    ):
        self.statistics, self.capture = statistics, capture
        self._longest = None if text_encoder is None else text_encoder.max_tokens
        self._kinds: dict[Hashable, _Kind] = {}
        self._pool = self._new_pool()
        self._current: tuple[StepPlan, _Kind] | None = None
        self.refusal: str | None = None

    def run(
        self,
        phase: Phase,
        backward: Backward,
        plan: StepPlan,
        batch: Batch,
        rng: StepRandom,
        shared: Shared | None,
    ) -> Shared | None:
        """Have `backward(plan, batch, rng, shared)` put the gradients of a phase into its module; replayed where it can
        be. Returns what it returns: at the same addresses in every step of a kind."""
        kind = self._kind_of(plan, batch, rng)
        work = partial(backward, plan.with_scalars(kind.scalars), kind.batch, kind.rng)
        if kind.steps > WARM_UP and phase.name not in kind.graphs and not self.refusal:
            self._capture(kind, phase, partial(work, shared))
        if graph := kind.graphs.get(phase.name):
            graph.replay(self.statistics)
            return graph.shared
        return work(shared)

    def clear(self) -> None:
        """Drop the graphs: their kinds of steps do not come again."""
        self._kinds.clear()
        self._current = None
        self._pool = self._new_pool()  # the old one went with its graphs

    def _new_pool(self) -> Any:
        return torch.cuda.graph_pool_handle() if self.capture is capture_on_cuda else None

    def _kind_of(self, plan: StepPlan, batch: Batch, rng: StepRandom) -> "_Kind":
        """The kind of this step, filled with its batch and numbers: once for all phases of a step."""
        if self._current is not None and self._current[0] is plan:
            return self._current[1]
        batch = padded(batch, rng.rows, self._longest)
        key = plan.graph_key, batch.images.shape, batch.captions.tokens.shape, batch.wrong.shape
        if key not in self._kinds:
            self._kinds[key] = _Kind(batch, rng, len(plan.scalars))
        kind = self._kinds[key]
        kind.fill(batch, rng, plan.scalars)
        self._current = plan, kind
        return kind

    def _capture(self, kind: "_Kind", phase: Phase, work: Callable[[], Shared | None]) -> None:
        weights = dict(self.statistics.weights)
        found: list[Shared | None] = []
        try:
            replay = self.capture(lambda: found.append(work()), self._pool)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.refusal, self.statistics.weights = first_line(error), weights
            return
        counted = {name: count - weights.get(name, 0) for name, count in self.statistics.weights.items()}
        self.statistics.weights = weights  # nothing was computed yet
        gradients = [(p, p.grad) for p in phase.module.parameters()]
        kind.graphs[phase.name] = _Graph(replay, gradients, counted, found[0])


class _Graph:
    """A captured phase: its replay, the gradients that it writes, how many values it adds to the statistics, and what
    it hands to the next phase."""

    def __init__(
        self,
        replay: Callable[[], None],
        gradients: list[tuple[nn.Parameter, Tensor | None]],
        counted: dict[str, float],
        shared: Shared | None,
    ):
        self._replay, self._gradients, self._counted, self.shared = replay, gradients, counted, shared

    def replay(self, statistics: Statistics) -> None:
        self._replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        for name, count in self._counted.items():
            statistics.weights[name] += count


class _Kind:
    """Steps that differ in numbers alone: where their batch and numbers lie, and their graphs by phase."""

    def __init__(self, batch: Batch, rng: StepRandom, scalars: int):
        captions = TextBatch(*(torch.empty_like(part) for part in batch.captions))
        self.batch = Batch(
            images=torch.empty_like(batch.images),
            text=captions[rng.rows],
            captions=captions,
            belongs=torch.empty_like(batch.belongs),
            wrong=torch.empty_like(batch.wrong),
            flip_axis=batch.flip_axis,
        )
        self.rng = FixedRandom(rng)
        self.scalars = torch.empty(scalars, device=batch.images.device)
        self.steps = 0
        self.graphs: dict[str, _Graph] = {}

    def fill(self, batch: Batch, rng: StepRandom, scalars: Sequence[float]) -> None:
        self.steps += 1
        put(torch.tensor(scalars), self.scalars)
        here = self.batch
        pairs = [(here.images, batch.images), (here.belongs, batch.belongs), (here.wrong, batch.wrong)]
        for place, value in [*pairs, *zip(here.captions, batch.captions)]:
            place.copy_(value)
        self.rng.fill(rng)


class FixedRandom(StepRandom):
    """Random numbers at fixed addresses: those of one step, then of the next that `fill` is given."""

    def __init__(self, rng: StepRandom, places: dict[tuple, Tensor] | None = None):
        super().__init__(rng.seed, rng.images_seen, rng.batch, rng.rows, rng.device)
        self.places = {} if places is None else places

    def take(self, rows: slice) -> "FixedRandom":
        return FixedRandom(super().take(rows), self.places)

    def normal(self, name: str, *shape: int) -> Tensor:
        return self._at("normal", name, shape)

    def uniform(self, name: str, *shape: int) -> Tensor:
        return self._at("uniform", name, shape)

    def fill(self, rng: StepRandom) -> None:
        """Put the numbers of `rng` where those of the step before lie."""
        self.seed, self.images_seen = rng.seed, rng.images_seen
        for (kind, name, shape, start, stop), place in self.places.items():
            home = StepRandom(self.seed, self.images_seen, self.batch, slice(start, stop))
            put(getattr(home, kind)(name, *shape), place)

    def _at(self, kind: str, name: str, shape: tuple[int, ...]) -> Tensor:
        key = kind, name, shape, self.rows.start, self.rows.stop
        if key not in self.places:
            self.places[key] = getattr(super(), kind)(name, *shape)
        return self.places[key]


def put(numbers: Tensor, place: Tensor) -> None:
    """Copy numbers of the CPU to their place on the device, without waiting for the work that lies before it there."""
    place.copy_(numbers.pin_memory() if place.is_cuda else numbers, non_blocking=place.is_cuda)


def padded(batch: Batch, rows: slice, longest: int | None = None) -> Batch:
    """The batch with its captions padded to a multiple of LENGTHS tokens.

    longest: what a text encoder that is trained takes at the most, which no caption is longer than; None: any length.
    """
    tokens, mask = tuple(batch.captions)
    length = -(-tokens.shape[1] // LENGTHS) * LENGTHS
    if not (more := min(length, longest or length) - tokens.shape[1]):
        return batch
    captions = TextBatch(F.pad(tokens, (0, 0) * (tokens.ndim - 2) + (0, more)), F.pad(mask, (0, more)))
    return Batch(batch.images, captions[rows], captions, batch.belongs, batch.wrong, batch.flip_axis)
