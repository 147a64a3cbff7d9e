"""Memory: how much is in use, and what to do where it ran out."""

import contextlib
import ctypes
import math
import re
import sys
from pathlib import Path

import torch

from t2i.config import TrainConfig
from t2i.errors import UsageError, UserError
from t2i.training.distributed import Ranks
from t2i.training.schedule import StepPlan
from t2i.training.tables import check_together

# Of glibc's malloc.h, and what train() sets them to, in bytes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT, MAPPED = 1 << 30, 1 << 25


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


def out_of_memory(config: TrainConfig, plan: StepPlan, ranks: Ranks) -> UserError:
    """The line for the user: the --accumulate that halves the micro-batch and keeps the batch.

    The batch is never changed silently.
    """
    local = plan.batch // ranks.size
    size = local // config.optim.accumulate
    line = f"out of memory with a micro-batch of {size} at {plan.growth.resolution} px"
    for pieces in range(2 * config.optim.accumulate, local + 1):
        if may_resume(config, pieces, ranks.size):
            smaller = f"t2i train --resume --accumulate {pieces} halves it to {local // pieces}"
            if pieces > 2 * config.optim.accumulate:
                smaller = f"t2i train --resume --accumulate {pieces} makes it {local // pieces}"
            return UserError(f"{line}; {smaller} and keeps the batch of {plan.batch}")
    return UserError(
        f"{line}, and no smaller one divides the batches of this run; prepare at a lower --resolution, or train "
        "narrower networks"
    )


def may_resume(config: TrainConfig, pieces: int, ranks: int) -> bool:
    """Is --accumulate `pieces` taken by t2i train --resume? It must divide the batches of all stages."""
    try:
        check_together(config.changed(optim__accumulate=pieces), ranks)
    except UsageError:
        return False
    return True
