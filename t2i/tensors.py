"""Named tensors in safetensors files, which cannot run code, and their hash."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
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
    """Read a safetensors file onto the CPU. Raises UserError for another format, OSError where it cannot be read."""
    with _read(path):
        return safetensors.torch.load_file(path)


def tensors_in(content: bytes, path: Path | str) -> dict[str, torch.Tensor]:
    """The tensors in the content of a safetensors file. Raises UserError for another format."""
    with _read(path):
        return safetensors.torch.load(content)


@contextlib.contextmanager
def _read(path: Path | str) -> Iterator[None]:
    try:
        yield
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: damaged, or no safetensors file ({first_line(error)})") from error


def hash_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, shapes and values, as 64 hexadecimal digits; independent of order and file layout."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def noise_of_seed(seed: int, width: int) -> torch.Tensor:
    """[width]: the noise of torch.Generator().manual_seed(seed), which uses the low 32 bits of a seed.

    The 64 bits of a larger seed are hashed to 32.
    """
    if seed >= 2**32:
        seed = int.from_bytes(hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=4).digest(), "little")
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))
