"""Exponential moving average of the generator's weights; everything that draws or is scored uses it."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class EMA(Generic[Network]):
    """Follows `model` with a half-life counted in images.

    beta = 0.5 ** (batch / half_life); the half-life is at most `ramp` times the images seen so far, so that a short
    run does not average over its first noise (Karras et al. 2020, training details; the ramp is StyleGAN2-ADA's). Those
    of the runs before count, where `model` begins as they left it: its average is no noise (StyleGAN2-ADA has no ramp
    then).
    """

    def __init__(self, model: Network, half_life: float, ramp: float = 0.05):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.half_life, self.ramp = half_life, ramp

    @torch.no_grad()
    def update(self, model: nn.Module, images_seen: int, batch: int) -> None:
        """Move towards `model` after a step of `batch` images; `images_seen` counts them in."""
        half_life = min(self.half_life, images_seen * self.ramp)
        beta = 0.5 ** (batch / max(half_life, 1e-8))
        averages, values = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_([a.data for a in averages], [v.data for v in values], 1 - beta)
        if buffers := list(self.model.buffers()):
            torch._foreach_copy_(buffers, list(model.buffers()))
