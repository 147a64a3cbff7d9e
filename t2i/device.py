"""Choice of the device, and copies of tensors to it."""

import torch
from torch import Tensor

from t2i.errors import UsageError


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; auto takes CUDA, else Apple's MPS, else the CPU. Raises UsageError, one line."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # the copy back fails on the meta device
    except Exception as error:  # torch raises RuntimeError, AssertionError, NotImplementedError, by device
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        others = [other for other in ("auto", "cpu", "cuda", "mps") if other != name and there.get(other, True)]
        listed = " or ".join([", ".join(others[:-1]), others[-1]] if others[:-1] else others)
        raise UsageError(f"--device {name}: not available on this machine; try {listed}") from error
    return device


def has_quick_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 are the device's own: AVX-512 BF16 or AMX on a CPU, tensor cores on a GPU."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(test() for test in tests if test is not None)


def mixed_precision(device: torch.device) -> str:
    """The number format of --amp: bf16, fp16 on a GPU that only emulates bf16, fp32 where neither is quicker."""
    if has_quick_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


def make_current(device: torch.device) -> None:
    """Make a numbered GPU the current one: CUDA graphs and events belong to the current device."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def copies_in_background(device: torch.device | str) -> bool:
    """Whether copies to `device` may be asynchronous (non_blocking).

    Only CUDA keeps the source alive until it was read. On MPS a temporary source gives garbage without an error
    (pytorch/pytorch issue 189690); on a CPU nothing tells when the copy is complete.
    """
    return torch.device(device).type == "cuda"


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`; on CUDA without waiting for earlier work.

    An asynchronous copy from the CPU to CUDA needs pinned memory.
    """
    background = copies_in_background(device)
    if background and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=background)
