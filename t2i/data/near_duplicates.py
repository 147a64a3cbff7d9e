"""Images that show the same but for a crop, a small shift or a recompression, found by their pixels.

In two steps. Coarse: an image's thumbnail of 8 x 8 pixels is compared with thumbnails of 23 crops of every other image,
by correlation. Fine: the nearest few are compared at 32 x 32 pixels, slightly blurred, under crops around the best
coarse one. The features of a frozen network found fewer of them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from t2i.data.decoding import Decoders, decode
from t2i.data.records import PLAIN, Framing, Record, Source

COARSE, FINE = 8, 32  # sides of the thumbnails that are compared, px
CROPS = {1.0: 1, 0.93: 2, 0.86: 3, 0.8: 3}  # side of a crop of an image -> places of it along each axis
NEAREST = 4  # candidates that are compared in detail
PLAIN_CONTRAST = 8.0  # of 255: below it an image counts as empty, and differences are not made larger
CHUNK, BLOCK = 512, 4096  # images that are compared with so many others at once
LIKELY = 0.88  # coarse correlation below which prepare does not look closer: 99 % of recrops are above
MOST = 20_000  # images that prepare compares with each other: the time grows with their square
SAME = 0.34  # fine distance below which two images are the same one in another crop


class Box(NamedTuple):
    """A square crop: its side and its upper left corner, as shares of the image's side."""

    side: float
    top: float
    left: float


BOXES = [
    Box(side, float(top), float(left))
    for side, places in CROPS.items()
    for top in np.linspace(0, 1 - side, places)
    for left in np.linspace(0, 1 - side, places)
]


class Nearest(NamedTuple):
    """Of each image: the number of the nearest one among others, and the fine distance to it (0: equal)."""

    numbers: np.ndarray
    distances: np.ndarray


def thumbnails(images: np.ndarray) -> np.ndarray:
    """uint8 [N, R, R, 3] -> uint8 [N, FINE, FINE, 3], averaged."""
    return np.rint(_cropped(images.astype(np.float32), BOXES[0], FINE)).astype(np.uint8)


def nearest(images: np.ndarray, others: np.ndarray, own: np.ndarray | None = None) -> Nearest:
    """The nearest of `others` to each image, where either may be a crop of the other.

    images, others: thumbnails, uint8 [N, FINE, FINE, 3] and [M, FINE, FINE, 3]. own: [N], the numbers of the images
    among the others, which are passed over.
    """
    numbers, distances = np.zeros(len(images), np.int64), np.full(len(images), np.inf, np.float32)
    for row, candidates in enumerate(_candidates(images, others, own, both=True)):
        for number, box, swapped in candidates:
            image, whole = (others[number], images[row]) if swapped else (images[row], others[number])
            if (distance := fine_distance(image, whole, box)) < distances[row]:
                numbers[row], distances[row] = number, distance
    return Nearest(numbers, distances)


def _candidates(
    images: np.ndarray, others: np.ndarray, own: np.ndarray | None, both: bool, least: float = -np.inf
) -> list[list[tuple[int, Box, bool]]]:
    """The NEAREST others of each image by the coarse thumbnails: their numbers, the best crop, and of which of the two
    it is: of the other one (False), or, where both are asked for, of the image (True). least: correlations above it."""
    plain = _coarse(images, BOXES[0])
    crops = [_coarse(images, box) for box in BOXES[1:]] if both else []
    scores = np.full((len(images), NEAREST), -np.inf, np.float32)
    numbers, kinds = np.zeros(scores.shape, np.int64), np.zeros(scores.shape, np.int64)
    for block in range(0, len(others), BLOCK):
        theirs = [_coarse(others[block : block + BLOCK], box) for box in BOXES]
        for start in range(0, len(images), CHUNK):
            part = slice(start, start + CHUNK)
            best = plain[part] @ theirs[0].T
            which = np.zeros(best.shape, np.int64)
            pairs = [(plain, crop) for crop in theirs[1:]] + [(crop, theirs[0]) for crop in crops]
            for kind, (mine, other) in enumerate(pairs, 1):
                score = mine[part] @ other.T
                higher = score > best
                best[higher], which[higher] = score[higher], kind
            if own is not None:
                columns = own[part] - block
                inside = np.flatnonzero((columns >= 0) & (columns < best.shape[1]))
                best[inside, columns[inside]] = -np.inf
            ids = np.broadcast_to(block + np.arange(best.shape[1]), best.shape)
            merged = np.concatenate([scores[part], best], axis=1)
            top = np.argpartition(-merged, NEAREST - 1, axis=1)[:, :NEAREST]
            for table, new in ((numbers, ids), (kinds, which)):
                table[part] = np.take_along_axis(np.concatenate([table[part], new], axis=1), top, 1)
            scores[part] = np.take_along_axis(merged, top, 1)
    last = len(BOXES) - 1
    return [
        [(int(n), BOXES[kind - last * (kind > last)], bool(kind > last)) for n, kind, s in zip(*row) if s > least]
        for row in zip(numbers, kinds, scores)
    ]


