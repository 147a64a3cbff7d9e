"""Reconstruction loss: a generated image has the coarse colours of its caption's own image.

Where a caption all but says what the image is (icons, products), the adversarial loss is a roundabout way to learn it:
right or wrong is one number an image. A coarse difference says what is wrong where. Images of one caption that differ
coarsely are averaged by it; fine structure is left to the discriminator.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i.config import setting
from t2i.losses.base import GeneratorPass, Term
from t2i.precision import at_least_fp32

RESOLUTIONS = (8, 16)
WARM_UP_RESOLUTIONS = (8, 16, 32)  # where it is the only loss


def coarse_difference(first: Tensor, second: Tensor, resolutions: Sequence[int] = RESOLUTIONS) -> Tensor:
    """Mean absolute difference of images [B, 3, R, R], area-averaged to each resolution (at most R), mean over these:
    [B]."""
    difference = at_least_fp32(first) - at_least_fp32(second)
    scales = [
        F.adaptive_avg_pool2d(difference, min(side, difference.shape[-1])).abs().mean((1, 2, 3)) for side in resolutions
    ]
    return torch.stack(scales).mean(0)


class Reconstruction(Term):
    @dataclass(frozen=True)
    class Settings:
        weight: float = setting(0.0, "Weight of the reconstruction loss.", least=0)

    name = "reconstruction"
    columns = ("reconstruction", "posterior_kl")

    def generator(self, g: GeneratorPass) -> Tensor:
        difference = coarse_difference(g.fakes, g.batch.images)
        g.log("reconstruction", difference)
        return difference if g.kl is None else difference + g.kl
