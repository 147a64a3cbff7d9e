"""Does a model copy its training images? Its drawings against the nearest training image, under small shifts and crops.

A drawing that is nearer to a training image than SAME (t2i/data/near_duplicates.py) counts as a copy. The bound is the
share of training images that have another training image so near: of a set with many like images it is high.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from t2i.data.near_duplicates import SAME, Nearest, nearest, thumbnails
from t2i.data.prepared import PreparedDataset
from t2i.data.sampler import image_at
from t2i.evaluation.cache import cached
from t2i.evaluation.features import Progress
from t2i.evaluation.report import Score
from t2i.grids import table_grid

if TYPE_CHECKING:
    from PIL.Image import Image

COUNT = 300  # drawings, and training images, that are looked at
PAIRS = 8  # on the sheet
AT_ONCE = 100  # between two signs of progress
READ = 4096  # training images in memory at once, before they are made smaller


@dataclass
class Copies:
    """The search, made once for a training set. own: distances of training images to the nearest other one, [COUNT].
    drawn, found: the drawings that were looked at last, uint8 [N, R, R, 3], and what was found."""

    train: PreparedDataset
    small: np.ndarray
    own: np.ndarray
    drawn: np.ndarray | None = None
    found: Nearest | None = None

    @classmethod
    def of(cls, train: PreparedDataset, progress: Progress) -> "Copies":
        starts = range(0, len(train), READ)
        small = np.concatenate([thumbnails(train.rgb(range(s, min(s + READ, len(train))))) for s in starts])
        chosen = image_at(np.arange(min(COUNT, len(train))), len(train), seed=0)

        def make() -> dict[str, np.ndarray]:
            return {"own": search(small[chosen], small, progress, "training images among each other", chosen).distances}

        key = {"fingerprint": train.fingerprint, "count": len(chosen), "version": 1}
        return cls(train, small, cached(train.path, "copies", key, make)["own"])

    def score(self, drawn: np.ndarray, progress: Progress) -> Score:
        """drawn: uint8 [N, R, R, 3]."""
        self.drawn = drawn
        self.found = search(thumbnails(drawn), self.small, progress, "nearest training images")
        share = float((self.found.distances < SAME).mean())
        return Score(
            name="copies", value=share, better="lower", network="pixels", samples=len(drawn),
            reference=f"{len(self.small):,} images of {self.train.name} {self.train.split}",
            ceiling=float((self.own < SAME).mean()), ceiling_of="training images among each other",
            error=float(np.sqrt(share * (1 - share) / len(drawn))),
        )  # fmt: skip

    def sheet(self) -> "Image":
        """The drawings nearest to a training image, each beside it, the nearest first."""
        assert self.drawn is not None and self.found is not None
        order = np.argsort(self.found.distances, kind="stable")[:PAIRS]
        theirs = self.train.rgb(self.found.numbers[order])
        rows = [[self.drawn[number], image] for number, image in zip(order, theirs)]
        labels = [f"{self.found.distances[number]:.2f}" for number in order]
        title = f"Nearest pairs: below {SAME:g} a drawing counts as a copy"
        return table_grid(rows, labels, ["drawn", "training"], title)


def search(
    images: np.ndarray, others: np.ndarray, progress: Progress, stage: str, own: np.ndarray | None = None
) -> Nearest:
    """`nearest`, with progress."""
    parts = []
    for start in range(0, len(images), AT_ONCE):
        progress(stage, start, len(images))
        part = slice(start, start + AT_ONCE)
        parts.append(nearest(images[part], others, None if own is None else own[part]))
    progress(stage, len(images), len(images))
    return Nearest(*(np.concatenate(values) for values in zip(*parts)))
