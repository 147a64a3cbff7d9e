"""Which noise a caption is drawn with where the generator learns: the prior, the posterior, or the nearest of several.

When a prompt is drawn it is always the prior, standard normal noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from t2i.config import setting
from t2i.errors import UsageError
from t2i.losses.posterior import PosteriorEncoder
from t2i.losses.reconstruction import WARM_UP_RESOLUTIONS, coarse_difference
from t2i.models.base import Generator
from t2i.text.pooler import TextBatch
from t2i.training.randomness import StepRandom

if TYPE_CHECKING:
    from t2i.config import TrainConfig

Draw = Callable[[Tensor, TextBatch], Tensor]  # noise [B, Z] and captions -> images


class Latent(NamedTuple):
    """Noise z [B, Z], and what the posterior that it comes from costs, [B]."""

    z: Tensor
    kl: Tensor | None = None


class LatentSampler:
    """The prior. module: what it trains in the generator's phase, or None."""

    name: ClassVar[str] = "prior"
    module: nn.Module | None = None

    def sample(self, images: Tensor, text: TextBatch, z: Tensor, rng: StepRandom, draw: Draw) -> Latent:
        """Noise for captions whose own images these are. z: [B, Z], standard normal. draw: see Draw."""
        return Latent(z)

    @classmethod
    def check(cls, config: "TrainConfig") -> None:
        """Raises UsageError, one line, where it does not go with the other settings."""


class Imle(LatentSampler):
    """Of k noises the one whose drawing is nearest to the caption's image (conditional IMLE: Li et al. 2019)."""

    @dataclass(frozen=True)
    class Settings:
        latents: int = setting(1, "Noises that a caption is drawn with; the nearest drawing is learned from.",
                               least=1, most=100)  # fmt: skip

    name = "imle"

    def __init__(self, settings: Any, generator: Generator, lr_multiplier: float):
        self.latents, self.z_dim = settings.latents, generator.z_dim

    @torch.no_grad()
    def sample(self, images: Tensor, text: TextBatch, z: Tensor, rng: StepRandom, draw: Draw) -> Latent:
        more = (rng.normal(f"G z {n}", self.z_dim) for n in range(1, self.latents))
        noises = torch.stack([z, *more])  # [K, B, Z]
        distances = torch.stack([coarse_difference(draw(z, text), images, WARM_UP_RESOLUTIONS) for z in noises])
        nearest = noises[distances.argmin(0), torch.arange(len(images), device=images.device)]
        clear_autocast()
        return Latent(nearest)


class Posterior(LatentSampler):
    """As the caption's image tells it; weight: of the KL divergence beside a reconstruction loss of weight 1."""

    @dataclass(frozen=True)
    class Settings:
        weight: float = setting(0.0, "Weight of the posterior's KL divergence.", least=0)

    name = "posterior"

    def __init__(self, settings: Any, generator: Generator, lr_multiplier: float):
        self.weight, self.generator = settings.weight, generator
        self.module = self.encoder = PosteriorEncoder(
            generator.pooler.out_width, generator.z_dim, lr_multiplier=lr_multiplier
        )

    @classmethod
    def check(cls, config: "TrainConfig") -> None:
        if "imle" in config.terms:
            raise UsageError("loss.posterior and loss.imle do not go together: each chooses the noise")
        if "reconstruction" not in config.terms:
            raise UsageError("loss.posterior needs the reconstruction loss: give loss.reconstruction a weight")

    def sample(self, images: Tensor, text: TextBatch, z: Tensor, rng: StepRandom, draw: Draw) -> Latent:
        with torch.no_grad():
            condition = self.generator.pool(text)
        clear_autocast()
        z, kl = self.encoder(images, condition, z)
        return Latent(z, self.weight * kl)


SAMPLERS: dict[str, Any] = {sampler.name: sampler for sampler in (Imle, Posterior)}


def clear_autocast() -> None:
    """Have the caller's autocast round weights again after a pass without gradients.

    torch 2.10 keeps what it rounded there, which gradients do not lead through to the weights, for the passes that
    follow (pytorch/pytorch pull request 165068; 2.11 does not).
    """
    torch.clear_autocast_cache()
