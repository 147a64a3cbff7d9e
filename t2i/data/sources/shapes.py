"""--shapes N: so many drawn scenes (data/shapes.py) with their captions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from t2i.data.records import Framing, Record
from t2i.data.shapes import BACKGROUNDS, SPLITS, Dice, Scene, draw, scene_at
from t2i.data.shapes_captions import captions
from t2i.errors import UsageError


@dataclass(frozen=True)
class ShapesImage:
    """The locator of a drawn image: the scene itself."""

    scene: Scene

    def load(self, resolution: int) -> np.ndarray:
        """uint8 [resolution, resolution, 3]. Raises UsageError outside 16..256 px."""
        return draw(self.scene, resolution)

    def framed(self, resolution: int, framing: Framing) -> tuple[np.ndarray, None]:
        """uint8 [resolution, resolution, C]; it has no size of its own. Raises UsageError outside 16..256 px."""
        return draw(self.scene, resolution, framing.form), None

    def stamp(self) -> tuple[int, int]:
        """No file."""
        return 0, 0


class ShapesSource:
    """`count` drawn images with three captions each; record i depends on (seed, split, i) alone.

    Nothing is kept: a walk over a million needs the memory of one. transparent: the captions do not speak of a
    background. Raises UsageError for a bad option.
    """

    name = "shapes"

    def __init__(self, count: int, split: str = "train", seed: int = 0, transparent: bool = False):
        if count < 1:
            raise UsageError(f"--shapes {count}: a data set needs at least 1 image")
        if split not in SPLITS:
            raise UsageError(f"--split {split}: drawn shapes have the splits {' and '.join(SPLITS)}")
        self.count = count
        self.split = split
        self.seed = seed
        self.transparent = transparent
        self.notes: list[str] = []

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> Record:
        scene = scene_at(self.seed, index, self.split)
        if self.transparent:  # as it is scored: laid on white
            scene = replace(scene, background="white", background_rgb=BACKGROUNDS["white"])
        dice = Dice("captions", self.seed, self.split, index)
        texts = captions(scene, dice.uniform, page=not self.transparent)
        return Record(f"{self.split}-{index:06d}", texts, ShapesImage(scene), scene.to_dict())

    def __iter__(self) -> Iterator[Record]:
        return (self.record(index) for index in range(self.count))

    def describe(self) -> dict[str, Any]:
        usual = {"kind": "shapes", "count": self.count, "split": self.split, "seed": self.seed}
        return {**usual, "transparent": True} if self.transparent else usual
