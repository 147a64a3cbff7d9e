"""The term that ties words to pictures beside the adversarial one: does a picture know its caption among the batch's?

The adversarial loss alone says little about which word meant what. Here words look for their place in the picture, as
in DAMSM (AttnGAN, Xu et al. 2018) and FILIP (Yao et al. 2022, sec. 3.1), for both networks as in XMC-GAN (Zhang et al.
2021, sec. 4); the form of the loss is SigLIP's (Zhai et al. 2023, sec. 3.2): each pair of a picture and a caption is a
question of its own, answered by a sigmoid. No softmax runs over captions or pictures, so that a piece of a batch, which
knows the captions of all but only its own pictures, adds its share of the whole.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.precision import at_least_fp32
from t2i.text.pooler import TextBatch

MAX_SCALE = 100.0  # CLIP, sec. 2.5: beyond it training is unstable
SHARPNESS = 20.0  # of the soft maximum over regions: the best counts, and those nearly as good learn too


class ContrastiveHead(nn.Module):
    """Regions and words as unit vectors of one space; each word counts by its best region, a caption by its words.

    channels: of the regions, [B, channels, side, side]. tokens: width of the words as the discriminator reads them.
    forward: regions and a TextBatch of N captions -> logits [B, N], at least float32.
    """

    def __init__(self, channels: int, tokens: int, side: int = 4, width: int = 64):
        super().__init__()
        self.image = nn.Linear(channels, width)
        self.place = nn.Parameter(torch.zeros(side * side, width))  # words such as "left" speak of the region itself
        self.text = nn.Linear(tokens, width)
        self.importance = nn.Linear(tokens, 1, bias=False)  # one would cancel in the softmax
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))  # SigLIP, algorithm 1
        # One pair in a batch belongs together: without this the first steps would only learn to say no.
        self.bias = nn.Parameter(torch.tensor(-4.0))

    @property
    def scale(self) -> Tensor:
        """What the products are multiplied with, at most MAX_SCALE."""
        return self.log_scale.clamp(max=math.log(MAX_SCALE)).exp()

    def forward(self, regions: Tensor, text: TextBatch) -> Tensor:
        with torch.autocast(regions.device.type, enabled=False):
            places, words, importance = self._places(regions), *self._words(text)
            alike = (places.flatten(0, 1) @ words.flatten(0, 1).T).unflatten(0, places.shape[:2])  # [B, P, N L]
            best = soft_maximum(alike).unflatten(1, importance.shape)  # [B, N, L]
            return (best * importance).sum(2) * self.scale + self.bias

    def pairs(self, regions: Tensor, text: TextBatch) -> Tensor:
        """Of B pictures and as many captions, each with its own: logits [B]."""
        with torch.autocast(regions.device.type, enabled=False):
            places, words, importance = self._places(regions), *self._words(text)
            best = soft_maximum(places @ words.transpose(1, 2))  # [B, L]
            return (best * importance).sum(1) * self.scale + self.bias

    def _places(self, regions: Tensor) -> Tensor:  # [B, C, h, w] -> [B, P, width]
        return F.normalize(self.image(at_least_fp32(regions).flatten(2).transpose(1, 2)) + self.place, dim=2)

    def _words(self, text: TextBatch) -> tuple[Tensor, Tensor]:  # -> [N, L, width], and [N, L], which sums to 1
        tokens = at_least_fp32(text.tokens)
        importance = self.importance(tokens)[..., 0].masked_fill(~text.mask, float("-inf")).softmax(1)
        return F.normalize(self.text(tokens), dim=2), importance


def soft_maximum(alike: Tensor) -> Tensor:
    """[B, P, ...] -> [B, ...]."""
    return (alike * SHARPNESS).logsumexp(1) / SHARPNESS


def contrastive_loss(logits: Tensor, own: Tensor | None = None, caption_ids: Tensor | None = None) -> Tensor:
    """Cross entropy of telling for each caption whether it is the picture's, summed over the captions.

    logits: [B, N] of a ContrastiveHead. own: [B] int, which of the N captions belongs to each picture; None: the first
    B in their order. caption_ids: [N] int; captions with the id of a picture's own are no wrong ones. None: all differ.
    Returns [B].
    """
    if own is None:
        own = torch.arange(len(logits), device=logits.device)
    right = F.one_hot(own, logits.shape[1]).bool()  # [B, N]
    losses = F.softplus(torch.where(right, -logits, logits))
    if caption_ids is not None:
        same = caption_ids[own][:, None] == caption_ids
        losses = losses * (right | ~same)
    return losses.sum(1)
