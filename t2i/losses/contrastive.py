"""Contrastive loss: which of the batch's captions belongs to an image?

The adversarial loss alone says little about which word meant what. The idea is DAMSM's (AttnGAN, Xu et al. 2018), for
both networks as in XMC-GAN (Zhang et al. 2021, sec. 4); the form is SigLIP's (Zhai et al. 2023, sec. 3.2): each pair of
an image and a caption is a binary question. No softmax runs over captions or images, so that a micro-batch, which knows
the captions of all but only its own images, adds its share of the whole.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.layers import Linear
from t2i.losses.base import DiscriminatorPass, GeneratorPass, Networks, Pass, Term
from t2i.precision import at_least_fp32
from t2i.setting_groups import setting

MAX_SCALE = 100.0  # CLIP, sec. 2.5: beyond it training is unstable


class PairLogit(nn.Module):
    """From the similarity of an image and a caption, in [-1, 1], to the logit that they belong together."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))  # SigLIP, algorithm 1
        # One pair in a batch belongs together: without this the first steps would only learn to say no.
        self.bias = nn.Parameter(torch.tensor(-4.0))

    @property
    def scale(self) -> Tensor:
        """What the similarity is multiplied with, at most MAX_SCALE."""
        with torch.no_grad():  # the parameter itself, as CLIP does: one that is clamped in the graph never comes back
            self.log_scale.clamp_(max=math.log(MAX_SCALE))
        return self.log_scale.exp()

    def logit(self, similarity: Tensor) -> Tensor:
        return similarity * self.scale + self.bias


class ContrastiveHead(PairLogit):
    """Projects both sides to unit vectors of one space; their products, scaled and shifted, are the logits of pairs.

    forward: features [B, C, h, w] or [B, C], and conditions [N, E] -> logits [B, N], at least float32.
    """

    def __init__(self, channels: int, condition: int, width: int = 128, lr_multiplier: float = 1.0):
        super().__init__()
        self.image = Linear(channels, width, lr_multiplier=lr_multiplier)
        self.text = Linear(condition, width, lr_multiplier=lr_multiplier)

    def forward(self, features: Tensor, conditions: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            features = at_least_fp32(features)
            image = self.image(features.flatten(2).mean(2) if features.ndim > 2 else features)
            text = self.text(at_least_fp32(conditions))
            return self.logit(F.normalize(image, dim=1) @ F.normalize(text, dim=1).T)


def contrastive_loss(logits: Tensor, own: Tensor | None = None, belongs: Tensor | None = None) -> Tensor:
    """Cross entropy of telling for each caption whether it is the image's, summed over the captions.

    logits: [B, N] of pairs. own: [B] int, which of the N captions belongs to each image; None: the first B in their
    order. belongs: [B, N] bool, captions that say what is in the image; beside its own they are neither right nor
    wrong. None: its own alone.
    Returns [B].
    """
    if own is None:
        own = torch.arange(len(logits), device=logits.device)
    right = own[:, None] == torch.arange(logits.shape[1], device=logits.device)  # [B, N]
    losses = F.softplus(torch.where(right, -logits, logits))
    if belongs is not None:
        losses = losses * (right | ~belongs)
    return losses.sum(1)


class Contrastive(Term):
    @dataclass(frozen=True)
    class Settings:
        weight: float = setting(
            0.0,
            "Weight of the contrastive loss between images and captions.",
            least=0,
            paper="Zhang et al. 2021; SigLIP: Zhai et al. 2023",
        )

    name = "contrastive"
    columns: ClassVar = {
        "contrastive_d": "Contrastive loss of the discriminator, on real images.",
        "contrastive_g": "Contrastive loss of the generator.",
    }
    needs_captions = True

    def __init__(self, settings: Any, networks: Networks, lr_multiplier: float = 1.0):
        super().__init__(settings, networks, lr_multiplier)
        channels, condition = networks.features.summary.shape[1], networks.discriminator.pooler.out_width
        self.module = self.head = ContrastiveHead(channels, condition, lr_multiplier=lr_multiplier)

    def discriminator(self, d: DiscriminatorPass) -> Tensor:
        return self._loss(d, "contrastive_d")

    def generator(self, g: GeneratorPass) -> Tensor:
        return self._loss(g, "contrastive_g")

    def _loss(self, seen: Pass, column: str) -> Tensor:
        losses = contrastive_loss(self.head(seen.features.summary, seen.conditions), seen.own, seen.batch.belongs)
        seen.log(column, losses)
        return self.weight * losses
