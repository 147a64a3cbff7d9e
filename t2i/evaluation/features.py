"""Images to features: batches, resizing, and the network's name and hash as scores print them."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from t2i.models.features import VARIANTS, load_lite

Progress = Callable[[str, int, int | None], None]  # stage, done, total (None: not known)

RESIZE = "bicubic (a = -0.5), antialiased, clamped, not rounded"
# Small batches stay in the CPU's cache: at 260 px an image takes a fifth less time in a batch of 4 than of 16.
BATCH_CPU, BATCH_GPU = 4, 64


def silent(stage: str, done: int, total: int | None) -> None:
    """A Progress that reports nothing."""


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network that scores are computed with.

    name, sha256: of the network and of its weights. resolution: side of its input, px. width: D.
    forward: float pixel values in [0, 255], [B, 3, resolution, resolution], channels last -> [B, D].
    """

    name: str
    sha256: str
    resolution: int
    width: int
    forward: Callable[[Tensor], Tensor]
    device: torch.device

    @property
    def label(self) -> str:
        """Its name and the first digits of its hash, as scores print it."""
        return f"{self.name} {self.sha256[:8]}"

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, R, R, 3] -> float32 [N, D]."""
        out = np.empty((len(images), self.width), np.float32)
        batch = BATCH_CPU if self.device.type == "cpu" else BATCH_GPU
        with _exact(self.device):
            for start in range(0, len(images), batch):
                pixels = torch.from_numpy(images[start : start + batch])
                # MPS has no antialiased bicubic.
                pixels = resize(pixels.to("cpu" if self.device.type == "mps" else self.device), self.resolution)
                out[start : start + batch] = self.forward(pixels.to(self.device)).float().cpu().numpy()
        return out


def _exact(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Deterministic convolutions without TF32, which rounds to 10 bits, on CUDA."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


def resize(images: Tensor, resolution: int) -> Tensor:
    """uint8 [B, R, R, 3] -> float32 [B, 3, resolution, resolution] in [0, 255], channels last in memory.

    Bicubic with a = -0.5, antialiased when it shrinks: Pillow's BICUBIC without the rounding to integers (clean-fid,
    Parmar et al. 2022). Values beyond the range are clamped.
    """
    pixels = images.permute(0, 3, 1, 2).float()
    if pixels.shape[-1] != resolution:
        size = (resolution, resolution)
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
    return pixels.contiguous(memory_format=torch.channels_last)


def load_lite2(device: torch.device | str = "cpu") -> FeatureNetwork:
    """EfficientNet-Lite2, trained on ImageNet: pooled features, D = 1280. Raises UserError where it is absent."""
    network = load_lite("lite2", device)
    variant = VARIANTS["lite2"]
    return FeatureNetwork(
        "EfficientNet-Lite2", variant.sha256, variant.resolution, network.width, network, torch.device(device)
    )
