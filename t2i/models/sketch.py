"""What is to lie where, from text by a perceptron: a first sketch for the convolutions of a generator.

Modulation turns a channel up or down everywhere at once, so that what lies where is learned from text slowly. A
perceptron costs little beside convolutions, and learns it fast (docs/training.md has what was measured).
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from t2i.models.layers import EqualConv2d
from t2i.precision import at_least_fp32
from t2i.text.attention import Linear


class Sketch(nn.Module):
    """[B, S] -> [B, channels, side, side], by two hidden layers: no equalised learning rates, and GELU."""

    def __init__(self, styles: int, channels: int, side: int, hidden: int = 512, lr_multiplier: float = 1.0):
        super().__init__()
        self.shape = channels, side, side
        self.enter = Linear(styles, hidden, lr_multiplier=lr_multiplier)
        self.hidden = Linear(hidden, hidden, lr_multiplier=lr_multiplier)
        self.out = Linear(hidden, math.prod(self.shape), lr_multiplier=lr_multiplier)

    def forward(self, styles: Tensor) -> Tensor:
        x = F.gelu(self.hidden(F.gelu(self.enter(styles))))
        return self.out(x).unflatten(1, self.shape)


class Draft(nn.Module):
    """A first picture [B, 3, side, side] of styles [B, S], and a way for convolutions of each size to look at it.

    channels: those of the features at each size up to `side`.
    """

    def __init__(self, styles: int, side: int, hidden: int, channels: dict[int, int], lr_multiplier: float = 1.0):
        super().__init__()
        self.side = side
        self.sketch = Sketch(styles, 3, side, hidden, lr_multiplier)
        self.looks = nn.ModuleDict(
            {str(size): EqualConv2d(3 * (side // size) ** 2, width, 1) for size, width in channels.items()}
        )

    def forward(self, styles: Tensor) -> Tensor:
        return at_least_fp32(self.sketch(styles))

    def seen_at(self, size: int, picture: Tensor) -> Tensor:
        """The picture as features [B, C, size, size]; none of its pixels is lost."""
        return self.looks[str(size)](F.pixel_unshuffle(picture, self.side // size))

    def at(self, size: int, picture: Tensor) -> Tensor:
        """The picture at another size: [B, 3, size, size]."""
        if size < self.side:
            return F.adaptive_avg_pool2d(picture, size)
        return F.interpolate(picture, size=(size, size), mode="bilinear", align_corners=False)
