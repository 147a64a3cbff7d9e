"""Word-region alignment: each word of a caption looks for the region of the image that fits it best.

FILIP's late interaction (Yao et al. 2022, sec. 3.1), with a weight for each word, in the contrastive loss of
contrastive.py. Flipped hard negatives teach spatial words: an image flipped is wrong for a caption that says left or
right, above or below.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.data.spatial_words import FLIPS
from t2i.device import send
from t2i.errors import UsageError
from t2i.layers import Linear
from t2i.losses.base import DiscriminatorPass, GeneratorPass, Networks, Pass, Term
from t2i.losses.contrastive import PairLogit, contrastive_loss
from t2i.precision import at_least_fp32
from t2i.setting_groups import setting
from t2i.text.pooler import TextBatch

if TYPE_CHECKING:
    from t2i.config import TrainConfig

SHARPNESS = 20.0  # of the soft maximum over regions: the best counts, and those nearly as good learn too


class WordRegionHead(PairLogit):
    """channels: of regions [B, channels, side, side]. tokens: width of the words as the discriminator reads them.

    forward: regions and a TextBatch of N captions -> logits [B, N], at least float32.
    """

    def __init__(self, channels: int, tokens: int, side: int = 4, width: int = 64, lr_multiplier: float = 1.0):
        super().__init__()
        self.image = Linear(channels, width, lr_multiplier=lr_multiplier)
        self.position = nn.Parameter(torch.zeros(side * side, width))  # words such as "left" speak of the place itself
        self.text = Linear(tokens, width, lr_multiplier=lr_multiplier)
        self.importance = Linear(tokens, 1, bias=False, lr_multiplier=lr_multiplier)  # a bias would cancel

    def forward(self, regions: Tensor, text: TextBatch) -> Tensor:
        with torch.autocast(regions.device.type, enabled=False):
            places, words, importance = self._regions(regions), *self._words(text)
            alike = (places.flatten(0, 1) @ words.flatten(0, 1).T).unflatten(0, places.shape[:2])  # [B, P, N L]
            best = soft_maximum(alike).unflatten(1, importance.shape)  # [B, N, L]
            return self.logit((best * importance).sum(2))

    def pairs(self, regions: Tensor, text: TextBatch) -> Tensor:
        """Of B images and as many captions, each with its own: logits [B]."""
        with torch.autocast(regions.device.type, enabled=False):
            places, words, importance = self._regions(regions), *self._words(text)
            best = soft_maximum(places @ words.transpose(1, 2))  # [B, L]
            return self.logit((best * importance).sum(1))

    def _regions(self, regions: Tensor) -> Tensor:  # [B, C, h, w] -> [B, P, width]
        return F.normalize(self.image(at_least_fp32(regions).flatten(2).transpose(1, 2)) + self.position, dim=2)

    def _words(self, text: TextBatch) -> tuple[Tensor, Tensor]:  # -> [N, L, width], and [N, L], which sums to 1
        tokens = at_least_fp32(text.tokens)
        importance = self.importance(tokens)[..., 0].masked_fill(~text.mask, float("-inf")).softmax(1)
        return F.normalize(self.text(tokens), dim=2), importance


def soft_maximum(alike: Tensor) -> Tensor:
    """[B, P, ...] -> [B, ...]."""
    return (alike * SHARPNESS).logsumexp(1) / SHARPNESS


class WordRegion(Term):
    @dataclass(frozen=True)
    class Settings:
        weight: float = setting(
            0.0,
            "Weight of the contrastive loss of words and regions, with flipped hard negatives.",
            least=0,
            paper="FILIP: Yao et al. 2022",
        )

    name = "word_region"
    columns: ClassVar = {
        "word_region_d": "Word-region loss of the discriminator, on real images.",
        "word_region_g": "Word-region loss of the generator.",
        "flipped_negatives": "Loss on real images flipped against their caption; 0.69 is chance.",
    }
    needs_captions = True

    def __init__(self, settings: Any, networks: Networks, lr_multiplier: float = 1.0):
        super().__init__(settings, networks, lr_multiplier)
        _, channels, side, _ = networks.features.regions.shape
        width = networks.discriminator.pooler.read_width
        self.module = self.head = WordRegionHead(channels, width, side, lr_multiplier=lr_multiplier)

    @classmethod
    def check(cls, config: "TrainConfig") -> None:
        if "contrastive" not in config.terms:
            raise UsageError("loss.word_region needs the contrastive loss: give loss.contrastive a weight")

    def discriminator(self, d: DiscriminatorPass) -> Tensor:
        return self._loss(d, "word_region_d") + self._flipped_negatives(d)

    def generator(self, g: GeneratorPass) -> Tensor:
        return self._loss(g, "word_region_g")

    def _loss(self, seen: Pass, column: str) -> Tensor:
        losses = contrastive_loss(self.head(seen.features.regions, seen.tokens), seen.own, seen.batch.belongs)
        seen.log(column, losses)
        return self.weight * losses

    def _flipped_negatives(self, d: DiscriminatorPass) -> Tensor:
        """[B]: an image flipped does not belong to its caption, where that speaks of sides."""
        images, axes = d.images.detach(), d.batch.flip_axis
        found = torch.zeros(len(images), dtype=at_least_fp32(images).dtype, device=images.device)
        if not axes.any():
            return found
        assert d.tokens is not None
        rows = [send(torch.from_numpy(np.flatnonzero(axes == axis)), images.device) for axis in FLIPS]
        flipped = torch.cat([images[some].flip(axis) for some, axis in zip(rows, FLIPS)])
        where = torch.cat(rows)
        with d.autocast():
            regions = d.discriminator.features(flipped, d.plan.growth).regions
        losses = F.softplus(self.head.pairs(regions, d.tokens[d.rng.rows][where]))
        d.log("flipped_negatives", losses)
        return found.index_put((where,), self.weight * losses)
