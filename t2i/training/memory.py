"""Memory: how much is in use, and what to do where it ran out."""

import ctypes
import gc
import sys
from pathlib import Path

import torch

from t2i.errors import UserError, is_out_of_memory
from t2i.models import get_architecture
from t2i.training.distributed import Ranks
from t2i.training.growth import Span
from t2i.training.loading import BatchLoader
from t2i.training.randomness import StepRandom
from t2i.training.state import TrainingState

# Of glibc's malloc.h, and what train() sets them to, in bytes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT, MAPPED = 1 << 30, 1 << 25

# A graph older than any of a training.
_OLDER = torch.zeros((), requires_grad=True)
_OLD = _OLDER * 1


def memory_gib(device: torch.device) -> float:
    """Memory in use: the device's peak on CUDA, else this process's, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 2**30
    except (OSError, ValueError, IndexError):
        import resource

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
    group = get_architecture(state.config.arch).group
    release(state)
    for pieces in range(state.config.accumulate + 1, local + 1):
        if local % pieces or local // pieces % group:
            continue
        try:
            batch = loader.load(images_seen, span.batch)[: local // pieces]
            for phase in state.due:
                numbers = random.take(slice(0, local // pieces))
                state.objective.accumulate_gradients(phase, batch, 1 / pieces, 0, numbers)
                phase.optimizer.zero_grad(set_to_none=True)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            release(state)
        else:
            release(state)
            fits = f"{local // pieces} fits: go on with t2i train --resume --accumulate {pieces}"
            return UserError(f"{line}; {fits}, which keeps the batch of {span.batch}")
    return UserError(f"{line}, and no smaller one fits; prepare at a lower --resolution, or train narrower networks")


def release(state: TrainingState) -> None:
    """Give back what a step that failed still held."""
    for phase in state.phases:
        phase.optimizer.zero_grad(set_to_none=True)
    state.graphs = None
    # A backward pass that failed leaves what it had yet to do in its thread's queue, graph and all. The newest is done
    # first, and what belongs to a failed pass is dropped then: an old graph's pass empties the queue.
    torch.autograd.grad(_OLD, _OLDER, retain_graph=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
