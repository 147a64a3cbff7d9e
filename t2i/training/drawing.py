"""How a training step draws: which noise, how the generator is shaken, how pictures are augmented for the judge.

All numbers come from the step's StepRandom, by names, so that drawing once more with the same name gives the same
pictures.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from t2i.losses.augment import NUMBERS, augment, blur
from t2i.losses.likeness import FINER_SIDES, coarse_difference
from t2i.losses.noise import NoiseEncoder
from t2i.text.pooler import TextBatch
from t2i.training.randomness import StepRandom

ALL = slice(None)


class Noise(NamedTuple):
    """Noise to draw with, z [B, Z]; nats [B] that pictures tell by it, where they tell theirs."""

    z: Tensor
    nats: Tensor | None = None


class Drawer:
    """What the objective draws with.

    nearest_of: noises that a caption is drawn with where the generator learns; the drawing nearest to the caption's own
    picture is learned from (conditional IMLE: Li, Zhang & Malik 2019).
    noise_encoder: reads from a caption's own picture the noise that it is drawn with.
    noises_at_once: draw with all of them in one pass, as a GPU does in little more time; the training sets it.
    blur_sigma, blur_reach: of the blur over every picture that the discriminator sees, in pixels; the training sets
    them.
    """

    def __init__(
        self,
        generator: nn.Module,
        *,
        augments: tuple[str, ...] = (),
        nearest_of: int = 1,
        noise_encoder: NoiseEncoder | None = None,
    ):
        self.generator, self.augments = generator, augments
        self.nearest_of, self.noise_encoder = nearest_of, noise_encoder
        self.noises_at_once = False
        self.blur_sigma: float | Tensor = 0.0
        self.blur_reach = 0

    @property
    def networks(self) -> list[nn.Module]:
        """All that learns to draw."""
        return [network for network in (self.generator, self.noise_encoder) if network is not None]

    def draw(self, z: Tensor, text: TextBatch, random: StepRandom, name: str, rows: slice = ALL) -> Tensor:
        """Pictures of this noise and these texts, shaken with those rows of the numbers."""
        shaken = {}
        if count := getattr(self.generator, "training_noise", 0):
            shake = random.normal(f"{name} shake", count)[rows]
            shaken["shake"] = shake.repeat(len(z) // len(shake), 1)
        return self.generator(z, text, **shaken)

    def noise(self, random: StepRandom, name: str, rows: slice = ALL) -> Tensor:
        """Those rows of the numbers, [B, Z]."""
        return random.normal(f"{name} z", self.generator.z_dim)[rows]

    def noise_near(self, images: Tensor, text: TextBatch, random: StepRandom, name: str) -> Noise:
        """Noise for captions whose own pictures are these: with a noise encoder as they tell it, else the nearest of
        `nearest_of`."""
        z = self.noise(random, name)
        if self.noise_encoder is not None:
            with torch.no_grad():
                condition = self.generator.pool(text)
            forget_casts()
            return Noise(*self.noise_encoder(images, condition, z))
        if self.nearest_of == 1:
            return Noise(z)
        nearest = self._nearest(z, images, text, random, name)
        forget_casts()
        return Noise(nearest)

    @torch.no_grad()
    def _nearest(self, z: Tensor, images: Tensor, text: TextBatch, random: StepRandom, name: str) -> Tensor:
        more = (random.normal(f"{name} z {n}", self.generator.z_dim) for n in range(1, self.nearest_of))
        noises = torch.stack([z, *more])  # [K, B, Z]
        if self.noises_at_once:
            again = text[torch.arange(len(images), device=images.device).repeat(len(noises))]
            drawings = self.draw(noises.flatten(0, 1), again, random, name).unflatten(0, noises.shape[:2])
        else:
            drawings = (self.draw(z, text, random, name) for z in noises)
        distances = torch.stack([coarse_difference(drawing, images, FINER_SIDES) for drawing in drawings])  # [K, B]
        return noises[distances.argmin(0), torch.arange(len(images), device=images.device)]

    def augment(self, images: Tensor, random: StepRandom, name: str) -> Tensor:
        """As the discriminator sees them: blurred, then DiffAugment."""
        images = blur(images, self.blur_sigma, self.blur_reach)
        if not self.augments:
            return images
        return augment(images, random.uniform(f"{name} augment", NUMBERS), self.augments)


def forget_casts() -> None:
    """Have the caller's autocast round weights again after a pass without gradients.

    torch 2.10 keeps what it rounded there, which gradients do not lead through to the weights, for the passes that
    follow (pytorch/pytorch pull request 165068; 2.11 does not).
    """
    torch.clear_autocast_cache()
