"""A prepared data set: images of one size and encoded captions, memory-mapped.

    dataset.json            what it is: resolution, counts, source, text encoder with hash, fingerprint
    images-00000.npy        uint8 [n, R, R, C], RGB (pixels.py); a shard of the images, in the source's order
    records-00000.jsonl     one line an image: key, captions, attributes (where the source knows them)
    picture-captions.npy    int32, the caption ids of all images, one after the other
    picture-offsets.npy     int64 [images + 1], where each image's ids start
    captions.jsonl          every different caption once, a JSON string a line; a caption's id is its line
    caption-offsets.npy     int64 [captions + 1], where each line starts, in bytes
    tokens-00000.npy        float16 [n, T], token embeddings of CAPTIONS_PER_CHUNK captions, one after the other
    token-offsets.npy       int64 [captions + 1], where each caption's tokens start, over all chunks
    text-statistics.npy     float32 [4, T]: token mean, token std, sentence mean, sentence std
    skipped.jsonl           what was left out: file, reason
    preview.png             a contact sheet

Opening one costs the same at any size, and so does the memory that training needs.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2i.data import DATA_ROOT
from t2i.data.records import HELD_OUT, VALIDATION, plain_split
from t2i.data.sampler import run_of_images
from t2i.errors import UserError
from t2i.files import describe_os_error, read_json
from t2i.pixels import PixelFormat, on_white

FORMAT = 1
CAPTIONS_PER_CHUNK = 8192
MAPPED_CHUNKS = 1 << 15  # Linux lets a process map 65,530 files; the images' shards need some too


class PreparedDataset:
    """Reads a prepared data set. Raises UserError, one line, where `path` holds none or one that is damaged."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._chunks: dict[int, np.ndarray] = {}  # of token embeddings, as they are mapped
        if not (self.path / "dataset.json").is_file():
            if (self.path / "plan.json").is_file():
                raise UserError(f"{self.path}: not finished yet; the same t2i prepare goes on with it")
            raise UserError(
                f"{self.path}: no prepared data set here (there is no dataset.json); make one with t2i prepare"
            )
        self.info: dict[str, Any] = read_json(self.path / "dataset.json", "data set description")
        if self.info.get("format") != FORMAT:
            raise UserError(
                f"{self.path}: data set format {self.info.get('format')!r}; this t2i reads {FORMAT}: prepare it again"
            )
        try:
            self.resolution = int(self.info["resolution"])
            self.form = PixelFormat.of(self.info.get("framing", {}))
            self.name = str(self.info["name"])
            self.split = str(self.info["split"])
            self.fingerprint = str(self.info["fingerprint"])
            self.text: dict[str, Any] = dict(self.info["text"])
            self._width = int(self.text["width"])
            if not all(re.fullmatch(r"(?!\.)[^/\\\x00-\x1f]+", part) for part in (self.name, self.split)):
                raise ValueError(f"name {self.name!r:.40}, split {self.split!r:.40}")  # they become parts of paths
            counts = [int(shard["pictures"]) for shard in self.info["shards"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{self.path}/dataset.json is damaged ({error!r}); prepare it again") from error
        self._starts = np.cumsum([0, *counts])
        _allow_open_files(len(counts))
        self._images = [
            self._array(f"images-{i:05d}.npy", np.uint8, (n, *self.image_shape)) for i, n in enumerate(counts)
        ]
        self._image_offsets = self._array("picture-offsets.npy", np.int64, (len(self) + 1,))
        uses = int(self._image_offsets[-1])
        self._image_captions = self._array("picture-captions.npy", np.int32, (uses,))
        self._caption_offsets = self._array("caption-offsets.npy", np.int64)
        self._token_offsets = self._array("token-offsets.npy", np.int64, self._caption_offsets.shape)
        _allow_open_files(min(MAPPED_CHUNKS, -(-self.caption_count // CAPTIONS_PER_CHUNK)))

    def __len__(self) -> int:
        """Number of images."""
        return int(self._starts[-1])

    @property
    def parts(self) -> "Sequence[PreparedDataset]":
        """The data sets that it is made of: itself."""
        return [self]

    def describe(self) -> dict[str, Any]:
        """What a run remembers of it."""
        return {
            "name": self.name, "split": self.split, "resolution": self.resolution, "path": str(self.path),
            "fingerprint": self.fingerprint, "pictures": len(self),
        }  # fmt: skip

    def order(self, first: int, count: int, seed: int) -> np.ndarray:
        """The images that a run sees at its positions first ... first + count - 1, int64 (sampler.py)."""
        return run_of_images(first, count, len(self), seed)

    @property
    def held_out(self) -> bool:
        """Whether this is a split to score on: training takes such a one only where it is named."""
        return plain_split(self.split) in HELD_OUT

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.resolution, self.resolution, self.form.count

    @property
    def caption_count(self) -> int:
        """Number of different captions."""
        return len(self._caption_offsets) - 1

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Images as networks see them, uint8 [B, R, R, C] (pixels.py)."""
        indices = np.asarray(indices)
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        out = np.empty((len(indices), *self.image_shape), np.uint8)
        for row, (place, shard) in enumerate(zip((indices - self._starts[shards]).tolist(), shards.tolist())):
            out[row] = self._images[shard][place]
        return out

    def rgb(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Images, uint8 [B, R, R, 3], transparent ones on white."""
        return on_white(self.images(indices))

    def caption_counts(self, indices: np.ndarray) -> np.ndarray:
        """How many captions each image has, int64 [B]."""
        return self._image_offsets[indices + 1] - self._image_offsets[indices]

    def caption_ids(self, index: int) -> np.ndarray:
        """The ids of one image's captions, int32."""
        return self._image_captions[self._image_offsets[index] : self._image_offsets[index + 1]]

    def captions_of(self, indices: np.ndarray) -> list[list[int]]:
        """The ids of each image's captions."""
        places = zip(self._image_offsets[indices].tolist(), self._image_offsets[indices + 1].tolist())
        return [self._image_captions[start:stop].tolist() for start, stop in places]

    def caption(self, caption_id: int) -> str:
        """The text of a caption."""
        start, stop = (int(offset) for offset in self._caption_offsets[caption_id : caption_id + 2])
        path = self.path / "captions.jsonl"
        try:
            with open(path, "rb") as stream:
                stream.seek(start)
                return _parse(stream.read(stop - start), str)
        except OSError as error:
            raise describe_os_error(error, path) from error
        except ValueError as error:
            raise UserError(f"{path} or caption-offsets.npy is damaged; prepare the data set again") from error

    def captions(self) -> Iterator[str]:
        """The text of every different caption, by id."""
        yield from self._lines("captions.jsonl", str)

    def tokens(self, caption_ids: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Token embeddings, a float16 [L, T] view for each caption."""
        ids = np.asarray(caption_ids, np.int64)
        chunks = ids // CAPTIONS_PER_CHUNK
        base = self._token_offsets[chunks * CAPTIONS_PER_CHUNK]
        starts, stops = self._token_offsets[ids] - base, self._token_offsets[ids + 1] - base
        places = zip(chunks.tolist(), starts.tolist(), stops.tolist())
        return [self._token_chunk(chunk)[start:stop] for chunk, start, stop in places]

    def text_statistics(self) -> np.ndarray:
        """float32 [4, T]: token mean, token std, sentence mean, sentence std."""
        return np.array(self._array("text-statistics.npy", np.float32, (4, self._width)))

    def records(self) -> Iterator[dict[str, Any]]:
        """What is known of each image, in order: key, captions, attributes."""
        for shard in range(len(self._images)):
            yield from self._lines(f"records-{shard:05d}.jsonl", dict)

    def _lines(self, name: str, kind: type) -> Iterator[Any]:
        """The JSON of each line of a file. Raises UserError."""
        path = self.path / name
        try:
            with open(path, "rb") as stream:
                for line in stream:
                    yield _parse(line, kind)
        except OSError as error:
            raise describe_os_error(error, path) from error
        except ValueError as error:
            raise UserError(f"{path} is damaged; prepare the data set again") from error

    def check(self) -> None:
        """Look at every file's size and shape and at all indices (not at pixels and embeddings).

        Reads about 20 bytes a caption. Raises UserError, one line, naming the file that is damaged.
        """
        captions = self.caption_count
        ends = {
            "picture-offsets.npy": (self._image_offsets, len(self._image_captions)),
            "caption-offsets.npy": (self._caption_offsets, self._size("captions.jsonl")),
            "token-offsets.npy": (self._token_offsets, None),
        }
        for name, (offsets, end) in ends.items():
            rising = len(offsets) > 1 and offsets[0] == 0 and (np.diff(offsets) > 0).all()
            if not rising or (end is not None and offsets[-1] != end):
                why = "its offsets do not rise" if not rising else f"it ends at {offsets[-1]}, not at {end}"
                raise UserError(f"{self.path / name} is damaged, or the file it points into ({why}); prepare it again")
        used = self._image_captions
        if used.min() < 0 or used.max() >= captions:
            raise UserError(f"{self.path}/picture-captions.npy is damaged (it names no caption); prepare it again")
        for chunk in range(-(-captions // CAPTIONS_PER_CHUNK)):
            self._token_chunk(chunk)
        if not np.isfinite(self.text_statistics()).all():
            raise UserError(f"{self.path}/text-statistics.npy is damaged (it holds no numbers); prepare it again")
        for shard, images in enumerate(self._images):
            if bool(len(images)) != bool(self._size(f"records-{shard:05d}.jsonl")):
                raise UserError(f"{self.path}/records-{shard:05d}.jsonl is damaged (its size); prepare it again")
        self._size("skipped.jsonl")

    def _size(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_size
        except OSError as error:
            raise describe_os_error(error, self.path / name) from error

    def _token_chunk(self, chunk: int) -> np.ndarray:
        if (mapped := self._chunks.get(chunk)) is not None:
            return mapped
        if len(self._chunks) >= MAPPED_CHUNKS:
            self._chunks.clear()  # mapping anew is cheap
        first, last = chunk * CAPTIONS_PER_CHUNK, min((chunk + 1) * CAPTIONS_PER_CHUNK, self.caption_count)
        count = int(self._token_offsets[last] - self._token_offsets[first])
        mapped = self._array(f"tokens-{chunk:05d}.npy", np.float16, (count, self._width))
        self._chunks[chunk] = mapped
        return mapped

    def _array(self, name: str, dtype: type, shape: tuple[int, ...] | None = None) -> np.ndarray:
        path = self.path / name
        try:
            # Seen as a plain array: each slice of a memmap makes a memmap, which takes ten times as long.
            array = np.lib.format.open_memmap(path, "r").view(np.ndarray)
        except OSError as error:
            raise describe_os_error(error, path) from error
        except Exception as error:  # NumPy parses the header: ValueError, TokenError, TypeError, OverflowError, ...
            raise UserError(f"{path} is damaged; prepare the data set again") from error
        if array.dtype != dtype or (array.shape != shape if shape is not None else array.ndim != 1):
            expected = f"{np.dtype(dtype)} {list(shape or ['n'])}"
            raise UserError(
                f"{path} is damaged ({array.dtype} {list(array.shape)}, not {expected}); prepare the data set again"
            )
        return array


def _allow_open_files(count: int) -> None:
    """Let this process open so many files more, as far as the system allows: Python keeps one open for each map."""
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + count
        with contextlib.suppress(OSError, ValueError):  # macOS allows fewer than its hard limit says
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
            )


def _parse(data: bytes, kind: type) -> Any:
    """JSON of that kind. Raises ValueError."""
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(value, kind):
        raise ValueError(f"this is no {kind.__name__}")
    return value


def find_datasets(root: Path | str = DATA_ROOT) -> list[Path]:
    """The prepared data sets below `root`, newest last."""
    return sorted(
        (
            path.parent
            for path in Path(root).glob("*/dataset.json")
            if not path.parent.name.endswith(".partial") and not path.parent.name.startswith(".")
        ),
        key=lambda p: ((p / "dataset.json").stat().st_mtime_ns, p.name),
    )


def find_validation(train: PreparedDataset) -> PreparedDataset | None:
    """The newest validation split of the same source and size beside a training split.

    It is called val, else valid, else validation. Of a mixture, that of its first part.
    """
    train = train.parts[0]
    splits: dict[str, PreparedDataset] = {}
    for path in reversed(find_datasets(train.path.parent)):
        try:
            found = PreparedDataset(path)
        except UserError:  # damaged, or another version's: not the one
            continue
        if (found.name, found.resolution, found.form) == (train.name, train.resolution, train.form):
            splits.setdefault(plain_split(found.split), found)
    return next((splits[name] for name in VALIDATION if name in splits), None)
