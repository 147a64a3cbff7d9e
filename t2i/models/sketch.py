"""What is to lie where, from text by a perceptron: a first sketch for the convolutions of a generator.

Modulation turns a channel up or down everywhere at once, so that what lies where is learned from text slowly. A
perceptron costs little beside convolutions, and learns it fast (docs/training.md has what was measured).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.models.layers import EqualConv2d
from t2i.precision import at_least_fp32
from t2i.text.attention import Linear
from t2i.text.pooler import AttentionPooler, SentencePooler, TextBatch


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
    """A first picture [B, 3, side, side] of noise and text, and a way for convolutions of each size to look at it.

    It reads text by a pooler of its own: what a discriminator teaches the rest of the generator's reading would undo
    what likeness taught it. It draws from [B, width]: the noise and the pooled text.
    channels: those of the features at each size up to `side`.
    """

    def __init__(
        self,
        z_dim: int,
        pooler: AttentionPooler | SentencePooler,
        side: int,
        hidden: int,
        channels: dict[int, int],
        lr_multiplier: float = 1.0,
    ):
        super().__init__()
        self.side, self.pooler, self.width = side, pooler, z_dim + pooler.out_width
        self.sketch = Sketch(self.width, 3, side, hidden, lr_multiplier)
        self.looks = nn.ModuleDict(
            {str(size): EqualConv2d(3 * (side // size) ** 2, width, 1) for size, width in channels.items()}
        )

    def forward(self, said: Tensor) -> Tensor:
        return at_least_fp32(self.sketch(said))

    def of(self, noises: Tensor, text: TextBatch) -> Tensor:
        """[K, B, Z] and a TextBatch -> [K, B, 3, side, side]."""
        condition = at_least_fp32(self.pooler(text)).expand(len(noises), -1, -1)
        return self(torch.cat([noises, condition], dim=2).flatten(0, 1)).unflatten(0, noises.shape[:2])

    def seen_at(self, size: int, picture: Tensor) -> Tensor:
        """The picture as features [B, C, size, size]; none of its pixels is lost."""
        return self.looks[str(size)](F.pixel_unshuffle(picture, self.side // size))

    def at(self, size: int, picture: Tensor) -> Tensor:
        """The picture at another size: [B, 3, size, size]."""
        if size < self.side:
            return F.adaptive_avg_pool2d(picture, size)
        return F.interpolate(picture, size=(size, size), mode="bilinear", align_corners=False)
