"""Diversity loss: two noises of one caption should give two images.

Yang et al., "Diversity-Sensitive Conditional GANs", ICLR 2019. A discriminator sees one image a caption, and has
nothing against a generator that draws it for every noise.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.config import setting
from t2i.losses.base import GeneratorPass, Term
from t2i.precision import at_least_fp32

LIMIT = 0.3  # of the difference that is rewarded, in pixel values of [-1, 1]: beyond it images only have to look real
REDRAWN = 4  # one image in so many is drawn a second time


def diversity(first: Tensor, second: Tensor) -> Tensor:
    """How much images [B, 3, R, R] of the same captions differ: [B], the mean absolute difference, at most LIMIT.

    Eq. 2 of the paper without its division by the distance of the noises, which in many dimensions is all but the same
    for every pair.
    """
    return (at_least_fp32(first) - at_least_fp32(second)).abs().mean((1, 2, 3)).clamp(max=LIMIT)


class Diversity(Term):
    """Rewards the generator: every REDRAWN-th image of the whole batch stands for those without."""

    @dataclass(frozen=True)
    class Settings:
        weight: float = setting(0.0, "Weight of the diversity reward.", least=0)

    name = "diversity"
    columns = ("diversity_within",)

    def generator(self, g: GeneratorPass) -> Tensor | None:
        found = torch.zeros_like(g.fakes[:, 0, 0, 0], dtype=at_least_fp32(g.fakes).dtype)
        rows = slice(-g.rng.rows.start % REDRAWN, None, REDRAWN)
        if rows.start < len(g.fakes):
            with g.autocast():
                z = g.rng.normal("G other z", g.generator.z_dim)[rows]
                others = g.draw(z, g.text[rows], "G other", rows)
            difference = diversity(g.fakes[rows], others)
            g.log("diversity_within", difference)
            stands_for = g.rng.batch / math.ceil(g.rng.batch / REDRAWN)
            found[rows] = -stands_for * difference
        return found
