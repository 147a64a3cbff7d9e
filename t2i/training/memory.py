"""Memory: how much is in use, and what to do where it ran out."""

import contextlib
import ctypes
import dataclasses
import gc
import math
import re
import sys
from pathlib import Path

import torch

from t2i.config import TrainConfig
from t2i.errors import UsageError, UserError, is_out_of_memory
from t2i.models.growing import real_at
from t2i.training.distributed import Ranks
from t2i.training.growth import Span
from t2i.training.loading import BatchLoader
from t2i.training.randomness import StepRandom
from t2i.training.setup import check_together
from t2i.training.state import TrainingState

# Of glibc's malloc.h, and what train() sets them to, in bytes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT, MAPPED = 1 << 30, 1 << 25

# A graph older than any of a training.
_OLDER = torch.zeros((), requires_grad=True)
_OLD = _OLDER * 1


def memory_gib(device: torch.device) -> float:
    """The most memory that was in use: the device's on CUDA, else this process's, in GiB; NaN where nothing says."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    with contextlib.suppress(OSError):  # not by getrusage, which on Linux begins with the peak of who started this
        if peak := re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text()):
            return int(peak[1]) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes on macOS, which has no /proc


def keep_freed_memory() -> None:
    """Have this process keep up to 1 GiB of the memory that it frees, for what it needs next.

    Each training step frees hundreds of MiB and takes them again. glibc, left alone, gives them back to the system in
    between, which then clears each page anew. Where a process may take so much only (ulimit -v), it keeps none; other
    C libraries are left as they are.
    """
    if sys.platform != "linux":
        return
    import resource

    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)


def out_of_memory(
    state: TrainingState, loader: BatchLoader, span: Span, images_seen: int, random: StepRandom, ranks: Ranks
) -> UserError:
    """The line for the user: the largest micro-batch that fits, found by trying, and the --accumulate that makes it.

    The batch is never changed silently. Nothing is learned from the tries: no optimiser steps.
    """
    local = span.batch // ranks.size
    line = f"out of memory with a micro-batch of {local // state.config.accumulate} at {span.resolution} px"
    if ranks.size > 1:  # the others wait in a step that this rank does not take
        return UserError(f"{line}; the last checkpoint is good: give a larger --accumulate or a smaller --batch")
    release(state)
    for pieces in range(state.config.accumulate + 1, local + 1):
        if not may_resume(state.config, pieces):
            continue
        found = fits(state, loader, span, images_seen, random, ranks, pieces)
        release(state)
        if found:
            fitting = f"{local // pieces} fits: go on with t2i train --resume --accumulate {pieces}"
            return UserError(f"{line}; {fitting}, which keeps the batch of {span.batch}")
    return UserError(
        f"{line}, and no smaller one that divides the batches of its run fits; prepare at a lower --resolution, or "
        "train narrower networks"
    )


def may_resume(config: TrainConfig, pieces: int) -> bool:
    """Is --accumulate `pieces` taken by t2i train --resume? It must divide the batches of all stages."""
    try:
        check_together(dataclasses.replace(config, accumulate=pieces).check())
    except UsageError:
        return False
    return True


def fits(
    state: TrainingState,
    loader: BatchLoader,
    span: Span,
    images_seen: int,
    random: StepRandom,
    ranks: Ranks,
    pieces: int,
) -> bool:
    """Is there memory for the gradients of the step that begins at `images_seen`, in so many pieces?

    As the loop takes them, the phases' gradients side by side, but as a first step, which takes a lazy penalty too.
    """
    try:
        batch = loader.load(images_seen, span.batch)
        batch.images = real_at(batch.images, span.growth(images_seen))
        for phase in state.due:
            state.accumulate(phase, batch, pieces, 0, random, ranks, span.batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def release(state: TrainingState) -> None:
    """Give back what a step that failed still held."""
    for phase in state.phases:
        phase.optimizer.zero_grad(set_to_none=True)
    state.graphs = None
    state.objective.forget()
    # A backward pass that failed leaves what it had yet to do in its thread's queue, graph and all. The newest is done
    # first, and what belongs to a failed pass is dropped then: an old graph's pass empties the queue.
    torch.autograd.grad(_OLD, _OLDER, retain_graph=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
