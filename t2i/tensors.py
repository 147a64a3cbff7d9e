"""Named tensors in safetensors files, and their hash. No file is read that could run code."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from t2i.errors import UserError
from t2i.files import atomic_write, first_line


def save_tensors(path: Path | str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file, atomically. Raises UserError, one line."""
    data = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    with atomic_write(path) as stream:
        stream.write(data)


def load_tensors(path: Path | str) -> dict[str, torch.Tensor]:
    """Read a safetensors file onto the CPU. Raises UserError where it is none, OSError where it cannot be read."""
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: damaged, or no safetensors file ({first_line(error)})") from error


def hash_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and values, as 64 hexadecimal digits; no order or file layout changes it."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
