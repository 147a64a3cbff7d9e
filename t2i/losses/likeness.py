"""A drawing should be like its caption's own picture, seen from afar: which colours lie where, nothing finer.

Where a caption all but says what the picture is (icons, products), the adversarial loss is a roundabout way to learn
it: right or wrong is one number a picture. A coarse difference says what is wrong where. Pictures of one caption that
differ coarsely are averaged by it, so its weight is small, and fine structure is left to the discriminator.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i.precision import at_least_fp32

SIDES = (8, 16)
FINER_SIDES = (8, 16, 32)  # where it is all that the generator learns by


def coarse_difference(first: Tensor, second: Tensor, sides: Sequence[int] = SIDES) -> Tensor:
    """Mean absolute difference of pictures [B, 3, R, R] averaged down to these sides (to R where that is less), mean
    over the sides: [B]."""
    difference = at_least_fp32(first) - at_least_fp32(second)
    sides = [min(side, difference.shape[-1]) for side in sides]
    scales = [F.adaptive_avg_pool2d(difference, side).abs().mean((1, 2, 3)) for side in sides]
    return torch.stack(scales).mean(0)
