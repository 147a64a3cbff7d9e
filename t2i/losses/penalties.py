"""Gradient penalties on the discriminator, each one number a sample.

They are computed on fp32 tensors whatever the precision of the rest: the double backward through half-precision sums is
where mixed-precision GANs blow up. On CUDA cuDNN's convolutions round what they multiply to TF32 (10 bits), torch's
default; they add up in fp32.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.convolution import inputs_only
from t2i.precision import at_least_fp32

PenaltyFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def matching_aware_penalty(logits: Tensor, images: Tensor, words: Tensor | None) -> Tensor:
    """MA-GP, DF-GAN eq. 4, without its weight: ||[grad_x D ; grad_e D]||^6, on real matching pairs.

    logits [B] were computed from images [B, C, R, R] and words [B, L, T], all in one graph. Returns [B]. e is the
    standardised tokens (or sentence vector), which no weight scales: of a pooled condition the gradient falls to
    nothing where the pooler's values grow and the head's weights shrink, and the logits stay as they are.

    It is (sum of squares)^3, not sqrt(sum of squares)^6: the root has no finite gradient at zero, and a discriminator
    that is flat there would turn into NaN.
    """
    assert words is not None
    grad_images, grad_words = _gradients(logits, images, words)
    squares = _squared_norm(grad_images) + _squared_norm(grad_words)
    return squares**3


def r1_penalty(logits: Tensor, images: Tensor, words: Tensor | None) -> Tensor:
    """R1, Mescheder et al. 2018 eq. 9, without its weight gamma: 1/2 ||grad_x D||^2, on real pairs. Returns [B]."""
    (grad_images,) = _gradients(logits, images)
    return 0.5 * _squared_norm(grad_images)


def wgan_gp_penalty(logits: Tensor, images: Tensor, words: Tensor | None) -> Tensor:
    """WGAN-GP, Gulrajani et al. 2017 eq. 3, without its weight lambda: (||grad_x D|| - 1)^2. Returns [B].

    It is taken on random points between real and generated images.
    """
    (grad_images,) = _gradients(logits, images)
    # The root has no finite gradient at zero; a critic that is flat there is pushed up all the same.
    return ((_squared_norm(grad_images) + 1e-12).sqrt() - 1).square()


def _gradients(logits: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    with inputs_only():
        return torch.autograd.grad(logits.sum(), inputs, create_graph=True)


def _squared_norm(gradient: Tensor) -> Tensor:
    return at_least_fp32(gradient).square().flatten(1).sum(1)


@dataclass(frozen=True)
class GradientPenalty:
    """A named penalty. between: taken on points between real and generated images, else on the real ones."""

    function: PenaltyFunction
    between: bool = False


PENALTIES = {
    "ma-gp": GradientPenalty(matching_aware_penalty),
    "r1": GradientPenalty(r1_penalty),
    "wgan-gp": GradientPenalty(wgan_gp_penalty, between=True),
    "none": None,
}


def default_weight(kind: str, resolution: int, batch: int) -> float:
    """The weight that a penalty is published with."""
    if kind == "r1":
        return 0.0002 * resolution**2 / batch  # the heuristic of StyleGAN2-ADA
    return 10.0 if kind == "wgan-gp" else 2.0  # WGAN-GP's lambda, DF-GAN's k
