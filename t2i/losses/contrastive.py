"""The term that ties text to pictures beside the adversarial one: does a picture know its caption among the batch's?

The adversarial loss alone says little about which word meant what. The idea is DAMSM's (AttnGAN, Xu et al. 2018), for
both networks as in XMC-GAN (Zhang et al. 2021, sec. 4); the form is SigLIP's (Zhai et al. 2023, sec. 3.2): each pair of
a picture and a caption is a question of its own, answered by a sigmoid. No softmax runs over captions or pictures, so
that a piece of a batch, which knows the captions of all but only its own pictures, adds its share of the whole.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.precision import at_least_fp32

MAX_SCALE = 100.0  # CLIP, sec. 2.5: beyond it training is unstable


class ContrastiveHead(nn.Module):
    """Projects both sides to unit vectors of one space; their products, scaled and shifted, are the logits of pairs.

    forward: features [B, C, h, w] or [B, C], and conditions [N, E] -> logits [B, N], at least float32.
    """

    def __init__(self, channels: int, condition: int, width: int = 128):
        super().__init__()
        self.image = nn.Linear(channels, width)
        self.text = nn.Linear(condition, width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))  # SigLIP, algorithm 1
        # One pair in a batch belongs together: without this the first steps would only learn to say no.
        self.bias = nn.Parameter(torch.tensor(-4.0))

    @property
    def scale(self) -> Tensor:
        """What the products are multiplied with, at most MAX_SCALE."""
        return self.log_scale.clamp(max=math.log(MAX_SCALE)).exp()

    def forward(self, features: Tensor, conditions: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            features = at_least_fp32(features)
            image = self.image(features.flatten(2).mean(2) if features.ndim > 2 else features)
            text = self.text(at_least_fp32(conditions))
            return F.normalize(image, dim=1) @ F.normalize(text, dim=1).T * self.scale + self.bias


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
