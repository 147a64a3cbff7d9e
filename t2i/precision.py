"""Number formats of sums and of output pixels."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """fp16 and bf16 become fp32; fp32 and fp64 stay: for sums and output pixels."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def to_pixels(images: Tensor) -> Tensor:
    """[B, C, R, R], about [-1, 1] -> uint8 [B, R, R, C] on the CPU, clamped and rounded."""
    pixels = images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().contiguous()
