"""On CUDA a step's gradients are recorded once, as a CUDA graph, and then played again.

A small network's step is thousands of kernels of a few microseconds each, and the host takes longer to ask for one than
the GPU to run it. A graph is asked for once. It is the same kernels on the same addresses: weights stay where they are,
and a batch, its random numbers and its dials, which a run turns from step to step, are copied to where the recording
read them. Optimisers and averages, a few kernels each, run as ever.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.errors import is_out_of_memory
from t2i.files import first_line
from t2i.text.pooler import TextBatch
from t2i.training.batch import Batch
from t2i.training.objective import GANObjective, Phase
from t2i.training.randomness import StepRandom
from t2i.training.statistics import Statistics

Work = Callable[[Batch, StepRandom, Tensor], None]
WARM_UP = 2  # steps of a kind that run as ever before it is recorded: libraries choose and set up what they will use
LENGTHS = 8  # captions are padded to a multiple, so that a few recordings serve all lengths


def record_on_cuda(work: Callable[[], None], pool: object) -> Callable[[], None]:
    """`work` as a CUDA graph; nothing is computed yet. pool: of the memory that the recordings of a run share."""
    graph = torch.cuda.CUDAGraph()
    # Batches are read ahead, into pinned memory, by a thread of their own: what it does is not to be recorded.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        work()
    return graph.replay


class StepGraphs:
    """The recordings of a run that minimises `objective`.

    record: (work, pool) -> what does `work` again on the same memory; record_on_cuda, or a test's.
    refusal: why a step could not be recorded; all that follow then run as ever.
    """

    def __init__(self, objective: GANObjective, record: Callable[..., Callable[[], None]] = record_on_cuda):
        self.statistics, self.record = objective.statistics, record
        encoder = objective.text_encoder
        self._longest = None if encoder is None else encoder.max_tokens
        self._kinds: dict[Hashable, _Kind] = {}
        self._now: _Kind | None = None
        self._pool = self._new_pool()
        self.refusal: str | None = None

    def accumulate(
        self,
        phase: Phase,
        form: Hashable,
        batch: Batch,
        random: StepRandom,
        dials: Sequence[float],
        rows: slice,
        work: Work,
        begins: bool,
    ) -> None:
        """Have `work(batch, random, dials)` put the gradients of `phase` into its parameters; played, where it can be.

        form: all that `work` decides by, beside sizes. dials: numbers that it computes with, as a tensor there.
        rows: the pictures' own among the batch's captions.
        begins: this is the step's first phase. What one phase leaves to the next is left at the same places again.
        """
        if begins:
            batch = padded(batch, rows, self._longest)
            kind = form, batch.images.shape, batch.captions.tokens.shape, batch.wrong.shape
            if kind not in self._kinds:
                self._kinds[kind] = _Kind(batch, random, len(dials), rows)
            self._now = self._kinds[kind]
            self._now.fill(batch, random, dials)
        now = self._now
        todo = partial(work, now.batch, now.random, now.dials)
        if now.steps > WARM_UP and phase.name not in now.recordings and not self.refusal:
            now.recordings[phase.name] = self._recording(phase, todo)
        if recording := now.recordings.get(phase.name):
            recording.play(self.statistics)
        else:
            todo()

    def forget(self) -> None:
        """Drop the recordings: their kinds of steps do not come again."""
        self._kinds.clear()
        self._now = None
        self._pool = self._new_pool()  # the old one went with its recordings

    def _new_pool(self) -> object:
        return torch.cuda.graph_pool_handle() if self.record is record_on_cuda else None

    def _recording(self, phase: Phase, work: Callable[[], None]) -> "_Recording | None":
        weights = dict(self.statistics.weights)
        try:
            play = self.record(work, self._pool)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.refusal, self.statistics.weights = first_line(error), weights
            return None
        counted = {name: count - weights[name] for name, count in self.statistics.weights.items()}
        self.statistics.weights = weights  # nothing was computed yet
        return _Recording(play, [(p, p.grad) for p in phase.module.parameters()], counted)


class _Recording:
    """One phase: how to play it, the gradients that it writes, and how many values it adds to the statistics."""

    def __init__(
        self,
        play: Callable[[], None],
        gradients: list[tuple[nn.Parameter, Tensor | None]],
        counted: dict[str, float],
    ):
        self._play, self._gradients, self._counted = play, gradients, counted

    def play(self, statistics: Statistics) -> None:
        self._play()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        for name, count in self._counted.items():
            statistics.weights[name] += count


class _Kind:
    """Steps that differ in numbers alone: where their batch and numbers lie, and their recordings by phase."""

    def __init__(self, batch: Batch, random: StepRandom, dials: int, rows: slice):
        captions = TextBatch(*(torch.empty_like(part) for part in batch.captions))
        self.batch = Batch(
            images=torch.empty_like(batch.images),
            text=captions[rows],
            captions=captions,
            belongs=torch.empty_like(batch.belongs),
            wrong=torch.empty_like(batch.wrong),
            mirror=batch.mirror,
        )
        self.random = FixedRandom(random)
        self.dials = torch.empty(dials, device=batch.images.device)
        self.steps = 0
        self.recordings: dict[str, _Recording | None] = {}

    def fill(self, batch: Batch, random: StepRandom, dials: Sequence[float]) -> None:
        self.steps += 1
        put(torch.tensor(dials), self.dials)
        here = self.batch
        pairs = [(here.images, batch.images), (here.belongs, batch.belongs), (here.wrong, batch.wrong)]
        for place, value in [*pairs, *zip(here.captions, batch.captions)]:
            place.copy_(value)
        self.random.fill(random)


class FixedRandom(StepRandom):
    """Random numbers at fixed places: those of one step, then of the next that `fill` is given."""

    def __init__(self, random: StepRandom, places: dict[tuple, Tensor] | None = None):
        super().__init__(random.seed, random.images_seen, random.batch, random.rows, random.device)
        self.places = {} if places is None else places

    def take(self, rows: slice) -> "FixedRandom":
        return FixedRandom(super().take(rows), self.places)

    def normal(self, name: str, *shape: int) -> Tensor:
        return self._at("normal", name, shape)

    def uniform(self, name: str, *shape: int) -> Tensor:
        return self._at("uniform", name, shape)

    def fill(self, random: StepRandom) -> None:
        """Put the numbers of `random` where those of the step before lie."""
        self.seed, self.images_seen = random.seed, random.images_seen
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
    return Batch(batch.images, captions[rows], captions, batch.belongs, batch.wrong, batch.mirror)