def _coarse(images: np.ndarray, box: Box) -> np.ndarray:
    """Thumbnails [N, FINE, FINE, 3] -> float32 [N, D], whose products are the correlations of the crops."""
    values = _cropped(images.astype(np.float32), box, COARSE).reshape(len(images), -1)
    values = values - values.mean(axis=1, keepdims=True)
    size = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.maximum(size, PLAIN_CONTRAST * np.sqrt(values.shape[1]))


def fine_distance(image: np.ndarray, whole: np.ndarray, near: Box) -> float:
    """Root mean square difference of an image to the crop of another one that fits it best, in units of the contrast.

    image, whole: thumbnails, uint8 [FINE, FINE, 3]. near: crops around this one are tried.
    """
    target = _blurred(image[None].astype(np.float32))
    crops = np.concatenate([_cropped(whole[None].astype(np.float32), box, FINE) for box in _around(near)])
    crops = _blurred(crops)
    differences = np.sqrt(np.square(crops - target).mean(axis=(1, 2, 3)))
    contrasts = _contrasts(np.concatenate([target, _blurred(whole[None].astype(np.float32))]))
    contrast = max(float(contrasts.max()), PLAIN_CONTRAST)
    # A crop of little more than one colour says nothing, unless both images are empty.
    least = contrast / 2 if contrast > PLAIN_CONTRAST else 0
    differences[_contrasts(crops) < least] = np.inf
    return min(float(differences.min()) / contrast, 1.0) if contrasts[0] >= least else 1.0


def _contrasts(images: np.ndarray) -> np.ndarray:
    """[N, R, R, 3] -> [N]: how much the pixels of each channel differ from their mean, root mean square."""
    return np.sqrt(images.var(axis=(1, 2)).mean(axis=1))


@functools.lru_cache(maxsize=len(BOXES))
def _around(box: Box) -> list[Box]:
    """Crops around one, in steps of half a coarse one; each lies within the image."""
    found = [BOXES[0]]
    for side in np.clip([box.side - 0.035, box.side, box.side + 0.035], 0.75, 1):
        for top in (-0.035, 0, 0.035):
            for left in (-0.035, 0, 0.035):
                grown = (side - box.side) / 2  # its middle stays
                places = np.clip([box.top + top - grown, box.left + left - grown], 0, 1 - side)
                found.append(Box(float(side), float(places[0]), float(places[1])))
    return list(dict.fromkeys(found))


def _cropped(images: np.ndarray, box: Box, side: int) -> np.ndarray:
    """float32 [N, R, R, 3] -> [N, side, side, 3]: a crop, each pixel the average of what it covers."""
    size = images.shape[1]
    rows, columns = _averages(box.side, box.top, size, side), _averages(box.side, box.left, size, side)
    return np.einsum("ir,jc,nrcd->nijd", rows, columns, images, optimize=True)


@functools.lru_cache(maxsize=4096)
def _averages(share: float, start: float, size: int, side: int) -> np.ndarray:
    """float32 [side, size]: averages over equal parts of [start, start + share] of `size` pixels."""
    edges = (start + share * np.arange(side + 1) / side) * size
    overlap = np.minimum(edges[1:, None], np.arange(size) + 1) - np.maximum(edges[:-1, None], np.arange(size))
    weights = np.maximum(overlap, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _blurred(images: np.ndarray) -> np.ndarray:
    """By the binomial filter 1 2 1 along both axes: a recompression's noise goes."""
    for axis in (1, 2):
        width = [(0, 0)] * 4
        width[axis] = (1, 1)
        padded = np.moveaxis(np.pad(images, width, "edge"), axis, 0)
        images = np.moveaxis((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4, 0, axis)
    return images


# ---- groups, for prepare ----------------------------------------------------------------------------------------


def near_duplicate_groups(
    source: Source, workers: int = 0, framing: Framing = PLAIN, progress: Callable[[str, int, int | None], None] = print
) -> dict[str, str]:
    """Keys of a source's entries that are near-duplicates of others -> one key for each group of them.

    Reads every image once, and finds those whose fine distance to another one is below SAME. Raises UserError.
    """
    keys: list[str] = []
    pixels: list[np.ndarray] = []
    total = len(source)
    with Decoders(workers) as pool:
        for done, (entry, decoded) in enumerate(decode(pool, source, FINE, framing)):
            if done % CHUNK == 0:
                progress("near-duplicates", done, total)
            if isinstance(entry, Record) and decoded is not None:
                keys.append(entry.key)
                pixels.append(decoded.pixels)
    progress("near-duplicates", total, total)
    if len(keys) < 2:
        return {}
    return group(keys, np.stack(pixels))


def group(keys: Sequence[str], images: np.ndarray) -> dict[str, str]:
    """Keys of near-duplicates -> the first key of their group. images: thumbnails [N, FINE, FINE, 3]."""
    parents = list(range(len(keys)))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    for number, candidates in enumerate(_candidates(images, images, np.arange(len(keys)), False, LIKELY)):
        for other, box, _ in candidates:
            if root(number) != root(other) and fine_distance(images[number], images[other], box) < SAME:
                low, high = sorted((root(number), root(other)))
                parents[high] = low
    roots = [root(number) for number in range(len(keys))]
    sizes = np.bincount(roots)
    return {key: keys[at] for key, at in zip(keys, roots) if sizes[at] > 1}
