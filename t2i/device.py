"""Which device to run on, and how tensors get there."""

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
        torch.zeros(1, device=device).cpu()  # meta would take it, and could not give it back
    except Exception as error:  # torch raises RuntimeError, AssertionError, NotImplementedError, by device
        raise UsageError(f"--device {name}: not to be had on this machine; try auto, cpu, cuda or mps") from error
    return device


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`, without waiting for the work that lies before it there.

    From the CPU, CUDA takes only pinned memory without waiting.
    """
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
