"""Memory: how much is in use, and what to do where it ran out."""

import contextlib
import math
import re
from pathlib import Path

import torch

from t2i.config import TrainConfig
from t2i.errors import UsageError, UserError
from t2i.training.distributed import Ranks
from t2i.training.schedule import StepPlan
from t2i.training.tables import check_together


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
