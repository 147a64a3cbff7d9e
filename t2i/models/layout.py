"""Layout MLP: a coarse spatial map, computed from styles and text, that is added to a generator's features.

Modulation scales a channel at all positions alike, so positions are learned from text slowly. An MLP is cheap beside
convolutions and learns them fast (measured in docs/research-log/2026-11-27-recipes.md).
"""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from t2i.layers import Linear


def check_layout(resolution: int, sides: Sequence[int]) -> None:
    """Raises ValueError where a generator has no map of that resolution to add a layout to; 0 is none."""
    if resolution and resolution not in sides[1:]:
        raise ValueError(f"layout_mlp is one of 0, {', '.join(map(str, sides[1:]))}, not {resolution}")


class LayoutMLP(nn.Module):
    """[B, S] -> [B, channels, side, side]: two hidden layers with GELU, without equalised learning rates."""

    def __init__(self, styles: int, channels: int, side: int, hidden: int = 512, lr_multiplier: float = 1.0):
        super().__init__()
        self.shape = channels, side, side
        self.enter = Linear(styles, hidden, lr_multiplier=lr_multiplier)
        self.hidden = Linear(hidden, hidden, lr_multiplier=lr_multiplier)
        self.out = Linear(hidden, math.prod(self.shape), lr_multiplier=lr_multiplier)

    def forward(self, styles: Tensor) -> Tensor:
        x = F.gelu(self.hidden(F.gelu(self.enter(styles))))
        return self.out(x).unflatten(1, self.shape)
