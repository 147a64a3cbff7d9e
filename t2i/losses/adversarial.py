"""Adversarial losses on logits, each [B] -> [B]; the caller takes the mean.

`real` scores a discriminator on matching real pairs, `fake` on generated or mismatched ones, `generator` scores the
generator on its own images.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

PairLoss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AdversarialLoss:
    name: str
    real: PairLoss
    fake: PairLoss
    generator: PairLoss


# Lim & Ye 2017, Miyato et al. 2018; DF-GAN eq. 1.
HINGE = AdversarialLoss("hinge", real=lambda d: F.relu(1 - d), fake=lambda d: F.relu(1 + d), generator=lambda d: -d)

# The non-saturating logistic loss of Goodfellow et al. 2014, as StyleGAN uses it.
LOGISTIC = AdversarialLoss(
    "logistic", real=lambda d: F.softplus(-d), fake=lambda d: F.softplus(d), generator=lambda d: F.softplus(-d)
)

# The Wasserstein critic of Gulrajani et al. 2017, with the drift term of Karras et al. 2018, sec. A.1.
DRIFT = 1e-3
WASSERSTEIN = AdversarialLoss(
    "wgan-gp", real=lambda d: DRIFT * d.square() - d, fake=lambda d: d, generator=lambda d: -d
)

LOSSES = {loss.name: loss for loss in (HINGE, LOGISTIC, WASSERSTEIN)}


def sum_heads(losses: Tensor, dimensions: int = 1) -> Tensor:
    """[B], or [B, heads] of a discriminator with several, summed over them -> [B]; with two dimensions, [B, K]."""
    return losses if losses.ndim == dimensions else losses.sum(-1)
