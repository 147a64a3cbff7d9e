"""Number formats."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """fp16 and bf16 become fp32; fp32 and fp64 stay: for what must be summed or shown exactly."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
