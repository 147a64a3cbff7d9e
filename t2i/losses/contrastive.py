"""The term that ties text to pictures beside the adversarial one: does a picture know its caption in a small group?

An encoder trained from scratch needs it: the adversarial loss alone says little about which word meant what. The idea
is DAMSM's (AttnGAN, Xu et al. 2018), the form is InfoNCE both ways, as in CLIP (Radford et al. 2021, fig. 3), between
pooled features of the discriminator and its pooled text.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.precision import at_least_fp32

GROUP = 16
MAX_SCALE = 100.0  # CLIP, sec. 2.5: beyond it training is unstable


class ContrastiveHead(nn.Module):
    """Projects both sides to unit vectors of one space and holds the scale (1 / temperature) of their products.

    forward: features [B, C, h, w] or [B, C], and condition [B, E] -> image and text vectors, [B, width] float32 each.
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

    def forward(self, features: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(features.device.type, enabled=False):
            image = self.image(
                at_least_fp32(features).flatten(2).mean(2) if features.ndim > 2 else at_least_fp32(features)
            )
            text = self.text(at_least_fp32(condition))
        return F.normalize(image, dim=1), F.normalize(text, dim=1)


def contrastive_loss(
    image_vectors: Tensor,
    text_vectors: Tensor,
    scale: Tensor | float,
    group: int = GROUP,
    caption_ids: Tensor | None = None,
) -> Tensor:
    """Cross entropy of finding a picture's caption, and a caption's picture, in its group; their mean a row.

    image_vectors, text_vectors: [B, W], unit length; row i of both belongs together. scale: ContrastiveHead.scale.
    group: the negatives of a row are the others of its `group` consecutive rows; the last group may be smaller. So
        micro-batches that are whole groups have the gradients of the whole batch, which InfoNCE over a batch has not.
    caption_ids: [B] int; rows with equal ids are no negatives of each other. None: all captions differ.
    Returns [B] float32; 0 for a row without negatives, log(group) where nothing is known.
    """
    count = len(image_vectors)
    filling = -count % group
    image, text = (
        F.pad(at_least_fp32(vectors), (0, 0, 0, filling)).unflatten(0, (-1, group))  # [N, g, W]
        for vectors in (image_vectors, text_vectors)
    )
    row = torch.arange(count + filling, device=image.device)
    ids = row[:count] if caption_ids is None else caption_ids.to(row)
    ids = F.pad(ids, (0, filling)).unflatten(0, (-1, group))  # [N, g]
    real = (row < count).unflatten(0, (-1, group))
    negative = (ids[:, :, None] != ids[:, None, :]) & real[:, :, None] & real[:, None, :]
    own = torch.eye(group, dtype=torch.bool, device=image.device)
    # A product and a sum, because autocast would run a matrix product in half precision. Groups are small.
    logits = (image[:, :, None] * text[:, None, :]).sum(3) * scale  # [N, picture, caption]
    logits = logits.masked_fill(~(negative | own), float("-inf"))
    right = logits.diagonal(dim1=1, dim2=2)  # [N, g]
    losses = 0.5 * (logits.logsumexp(2) + logits.logsumexp(1)) - right
    return losses.flatten()[:count]
