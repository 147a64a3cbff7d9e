"""Progressive growing: Karras et al., "Progressive Growing of GANs", ICLR 2018, sec. 2.

A network that grows works at one resolution at a time. While a new resolution fades in, its output is a blend of the
old resolution, upsampled, and the new one, with weight alpha; real pictures get the same blend.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from t2i.models.layers import downsample, upsample


class Growth(NamedTuple):
    """Where a growing network stands. alpha: weight of the newest resolution, in [0, 1].

    While it fades in, alpha may be a tensor, [] on the network's device.
    """

    resolution: int
    alpha: float | Tensor = 1.0

    @property
    def fades(self) -> bool:
        return isinstance(self.alpha, Tensor) or self.alpha < 1


def blend(old: Tensor, new: Tensor, alpha: float | Tensor) -> Tensor:
    """(1 - alpha) old + alpha new."""
    return torch.lerp(old, new, alpha.to(new.dtype) if isinstance(alpha, Tensor) else alpha)


def real_at(images: Tensor, growth: Growth) -> Tensor:
    """Real pictures [B, 3, R, R] as a network at `growth` would draw them: [B, 3, r, r], faded as it fades."""
    while images.shape[-1] > growth.resolution:
        images = downsample(images)
    if growth.fades:
        images = blend(upsample(downsample(images)), images, growth.alpha)
    return images


def set_growth(network: nn.Module, growth: Growth) -> None:
    """Put a network that grows at `growth`; one that does not is left alone."""
    if hasattr(network, "growth"):
        network.growth = growth


def enlarge(images: Tensor, resolution: int) -> Tensor:
    """Pictures [B, 3, r, r] of a network that has not grown up, at [B, 3, resolution, resolution], pixels repeated."""
    while images.shape[-1] < resolution:
        images = upsample(images)
    return images
