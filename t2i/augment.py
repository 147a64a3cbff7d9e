"""DiffAugment: Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020.

Every image that the discriminator sees, real or generated, in both phases, is shifted and has a square cut out.
Colour is left alone: captions speak of colours. They speak of left and of right, too: what is mirrored (the kind
"flip") are real images whose captions do not, and before a batch is made of them (training/loading.py).
"""

import torch
from torch import Tensor

AUGMENT_NUMBERS = 4  # uniform numbers per image: translation x and y, cutout x and y


def augment(images: Tensor, uniform: Tensor, kinds: tuple[str, ...]) -> Tensor:
    """Augment images [B, C, R, R] with uniform numbers [B, 4] in [0, 1): the same numbers, the same augmentation.

    translation: by up to an eighth of the image each way, the image's edge repeated.
    cutout: a square of half the side is set to 0 (mid grey); it may reach over the edge.
    """
    if "translation" in kinds:
        images = _translate(images, uniform[:, 0:2])
    if "cutout" in kinds:
        images = _cutout(images, uniform[:, 2:4])
    return images


def _translate(images: Tensor, uniform: Tensor, ratio: float = 0.125) -> Tensor:
    side = images.shape[2]
    reach = int(side * ratio + 0.5)
    shift = (uniform * (2 * reach + 1)).long() - reach  # [B, 2], -reach..reach
    # Repeating the edge, where the paper pads with grey: on white pages a grey frame would be all there is to see.
    steps = (torch.arange(side, device=images.device) + shift[:, :, None]).clamp(0, side - 1)  # [B, 2, R]
    # Two gathers: indexing both at once takes three times as long, for its gradient sorts all pixels.
    rows = images.gather(2, steps[:, 0, None, :, None].expand_as(images))
    return rows.gather(3, steps[:, 1, None, None, :].expand_as(images))


def _cutout(images: Tensor, uniform: Tensor, ratio: float = 0.5) -> Tensor:
    side = images.shape[2]
    size = int(side * ratio + 0.5)
    start = (uniform * (side + 1)).long() - size // 2  # [B, 2]
    steps = torch.arange(side, device=images.device)
    rows = (steps >= start[:, 0:1]) & (steps < start[:, 0:1] + size)  # [B, R]
    columns = (steps >= start[:, 1:2]) & (steps < start[:, 1:2] + size)
    keep = ~(rows[:, :, None] & columns[:, None, :])  # [B, R, R]
    return images * keep[:, None].to(images.dtype)
