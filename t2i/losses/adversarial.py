"""Adversarial losses on logits, each [B] -> [B]; the caller takes the mean.

real: of real images with their captions. fake: of generated images. mismatch: of real images with wrong captions.
generator: what the generator minimises. The last three also see the logit of the real image with its own caption.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PairLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AdversarialLoss:
    """relativistic: the generator's loss depends on the real image's logit."""

    name: str
    real: Callable[[Tensor], Tensor]
    fake: PairLoss
    mismatch: PairLoss
    generator: PairLoss
    relativistic: bool = False


# Lim & Ye 2017, Miyato et al. 2018; DF-GAN eq. 1.
HINGE = AdversarialLoss(
    "hinge",
    real=lambda real: F.relu(1 - real),
    fake=lambda fake, real: F.relu(1 + fake),
    mismatch=lambda wrong, real: F.relu(1 + wrong),
    generator=lambda fake, real: -fake,
)

# The non-saturating logistic loss of Goodfellow et al. 2014, as StyleGAN uses it.
LOGISTIC = AdversarialLoss(
    "logistic",
    real=lambda real: F.softplus(-real),
    fake=lambda fake, real: F.softplus(fake),
    mismatch=lambda wrong, real: F.softplus(wrong),
    generator=lambda fake, real: F.softplus(-fake),
)

# The Wasserstein critic of Gulrajani et al. 2017, with the drift term of Karras et al. 2018, sec. A.1. The penalty
# bounds the critic's slope between real and generated images, not between captions: a wrong caption costs a hinge on
# the difference to the right one, which is bounded below.
DRIFT = 1e-3
WASSERSTEIN = AdversarialLoss(
    "wgan-gp",
    real=lambda real: DRIFT * real.square() - real,
    fake=lambda fake, real: fake,
    mismatch=lambda wrong, real: F.relu(1 + wrong - real),
    generator=lambda fake, real: -fake,
)

# R3GAN (Huang et al. 2024): pairs of a real and a generated image of one caption.
RELATIVISTIC = AdversarialLoss(
    "relativistic",
    real=torch.zeros_like,
    fake=lambda fake, real: F.softplus(fake - real),
    mismatch=lambda wrong, real: F.softplus(wrong - real),
    generator=lambda fake, real: F.softplus(real - fake),
    relativistic=True,
)

LOSSES = {loss.name: loss for loss in (HINGE, LOGISTIC, WASSERSTEIN, RELATIVISTIC)}


def sum_heads(losses: Tensor, dimensions: int = 1) -> Tensor:
    """[B], or [B, heads] of a discriminator with several, summed over them -> [B]; with two dimensions, [B, K]."""
    return losses if losses.ndim == dimensions else losses.sum(-1)
