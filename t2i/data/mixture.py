"""Several prepared data sets as one to train on, each with its share of the images that a run sees."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from t2i.data.prepared import PreparedDataset
from t2i.data.sampler import image_at
from t2i.errors import UsageError, UserError

MOST = 1000  # of a weight, after those of a mixture were divided by what they share


class Mixture(PreparedDataset):
    """Reads like one data set: its images are those of the parts one after the other, and so are its captions.

    A caption that several parts have is the same one. weights: of every sum(weights) images that a run sees one after
    the other, weights[k] are of part k. Raises UsageError for weights that are none, UserError, one line, where the
    parts differ in size, shape, channels or text encoder.
    """

    def __init__(self, parts: Sequence[PreparedDataset], weights: Sequence[int] | None = None):
        self._parts = list(parts)
        self.weights = _checked(weights, len(parts))
        first = self.parts[0]
        for part in self.parts[1:]:
            _check_alike(first, part)
        self.path, self.resolution, self.form = first.path, first.resolution, first.form
        self.name, self.split = "+".join(dict.fromkeys(part.name for part in parts)), first.split
        self.text: dict[str, Any] = first.text
        known = [[part.fingerprint, weight] for part, weight in zip(self.parts, self.weights)]
        self.fingerprint = hashlib.sha256(json.dumps(known).encode()).hexdigest()
        self.info: dict[str, Any] = {**first.info, "name": self.name, "fingerprint": self.fingerprint}
        self._starts = np.cumsum([0, *map(len, self.parts)])
        self._caption_starts = np.cumsum([0, *(part.caption_count for part in self.parts)])
        self._renamed = self._equal_captions()

    @property
    def parts(self) -> Sequence[PreparedDataset]:
        return self._parts

    def _equal_captions(self) -> np.ndarray:
        """For each caption the id of the first one with its text, int32."""
        ids = np.arange(self.caption_count, dtype=np.int32)
        seen: dict[bytes, int] = {}
        for number, text in enumerate(self.captions()):
            key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            ids[number] = seen.setdefault(key, number)
        return ids

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def caption_count(self) -> int:
        return int(self._caption_starts[-1])

    @property
    def held_out(self) -> bool:
        return any(part.held_out for part in self.parts)

    def order(self, first: int, count: int, seed: int) -> np.ndarray:
        positions = np.arange(first, first + count)
        cycle, places = np.divmod(positions, sum(self.weights))
        images = np.empty(count, np.int64)
        before = 0
        for number, (part, weight) in enumerate(zip(self.parts, self.weights)):
            mine = (before <= places) & (places < before + weight)
            own = cycle[mine] * weight + places[mine] - before  # how many of this part came earlier
            images[mine] = self._starts[number] + image_at(own, len(part), seed + number)
            before += weight
        return images

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        indices = np.asarray(indices)
        out = np.empty((len(indices), *self.image_shape), np.uint8)
        for mine, part, own in self._by_part(indices, self._starts):
            out[mine] = part.images(own)
        return out

    def caption_counts(self, indices: np.ndarray) -> np.ndarray:
        out = np.empty(len(indices), np.int64)
        for mine, part, own in self._by_part(indices, self._starts):
            out[mine] = part.caption_counts(own)
        return out

    def caption_ids(self, index: int) -> np.ndarray:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        ids = self.parts[number].caption_ids(index - int(self._starts[number]))
        return self._renamed[ids + self._caption_starts[number]]

    def captions_of(self, indices: np.ndarray) -> list[list[int]]:
        return [self.caption_ids(index).tolist() for index in np.asarray(indices).tolist()]

    def caption(self, caption_id: int) -> str:
        number = int(np.searchsorted(self._caption_starts, caption_id, side="right")) - 1
        return self.parts[number].caption(caption_id - int(self._caption_starts[number]))

    def captions(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.captions()

    def tokens(self, caption_ids: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        ids = np.asarray(caption_ids, np.int64)
        found: list[Any] = [None] * len(ids)
        for mine, part, own in self._by_part(ids, self._caption_starts):
            for row, tokens in zip(np.flatnonzero(mine).tolist(), part.tokens(own)):
                found[row] = tokens
        return found

    def text_statistics(self) -> np.ndarray:
        """Of the captions as a run draws them: each part's with its weight."""
        shares = np.array(self.weights) / sum(self.weights)
        each = np.stack([part.text_statistics() for part in self.parts]).astype(np.float64)
        means, stds = each[:, 0::2], each[:, 1::2]
        mean = np.tensordot(shares, means, 1)
        variance = np.tensordot(shares, stds**2 + means**2, 1) - mean**2
        std = np.sqrt(np.maximum(variance, 0))
        return np.stack([mean[0], std[0], mean[1], std[1]]).astype(np.float32)

    def records(self) -> Iterator[dict[str, Any]]:
        for part in self.parts:
            yield from part.records()

    def check(self) -> None:
        for part in self.parts:
            part.check()

    def describe(self) -> dict[str, Any]:
        parts = [{"path": str(part.path), "fingerprint": part.fingerprint} for part in self.parts]
        return {**super().describe(), "parts": parts, "weights": list(self.weights)}

    def _by_part(
        self, indices: np.ndarray, starts: np.ndarray
    ) -> Iterator[tuple[np.ndarray, PreparedDataset, np.ndarray]]:
        """Of each part that is asked: which of the indices are its own, bool, and their numbers in it."""
        numbers = np.searchsorted(starts, indices, side="right") - 1
        for number in np.unique(numbers).tolist():
            mine = numbers == number
            yield mine, self.parts[number], np.asarray(indices)[mine] - starts[number]


def open_datasets(paths: Sequence[Path | str], weights: Sequence[int] | None = None) -> PreparedDataset:
    """One data set, or a mixture of several. Raises UserError, one line."""
    if len(paths) == 1:
        if weights:
            raise UsageError("--weights is for several data sets: t2i train A B --weights 2 1")
        return PreparedDataset(paths[0])
    return Mixture([PreparedDataset(path) for path in paths], weights)


def _checked(weights: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Weights without what they share. Raises UsageError."""
    given = list(weights or [1] * count)
    if len(given) != count:
        raise UsageError(f"--weights: {len(given)} of them for {count} data sets; one for each")
    if min(given) < 1:
        raise UsageError(f"--weights {' '.join(map(str, given))}: whole numbers from 1 on")
    shared = gcd(*given)
    if max(given) // shared > MOST:
        raise UsageError(f"--weights {' '.join(map(str, given))}: at most {MOST} to 1")
    return tuple(weight // shared for weight in given)


def _check_alike(first: PreparedDataset, other: PreparedDataset) -> None:
    kinds = [each.form.in_words(each.resolution) for each in (first, other)]
    if kinds[0] != kinds[1]:
        raise UserError(f"{first.path} holds {kinds[0]}, {other.path} {kinds[1]}: prepare both alike")
    if first.text["sha256"] != other.text["sha256"]:
        raise UserError(f"{first.path} and {other.path} were prepared with different text encoders: prepare both alike")
