"""What a training step learns from: real images and their captions."""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from t2i.text.pooler import TextBatch


@dataclass(frozen=True)
class Batch:
    """Real images and their captions.

    images: [B, C, R, R] in [-1, 1]. text: the caption of each.
    captions: those of the whole batch of N images, of which these may be a few. belongs: [B, N] bool, which of them
    say what is in which image.
    wrong: [B, K] int, K captions of other images for each, as rows of `captions`; -1 where there was none.
    flip_axis: [B]: the axis of [B, C, R, R] along which an image flipped is wrong for its caption, or 0.
    With a text encoder that is trained, the texts hold token ids.
    """

    images: Tensor
    text: TextBatch
    captions: TextBatch
    belongs: Tensor
    wrong: Tensor
    flip_axis: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> "Batch":
        return Batch(
            self.images[rows],
            self.text[rows],
            self.captions,
            self.belongs[rows],
            self.wrong[rows],
            self.flip_axis[rows],
        )

    def with_images(self, images: Tensor) -> "Batch":
        """The same captions for other images [B, C, r, r]."""
        return replace(self, images=images)
