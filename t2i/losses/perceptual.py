"""Perceptual loss: to the discriminator's frozen backbone a generated image looks as its caption's own image does.

Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016, in the form of LPIPS
(Zhang et al. 2018, eq. 1) without its learned weights: at each place of each map the direction of the features counts,
not their size. Images of one caption that differ are averaged, though by what they show and not by their pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i.config import setting
from t2i.errors import UsageError
from t2i.losses.base import GeneratorPass, Term
from t2i.precision import at_least_fp32

if TYPE_CHECKING:
    from t2i.config import TrainConfig


def perceptual_difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Maps [B, C_i, h_i, w_i] of two batches of images -> [B]: squared distance of the features' directions, in
    [0, 4], mean over the places of a map and over the maps."""
    scales = [(_direction(a) - _direction(b)).square().sum(1).mean((1, 2)) for a, b in zip(first, second, strict=True)]
    return torch.stack(scales).mean(0)


def _direction(features: Tensor) -> Tensor:
    return F.normalize(at_least_fp32(features), dim=1)


class Perceptual(Term):
    @dataclass(frozen=True)
    class Settings:
        weight: float = setting(0.0, "Weight of the perceptual loss; it needs the projected discriminator.", least=0)

    name = "perceptual"
    columns = ("perceptual",)
    pairs_images = True

    @classmethod
    def check(cls, config: "TrainConfig") -> None:
        if config.discriminator_kind != "projected":
            raise UsageError(
                "loss.perceptual compares features of a frozen backbone: it needs [model.discriminator] kind = "
                '"projected"'
            )

    def generator(self, g: GeneratorPass) -> Tensor:
        difference = perceptual_difference(g.maps, g.real_maps())
        g.log("perceptual", difference)
        return difference
