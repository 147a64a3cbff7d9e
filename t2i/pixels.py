"""Channels and shape of images, and how they are shown.

Networks work on squares. An image of another aspect is squeezed into a square when it is prepared, and gets its shape
back when it is shown. A transparent image is kept with its colours multiplied by alpha (Porter & Duff 1984), so that
pixels may be averaged, and laid on a background by a sum; it is shown with colours of their own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = {"rgb": 3, "rgba": 4, "grey": 1}
LONGEST = 4  # sides to each other
SHADES = 0.3  # twice how far the backgrounds of training reach from black, and from white


@dataclass(frozen=True)
class PixelFormat:
    """channels: a name of CHANNELS. aspect: width to height, as small whole numbers."""

    channels: str = "rgb"
    aspect: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        width, height = self.aspect
        whole = isinstance(width, int) and isinstance(height, int) and min(width, height) > 0
        if self.channels not in CHANNELS or not whole or max(width, height) > LONGEST * min(width, height):
            raise ValueError(
                f"no images have channels {self.channels!r:.20} and the aspect {width!r:.20}:{height!r:.20}"
            )

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "PixelFormat":
        """That of a description, which says what is not usual. Raises ValueError, TypeError."""
        width, height = facts.get("aspect", (1, 1))
        return cls(facts.get("channels", "rgb"), (width, height))

    def describe(self) -> dict[str, Any]:
        """What is not usual, JSON-able."""
        channels = {"channels": self.channels} if self.channels != "rgb" else {}
        return channels | ({"aspect": list(self.aspect)} if self.aspect != (1, 1) else {})

    @property
    def count(self) -> int:
        """Number of channels."""
        return CHANNELS[self.channels]

    @property
    def transparent(self) -> bool:
        return self.channels == "rgba"

    def size(self, resolution: int) -> tuple[int, int]:
        """Width and height of the shown image, px: its longer side has `resolution`."""
        width, height = self.aspect
        longer = max(width, height)
        return max(1, round(resolution * width / longer)), max(1, round(resolution * height / longer))

    def in_words(self, resolution: int) -> str:
        """ "64 px", "64 x 43 px, rgba"."""
        width, height = self.size(resolution)
        sides = f"{resolution} px" if width == height else f"{width} x {height} px"
        return sides if self.channels == "rgb" else f"{sides}, {self.channels}"


PLAIN_FORMAT = PixelFormat()


def parse_aspect(text: str) -> tuple[int, int]:
    """ "3:2" -> (3, 2). Raises ValueError."""
    width, height = (int(part) for part in text.split(":"))
    common = math.gcd(width, height) or 1
    return PixelFormat("rgb", (width // common, height // common)).aspect


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Pixels as they are kept, uint8 [..., C] -> uint8 [..., 3]: transparent ones on white."""
    match pixels.shape[-1]:
        case 1:
            return np.repeat(pixels, 3, axis=-1)
        case 4:
            background = 255 - pixels[..., 3:].astype(np.int16)
            return np.minimum(pixels[..., :3] + background, 255).astype(np.uint8)
    return pixels


def shown(pixels: "Tensor", form: PixelFormat) -> "Tensor":
    """Pixels as they are kept, uint8 [N, R, R, C] -> as a person sees them, uint8 [N, h, w, 3], [N, h, w, 4] where
    they are transparent. h, w: form.size(R)."""
    import torch

    if form == PLAIN_FORMAT:
        return pixels
    images = pixels.float()
    side = pixels.shape[1]
    width, height = form.size(side)
    if height < side:
        images = torch.einsum("hr,nrwc->nhwc", _squeeze(side, height).to(images.device), images)
    if width < side:
        images = torch.einsum("wr,nhrc->nhwc", _squeeze(side, width).to(images.device), images)
    if form.channels == "grey":
        images = images.expand(-1, -1, -1, 3)
    elif form.transparent:
        colours, alpha = images[..., :3], images[..., 3:]
        # What is hardly there has no colour: one that is divided by nearly nothing would be noise.
        colours = torch.where(alpha < 1, torch.zeros_like(colours), colours * 255 / alpha.clamp_min(1))
        images = torch.cat([colours, alpha], dim=-1)
    return images.clamp(0, 255).round().to(torch.uint8)


def _squeeze(side: int, length: int) -> "Tensor":
    """[length, side]: a side is made shorter by a triangle filter, as Pillow's BILINEAR does it."""
    import torch

    scale = side / length
    centres = (torch.arange(length) + 0.5) * scale
    distance = (torch.arange(side) + 0.5 - centres[:, None]).abs() / scale
    weights = (1 - distance).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)


def backgrounds(uniform: "Tensor") -> "Tensor":
    """Greys behind transparent images in training, of uniform numbers [B, 1] in [0, 1): nearly black or nearly white.

    On backgrounds of any colour a tint of what should be transparent passes for another background, and the noise ends
    in such tints. On black and white alone the discriminator sees the smallest tint, and wins before there are shapes.
    """
    return uniform * SHADES + (uniform >= 0.5) * (1 - SHADES)


def on_background(images: "Tensor", background: "Tensor") -> "Tensor":
    """Transparent images as networks draw them, [B, 4, R, R] about [-1, 1], on `background` [B, 3], or [B, 1] of a
    grey, 0 to 1 -> [B, 3, R, R] in [-1, 1]: beyond it, what lies on white would be whiter than white."""
    colours, alpha = images[:, :3], images[:, 3:]
    return (colours + background[:, :, None, None] * (1 - alpha)).clamp(-1, 1)
