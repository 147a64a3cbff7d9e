"""A drawing should look to a frozen network as its caption's own picture does: edges, textures, what things are.

Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016, in the form of LPIPS
(Zhang et al. 2018, eq. 1) without its learned weights: at each place of each map the direction of the features counts,
not their size. It goes where the likeness of coarse colours cannot, and has the same limit: pictures of one caption
that differ are averaged, though by what they show and not by their pixels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i.precision import at_least_fp32


def perceptual_difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Maps [B, C_i, h_i, w_i] of two batches of pictures -> [B]: squared distance of the features' directions, in
    [0, 4], mean over the places of a map and over the maps."""
    scales = [(_direction(a) - _direction(b)).square().sum(1).mean((1, 2)) for a, b in zip(first, second, strict=True)]
    return torch.stack(scales).mean(0)


def _direction(features: Tensor) -> Tensor:
    return F.normalize(at_least_fp32(features), dim=1)
