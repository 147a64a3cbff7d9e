"""The terms that tie words to pictures beside the adversarial one: does a picture know its caption among the batch's?

The adversarial loss alone says little about which word meant what. The idea is DAMSM's (AttnGAN, Xu et al. 2018), for
both networks as in XMC-GAN (Zhang et al. 2021, sec. 4); the form is SigLIP's (Zhai et al. 2023, sec. 3.2): each pair of
a picture and a caption is a question of its own, answered by a sigmoid. No softmax runs over captions or pictures, so
that a piece of a batch, which knows the captions of all but only its own pictures, adds its share of the whole.

ContrastiveHead compares pictures and captions as wholes, PlacesHead each word with each place of the picture.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.precision import at_least_fp32
from t2i.text.attention import Linear
from t2i.text.pooler import TextBatch

MAX_SCALE = 100.0  # CLIP, sec. 2.5: beyond it training is unstable
SHARPNESS = 20.0  # of the soft maximum over places: the best counts, and those nearly as good learn too


class Similarity(nn.Module):
    """From the similarity of a picture and a caption, in [-1, 1], to the logit that they belong together."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))  # SigLIP, algorithm 1
        # One pair in a batch belongs together: without this the first steps would only learn to say no.
        self.bias = nn.Parameter(torch.tensor(-4.0))

    @property
    def scale(self) -> Tensor:
        """What the similarity is multiplied with, at most MAX_SCALE."""
        with torch.no_grad():  # the parameter itself, as CLIP does: one that is cut on its way never comes back
            self.log_scale.clamp_(max=math.log(MAX_SCALE))
        return self.log_scale.exp()

    def verdict(self, similarity: Tensor) -> Tensor:
        return similarity * self.scale + self.bias


class ContrastiveHead(Similarity):
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
            return self.verdict(F.normalize(image, dim=1) @ F.normalize(text, dim=1).T)


class PlacesHead(Similarity):
    """Words look for their place: each counts by the place that suits it best, a caption by its words.

    FILIP's late interaction (Yao et al. 2022, sec. 3.1), with a weight for each word.

    channels: of regions [B, channels, side, side]. tokens: width of the words as the discriminator reads them.
    forward: regions and a TextBatch of N captions -> logits [B, N], at least float32.
    """

    def __init__(self, channels: int, tokens: int, side: int = 4, width: int = 64, lr_multiplier: float = 1.0):
        super().__init__()
        self.image = Linear(channels, width, lr_multiplier=lr_multiplier)
        self.place = nn.Parameter(torch.zeros(side * side, width))  # words such as "left" speak of the place itself
        self.text = Linear(tokens, width, lr_multiplier=lr_multiplier)
        self.importance = Linear(tokens, 1, bias=False, lr_multiplier=lr_multiplier)  # a bias would cancel

    def forward(self, regions: Tensor, text: TextBatch) -> Tensor:
        with torch.autocast(regions.device.type, enabled=False):
            places, words, importance = self._places(regions), *self._words(text)
            alike = (places.flatten(0, 1) @ words.flatten(0, 1).T).unflatten(0, places.shape[:2])  # [B, P, N L]
            best = soft_maximum(alike).unflatten(1, importance.shape)  # [B, N, L]
            return self.verdict((best * importance).sum(2))

    def pairs(self, regions: Tensor, text: TextBatch) -> Tensor:
        """Of B pictures and as many captions, each with its own: logits [B]."""
        with torch.autocast(regions.device.type, enabled=False):
            places, words, importance = self._places(regions), *self._words(text)
            best = soft_maximum(places @ words.transpose(1, 2))  # [B, L]
            return self.verdict((best * importance).sum(1))

    def _places(self, regions: Tensor) -> Tensor:  # [B, C, h, w] -> [B, P, width]
        return F.normalize(self.image(at_least_fp32(regions).flatten(2).transpose(1, 2)) + self.place, dim=2)

    def _words(self, text: TextBatch) -> tuple[Tensor, Tensor]:  # -> [N, L, width], and [N, L], which sums to 1
        tokens = at_least_fp32(text.tokens)
        importance = self.importance(tokens)[..., 0].masked_fill(~text.mask, float("-inf")).softmax(1)
        return F.normalize(self.text(tokens), dim=2), importance


def soft_maximum(alike: Tensor) -> Tensor:
    """[B, P, ...] -> [B, ...]."""
    return (alike * SHARPNESS).logsumexp(1) / SHARPNESS


def contrastive_loss(logits: Tensor, own: Tensor | None = None, belongs: Tensor | None = None) -> Tensor:
    """Cross entropy of telling for each caption whether it is the picture's, summed over the captions.

    logits: [B, N] of a ContrastiveHead. own: [B] int, which of the N captions belongs to each picture; None: the first
    B in their order. belongs: [B, N] bool, captions that say what is in the picture; beside its own they are neither
    right nor wrong. None: its own alone.
    Returns [B].
    """
    if own is None:
        own = torch.arange(len(logits), device=logits.device)
    right = own[:, None] == torch.arange(logits.shape[1], device=logits.device)  # [B, N]
    losses = F.softplus(torch.where(right, -logits, logits))
    if belongs is not None:
        losses = losses * (right | ~belongs)
    return losses.sum(1)
