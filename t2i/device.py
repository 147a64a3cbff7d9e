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
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        others = [other for other in ("auto", "cpu", "cuda", "mps") if other != name and there.get(other, True)]
        listed = " or ".join([", ".join(others[:-1]), others[-1]] if others[:-1] else others)
        raise UsageError(f"--device {name}: not to be had on this machine; try {listed}") from error
    return device


def make_current(device: torch.device) -> None:
    """Have CUDA graphs recorded and events noted on a GPU that is named by its number: the current one's they are."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def copies_in_background(device: torch.device | str) -> bool:
    """May a copy to `device` be under way when its call returns (non_blocking)?

    CUDA alone keeps the source until it was read. On MPS a source that is dropped meanwhile, as a temporary is, leaves
    garbage, and no error (pytorch/pytorch issue 189690); on a CPU nothing says when the copy is there.
    """
    return torch.device(device).type == "cuda"


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`; on CUDA without waiting for the work that lies before it there.

    From the CPU, CUDA takes only pinned memory without waiting.
    """
    background = copies_in_background(device)
    if background and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=background)
