"""What a training step learns from: real pictures and their captions."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from t2i.text.pooler import TextBatch


@dataclass
class Batch:
    """Real pictures and their captions.

    images: [B, 3, R, R] in [-1, 1]. text: the caption of each.
    captions: those of the whole batch of N pictures, of which these may be a few. belongs: [B, N] bool, which of them
    say what is in which picture.
    wrong: [B, K] int, K captions of other pictures for each, as rows of `captions`; -1 where there was none.
    mirror: [B]: the axis of [B, 3, R, R] along which a picture mirrored belies its caption, or 0.
    With a text encoder that is trained, the texts hold token ids.
    """

    images: Tensor
    text: TextBatch
    captions: TextBatch
    belongs: Tensor
    wrong: Tensor
    mirror: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> "Batch":
        return Batch(
            self.images[rows],
            self.text[rows],
            self.captions,
            self.belongs[rows],
            self.wrong[rows],
            self.mirror[rows],
        )
