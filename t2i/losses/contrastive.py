"""The term that ties text to pictures beside the adversarial one: does a picture know its caption among the batch's?

The adversarial loss alone says little about which word meant what. The idea is DAMSM's (AttnGAN, Xu et al. 2018), for
both networks as in XMC-GAN (Zhang et al. 2021, sec. 4); the form is InfoNCE, from picture to caption, between pooled
features of the discriminator and its pooled text. From caption to picture it is not taken: a piece of a batch knows
the captions of all, but not the pictures, and the pieces' gradients are to be those of the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.precision import at_least_fp32

MAX_SCALE = 100.0  # CLIP, sec. 2.5: beyond it training is unstable


class ContrastiveHead(nn.Module):
    """Projects both sides to unit vectors of one space and holds the scale (1 / temperature) of their products.

    forward: features [B, C, h, w] or [B, C], and conditions [N, E] -> image vectors [B, width] and text vectors
    [N, width], at least float32.
    """

    def __init__(self, channels: int, condition: int, width: int = 128):
        super().__init__()
        self.image = nn.Linear(channels, width)
        self.text = nn.Linear(condition, width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def scale(self) -> Tensor:
        """What the products are multiplied with, at most MAX_SCALE."""
        return self.log_scale.clamp(max=math.log(MAX_SCALE)).exp()

    def forward(self, features: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(features.device.type, enabled=False):
            features = at_least_fp32(features)
            image = self.image(features.flatten(2).mean(2) if features.ndim > 2 else features)
            text = self.text(at_least_fp32(conditions))
        return F.normalize(image, dim=1), F.normalize(text, dim=1)


def contrastive_loss(
    image_vectors: Tensor,
    text_vectors: Tensor,
    scale: Tensor | float,
    own: Tensor | None = None,
    caption_ids: Tensor | None = None,
) -> Tensor:
    """Cross entropy of finding a picture's caption among N.

    image_vectors: [B, W], text_vectors: [N, W], unit length. scale: ContrastiveHead.scale.
    own: [B] int, the row of text_vectors that belongs to each picture; None: the first B in their order.
    caption_ids: [N] int; captions with the id of a picture's own are not among the wrong ones. None: all differ.
    Returns [B], at least float32; 0 for a picture without wrong captions, log(N) where nothing is known.
    """
    if own is None:
        own = torch.arange(len(image_vectors), device=image_vectors.device)
    with torch.autocast(image_vectors.device.type, enabled=False):
        logits = at_least_fp32(image_vectors) @ at_least_fp32(text_vectors).T * scale  # [B, N]
    if caption_ids is not None:
        same = caption_ids[own][:, None] == caption_ids
        same[torch.arange(len(own), device=own.device), own] = False
        logits = logits.masked_fill(same, float("-inf"))
    return F.cross_entropy(logits, own, reduction="none")
