"""Progressive growing: Karras et al., "Progressive Growing of GANs", ICLR 2018, sec. 2.

A growing network works at one resolution at a time. While a new resolution fades in, the output is a blend of the old
resolution, upsampled, and the new one, with weight alpha; real images get the same blend.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from t2i.layers import downsample, upsample


class Growth(NamedTuple):
    """The stage of a growing network. alpha: weight of the newest resolution, in [0, 1].

    During the fade alpha may be a tensor, [] on the network's device.
    """

    resolution: int
    alpha: float | Tensor = 1.0

    @property
    def fades(self) -> bool:
        return isinstance(self.alpha, Tensor) or self.alpha < 1


def growth_at(value: Any, resolutions: Collection[int]) -> Growth:
    """The Growth of [resolution, alpha], as model folders store it, for a network with these resolutions.

    None: fully grown. Raises ValueError for anything else.
    """
    match value:
        case None:
            return Growth(max(resolutions))
        case [int(side), int() | float() as alpha] if side in resolutions and 0 <= alpha <= 1:
            if alpha == 1 or side // 2 in resolutions:
                return Growth(side, float(alpha))
    listed = ", ".join(map(str, resolutions))
    raise ValueError(f"growth is a resolution, one of {listed}, and an alpha of 0 to 1, not {value!r:.60}")


def blend(old: Tensor, new: Tensor, alpha: float | Tensor) -> Tensor:
    """(1 - alpha) old + alpha new."""
    return torch.lerp(old, new, alpha.to(new.dtype) if isinstance(alpha, Tensor) else alpha)


def real_at(images: Tensor, growth: Growth) -> Tensor:
    """Real images [B, 3, R, R] at the stage `growth`: [B, 3, r, r], with the same fade."""
    while images.shape[-1] > growth.resolution:
        images = downsample(images)
    if growth.fades:
        images = blend(upsample(downsample(images)), images, growth.alpha)
    return images


def enlarge(images: Tensor, resolution: int) -> Tensor:
    """Images [B, 3, r, r] of a network that is not fully grown -> [B, 3, resolution, resolution], pixels repeated."""
    while images.shape[-1] < resolution:
        images = upsample(images)
    return images
