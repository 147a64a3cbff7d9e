"""Images that a model has drawn already, t2i's or another one's, as samples to score."""

import collections
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from t2i.data.prepared import PreparedDataset
from t2i.data.records import FramedLocator, Framing, ImageError, ImageLocator, Skip
from t2i.data.sources import annotations_source
from t2i.errors import UserError
from t2i.evaluation.sampler import CHUNK
from t2i.files import brief
from t2i.pixels import PixelFormat


@dataclass
class SavedSamples:
    """Image files in place of a model: `draw_dataset` reads image number `seed`.

    captions: of each image, the one that it was drawn for. resized: how many of the images read so far were not of the
    data set's resolution; they are cropped and resized as prepare does it.
    """

    folder: Path
    names: list[str]
    captions: list[str]
    images: list[ImageLocator]
    notes: list[str]
    resized: int = field(default=0, init=False)

    @classmethod
    def read(cls, folder: Path, captions: Path) -> "SavedSamples":
        """captions: a list that names each image and its caption (JSON, JSON lines, CSV, TSV, as prepare reads it).

        Nothing is decoded yet. Raises UserError, one line, where an image of the list is missing or has no caption.
        """
        source = annotations_source(folder, captions)
        records = []
        for entry in source:
            if isinstance(entry, Skip):
                raise UserError(f"{captions}: {brief(entry.key)}: {entry.reason}")
            records.append(entry)
        names, texts = [record.key for record in records], [record.captions[0] for record in records]
        return cls(folder, names, texts, [record.image for record in records], list(source.notes))

    def check(self, data: PreparedDataset) -> None:
        """Any resolution will do."""

    def draw_dataset(
        self, data: PreparedDataset, caption_ids: np.ndarray, seeds: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """The images of these numbers, `CHUNK` at a time: their rows and uint8 [<= CHUNK, R, R, 3].

        Raises UserError, one line, at a file that cannot be read.
        """
        for start in range(0, len(seeds), CHUNK):
            rows = slice(start, start + CHUNK)
            yield rows, np.stack([self._load(int(number), data) for number in seeds[rows]])

    def _load(self, number: int, data: PreparedDataset) -> np.ndarray:
        image = self.images[number]
        form = PixelFormat(aspect=data.form.aspect)
        try:
            if not isinstance(image, FramedLocator):
                return image.load(data.resolution)
            pixels, size = image.framed(data.resolution, Framing(form=form))
        except ImageError as error:
            raise UserError(f"{self.folder / self.names[number]}: {error}") from error
        self.resized += size != form.size(data.resolution)
        return pixels


def place_captions(
    data: PreparedDataset, captions: Sequence[str], images: np.ndarray, caption_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Puts saved samples in the protocol's order, in which a model's own samples score exactly as the model does.

    captions: of the saved samples, each a caption of `data`. images, caption_ids: the protocol's, sample by sample.
    Returns, sample by sample, the number of the saved sample, the image of `data` and the caption: those captions that
    the protocol draws first, in its order, then the others. Raises UserError, one line, at a caption that is not in
    `data`.
    """
    texts = list(data.captions())
    owners: dict[str, tuple[int, int]] = {}
    for image in reversed(range(len(data))):
        owners |= {texts[caption]: (image, caption) for caption in data.caption_ids(image).tolist()}
    if unknown := [caption for caption in captions if caption not in owners]:
        raise UserError(
            f"{len(unknown):,} of {len(captions):,} captions are not in {data.path} ({brief(unknown[0], 60)!r}, for "
            f"one): draw captions of its captions.jsonl"
        )
    waiting: dict[str, collections.deque[int]] = {}
    for number, caption in enumerate(captions):
        waiting.setdefault(caption, collections.deque()).append(number)
    placed: list[tuple[int, int, int]] = []
    for image, caption in zip(images.tolist(), caption_ids.tolist()):
        if numbers := waiting.get(texts[caption]):
            placed.append((numbers.popleft(), image, caption))
    rest = sorted(number for numbers in waiting.values() for number in numbers)
    placed += [(number, *owners[captions[number]]) for number in rest]
    numbers, found, ids = np.array(placed, np.int64).T
    return numbers, found, ids
