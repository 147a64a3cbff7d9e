"""What a source of captioned images yields, and what an image in it can do.

A source (sources.py) walks over its files and yields one Record an image, in a fixed order. Nothing is decoded
there: a record holds a small picklable locator, and a worker process calls `image.load(resolution)`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from t2i.pixels import PLAIN_FORMAT, PixelFormat

# Splits that a model is scored on, by the names that they are given; of one kind, the usual one first.
VALIDATION = ("val", "valid", "validation")
HELD_OUT = (*VALIDATION, "dev", "test")


def plain_split(split: str) -> str:
    """A split without its year, in lower case: "val" for "Val2017"."""
    return split.lower().rstrip("0123456789")


class ImageError(Exception):
    """An image that cannot be used. `reason` is a short stable phrase (it is counted); `detail` is for one file."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self):
        return ImageError, (self.reason, self.detail)


@dataclass(frozen=True, slots=True)
class Framing:
    """How an image gets the size and the channels of the data set.

    fit: "crop" takes the centre, "pad" the whole image with `background` at its sides (nothing, where images are
    transparent). background: RGB, 0 to 255, under what is transparent and at the sides. min_size: refuse images whose
    shorter side has fewer pixels. form: channels and aspect.
    """

    fit: Literal["crop", "pad"] = "crop"
    background: tuple[int, int, int] = (255, 255, 255)
    min_size: int = 0
    form: PixelFormat = PLAIN_FORMAT

    def describe(self) -> dict[str, Any]:
        """What differs from the usual framing, JSON-able."""
        usual = Framing()
        values = {"fit": self.fit, "background": list(self.background), "min_size": self.min_size}
        plain = {"fit": usual.fit, "background": list(usual.background), "min_size": usual.min_size}
        return {name: value for name, value in values.items() if value != plain[name]} | self.form.describe()


PLAIN = Framing()


class ImageLocator(Protocol):
    """A picklable locator of one image."""

    def load(self, resolution: int) -> np.ndarray:
        """Decode, centre-crop and resize: uint8 [resolution, resolution, 3]. Raises ImageError."""
        ...

    def stamp(self) -> tuple[int, int]:
        """Size in bytes and time of change (ns): by these it is seen, unread, that the image is another one now.

        (-1, 0) where the file is missing; (0, 0) for what is drawn and has none.
        """
        ...


@runtime_checkable
class FramedLocator(ImageLocator, Protocol):
    """An image that comes from a file: it has a size of its own, and may be framed in other ways."""

    def framed(self, resolution: int, framing: Framing) -> tuple[np.ndarray, tuple[int, int]]:
        """uint8 [resolution, resolution, 3], and the image's own (width, height) in px. Raises ImageError."""
        ...


class FetchedLocator(ImageLocator, Protocol):
    """An image that the main process reads, in order, before a worker decodes it."""

    def fetch(self) -> ImageLocator | ImageError:
        """The image with its bytes, or why there are none."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """One captioned image.

    key: unique in the source and the same on every run and machine (a path relative to the root, for one).
    captions: at least one; stripped, no empty ones, whitespace runs and control characters folded to one space.
    attributes: what is known of the image exactly (drawn shapes), JSON-able; else None.
    """

    key: str
    captions: tuple[str, ...]
    image: ImageLocator
    attributes: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """An entry of the source that cannot be used, found before decoding. `reason` is a short stable phrase."""

    key: str
    reason: str
    detail: str = ""


class Source(Protocol):
    """A walk over captioned images. `len(source)` is the number of entries (records and skips), if cheaply known.

    name: a short name for folders, [a-z0-9_-] ("coco_mini", "noto", "shapes").
    split: "train", "val", ...
    notes: lines for the user after the walk (leftovers on either side, counted and named).
    """

    name: str
    split: str
    notes: list[str]

    def __iter__(self) -> Iterator[Record | Skip]: ...

    def __len__(self) -> int: ...

    def describe(self) -> dict[str, Any]:
        """JSON-able facts for dataset.json: kind and options. No absolute paths."""
        ...
