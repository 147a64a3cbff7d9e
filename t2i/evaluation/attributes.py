"""Attribute accuracy on synthetic shapes: an exact reader of colours, shapes, sizes, positions and the background.

Nothing here is trained, and the reader never sees the prompt. The background is the colour of the border; the pixels
that differ from it form connected pieces. A piece has the nearest colour of the palette, and its size is its share of
the image. Its shape is the template, rendered by `draw`, that it correlates with best.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from t2i.data.shapes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Item, Scene, draw, evaluation_scenes
from t2i.data.shapes_captions import canonical_caption

READ_AT = 64  # px; larger images are averaged down to it: no attribute needs more
BACKGROUND_SPREAD = 60.0  # RGB distance from the background up to which a border pixel belongs to it
BACKGROUND_SHARE = 0.6  # least share of such border pixels; below, there is no background (noise)
FOREGROUND = 45.0  # RGB distance from the background: half way to the nearest colour of an object
LEAST_AREA = SIZES["small"] / 3  # of the image; smaller pieces are noise
MOST_AREA = 0.5  # of the image; a larger piece is a second background, not an object
PALEST = 0.6  # least share of an object's own colour inside it; the rest is background
LEAST_MATCH = 0.6  # correlation with the best template; below, the shape is unknown

_GRID = 24  # side of the grid on which shapes are compared
_REACH = 0.95  # half its width, in square roots of the object's area: the tips of a star fit
_PALETTE = {**COLOURS, **BACKGROUNDS}
_NAMES = tuple(_PALETTE)
_RGB = np.array(list(_PALETTE.values()), dtype=np.float32)
_SIZE_NAMES = tuple(SIZES)
_SIZE_BOUNDS = [math.sqrt(a * b) for a, b in zip(list(SIZES.values()), list(SIZES.values())[1:])]


@dataclass(frozen=True, slots=True)
class ReadObject:
    """One object found. shape: None where no template fits. area: share of the image. (x, y): the centroid.

    match: correlation with the template of its shape, up to 1.
    """

    colour: str
    shape: str | None
    size: str
    area: float
    x: float
    y: float
    match: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The objects of an image, the largest first. background: None where the border has no single colour."""

    background: str | None
    objects: tuple[ReadObject, ...]


def read_image(image: np.ndarray) -> Reading:
    """Reads uint8 [R, R, 3]; R is at least 16, and from 32 on reliable. Raises ValueError for another shape or type."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape != (len(image), len(image), 3):
        raise ValueError(f"an image is uint8 [R, R, 3], not {image.dtype} {list(image.shape)}")
    if len(image) < 16:
        raise ValueError(f"an image of {len(image)} px is too small to read shapes: at least 16 px")
    if len(image) > READ_AT:
        image = np.asarray(Image.fromarray(image).resize((READ_AT, READ_AT), Image.Resampling.BOX))
    pixels = image.astype(np.float32)
    background = _background_colour(pixels)
    if background is None:
        return Reading(None, ())
    name = _NAMES[_nearest(background)]
    found = [_read_object(pixels, background, *piece) for piece in _pieces(pixels, background)]
    objects = sorted((one for one in found if one is not None), key=lambda one: -one.area)
    return Reading(name if name in BACKGROUNDS else None, tuple(objects))


def relation(first: ReadObject, second: ReadObject) -> str:
    """The position of the first object relative to the second, along the axis of their larger distance."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


# --- background and pieces ----------------------------------------------------------------------------------


def _nearest(colour: np.ndarray) -> int:
    return int(((_RGB - colour) ** 2).sum(axis=1).argmin())


def _squared(line: np.ndarray) -> float:
    return max(float(line @ line), 1.0)  # in noise a piece's mean colour can be the background's


def _background_colour(pixels: np.ndarray) -> np.ndarray | None:
    """The median colour of the border, float32 [3]; None where too little of the border has it."""
    edge = max(1, len(pixels) // 16)
    border = np.ones(pixels.shape[:2], dtype=bool)
    border[edge:-edge, edge:-edge] = False
    colour = np.median(pixels[border], axis=0)
    near = np.linalg.norm(pixels[border] - colour, axis=1) < BACKGROUND_SPREAD
    return colour if near.mean() >= BACKGROUND_SHARE else None


def _spread(mask: np.ndarray) -> np.ndarray:
    """The mask and its neighbours in four directions."""
    wide = np.pad(mask, 1)
    return wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]


def _core(mask: np.ndarray) -> np.ndarray:
    """The mask without its rim, whose pixels are mixed with their neighbours outside."""
    return ~_spread(np.pad(~mask, 1, constant_values=True))[1:-1, 1:-1]


def _components(mask: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a bool [R, R], diagonals too, of at least LEAST_AREA: masks of the same shape."""
    side = len(mask)
    outside = side * side
    labels = np.where(mask, np.arange(outside).reshape(side, side), outside)
    while True:
        wide = np.pad(labels, 1, constant_values=outside)
        rows = np.minimum(np.minimum(wide[:-2], wide[1:-1]), wide[2:])
        lowest = np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
        # A label is the number of a pixel in the same part: taking that pixel's label halves the path.
        lowest = np.where(mask, np.append(lowest, outside)[lowest], outside)
        if (lowest == labels).all():
            break
        labels = lowest
    names, counts = np.unique(labels[mask], return_counts=True)
    return [labels == name for name, count in zip(names, counts) if count >= LEAST_AREA * outside]


def _own_colour(inside: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The colour [3] of a piece with the pixels [n, 3]: that of the pixels furthest from the background, unmixed ones.

    Where two colours touch it is the one with more pixels, not a mean of both.
    """
    distance = np.linalg.norm(inside - background, axis=1)
    far = inside[distance >= np.quantile(distance, 0.7)]
    labels = ((far[:, None] - _RGB) ** 2).sum(axis=2).argmin(axis=1)
    return np.median(far[labels == np.bincount(labels).argmax()], axis=0)


def _pieces(pixels: np.ndarray, background: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pieces that differ from the background: masks, bool [R, R], each with its colour, [3].

    Blur mixes an object with the background only along the line between their colours. A pixel off that line belongs
    to another object, even where the two touch.
    """
    pieces = []
    parts = _components(np.linalg.norm(pixels - background, axis=2) > FOREGROUND)
    while parts:
        part = parts.pop()
        colour = _own_colour(pixels[part], background)
        line = colour - background
        along = np.clip((pixels - background) @ line / _squared(line), 0, 1.2)[:, :, None] * line
        strange = part & (np.linalg.norm(pixels - background - along, axis=2) > FOREGROUND)
        others = [other for other in _components(strange) if _core(other).any()]
        if others and strange.sum() < part.sum():  # in noise no pixel may have the median colour
            parts.extend(others)
            parts.extend(_components(part & ~np.any(others, axis=0)))
        else:
            pieces.append((part, colour))
    return pieces


# --- one object ---------------------------------------------------------------------------------------------


def _name_of(colour: np.ndarray, background: np.ndarray) -> tuple[str, float]:
    """The palette's name for an object's colour, and the share of that colour in the mixture, in [PALEST, 1].

    The inside of a thin, blurred object is always mixed with the background, so an object's colour may be paler.
    """
    lines = _RGB - background
    share = np.clip((lines @ (colour - background)) / np.maximum((lines**2).sum(axis=1), 1), PALEST, 1)
    share[len(COLOURS) :] = 1
    best = int(((background + share[:, None] * lines - colour) ** 2).sum(axis=1).argmin())
    return _NAMES[best], float(share[best])


def _normalised(cover: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """The coverage on a grid around its centroid, scaled to area 1 and to mean 0 and length 1: [_GRID²].

    Also the area as a share of the image, and the centroid (x, y) in image widths.
    """
    side = len(cover)
    total = max(float(cover.sum()), 1e-6)
    positions = np.arange(side) + 0.5
    x, y = float(cover.sum(axis=0) @ positions) / total, float(cover.sum(axis=1) @ positions) / total
    steps = ((np.arange(_GRID) + 0.5) / _GRID * 2 - 1) * _REACH * math.sqrt(total)
    patch = _between(_between(cover, y + steps).T, x + steps).T.ravel()
    patch = patch - patch.mean()
    return patch / max(float(np.linalg.norm(patch)), 1e-6), total / side**2, x / side, y / side


def _between(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows of [R, C] at fractional positions, linearly interpolated, zero outside: [len(at), C]."""
    wide = np.pad(rows, ((1, 1), (0, 0)))
    position = np.clip(at + 0.5, 0, len(rows) + 0.999)
    low = np.floor(position).astype(int)
    part = (position - low)[:, None]
    return wide[low] * (1 - part) + wide[np.minimum(low + 1, len(rows) + 1)] * part


@lru_cache(maxsize=16)
def _templates(side: int) -> np.ndarray:
    """Every shape at that resolution, sharp and blurred: float32 [sizes, shapes, 2, _GRID²]."""
    ink = np.array(COLOURS["yellow"], np.float32)  # on black
    bank = np.zeros((len(SIZES), len(SHAPES), 2, _GRID * _GRID), np.float32)
    for s, size in enumerate(SIZES):
        for k, shape in enumerate(SHAPES):
            for shift in range(8):  # at 32 px the position within a pixel changes the pixels: take the mean
                x, y = 0.5 + shift / 8 / side, 0.5 + (shift * 3 % 8) / 8 / side
                item = Item("yellow", shape, size, COLOURS["yellow"], x, y)
                sharp = Image.fromarray(draw(Scene((item,), "black", (0, 0, 0)), side))
                for blurred, image in enumerate((sharp, sharp.filter(ImageFilter.GaussianBlur(0.8)))):
                    cover = np.clip(np.asarray(image, np.float32) @ ink / (ink @ ink), 0, 1)
                    bank[s, k, blurred] += _normalised(cover)[0]
    return bank / np.linalg.norm(bank, axis=-1, keepdims=True)


def _read_object(
    pixels: np.ndarray, background: np.ndarray, piece: np.ndarray, colour: np.ndarray
) -> ReadObject | None:
    """The object that a piece is; None for a background's colour, or a size that no object has."""
    name, share = _name_of(colour, background)
    # Blur keeps the sum of the coverage, hence the area. A pale inside is a thin object blurred (divide by share) or
    # an object generated pale (do not): which one is not known, so the geometric mean is taken.
    line = (colour - background) / math.sqrt(share)
    cover = np.clip((pixels - background) @ line / _squared(line), 0, 1) * _spread(_spread(piece))
    patch, area, x, y = _normalised(cover)
    if name in BACKGROUNDS or not LEAST_AREA <= area <= MOST_AREA:
        return None
    size = int(np.searchsorted(_SIZE_BOUNDS, area))
    matches = (_templates(len(pixels))[size] @ patch).max(axis=1)
    best = int(matches.argmax())
    shape = SHAPES[best] if matches[best] >= LEAST_MATCH else None
    return ReadObject(name, shape, _SIZE_NAMES[size], area, x, y, float(matches[best]))


# --- scores -------------------------------------------------------------------------------------------------

# The attributes that an image is checked for, by the number of its objects.
CHECKED = {
    "single": ("colour", "shape", "size", "background", "pair", "all"),
    "double": ("colours", "objects", "relation", "background", "all"),
}


def accuracy(
    sample: Callable[[Sequence[str], Sequence[int]], np.ndarray], resolution: int, count: int, seed: int = 0
) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """A model's prompt adherence, by prompts that name every attribute, with its bounds: ceiling and floor.

    sample: prompts and seeds -> uint8 [N, R, R, 3]. count: scenes of each kind. seed: of the noise.
    Returns the shares named in CHECKED for each of ("single", "seen"), ("single", "unseen"), ("double", "seen") and
    ("double", "unseen"); seen: whether the training data has the pair of colour and shape. "model": of the model's
    samples. "ceiling": of the scenes themselves, rendered. "floor": of the samples with the scenes shuffled.
    """
    results = {}
    for objects, group in ((1, "single"), (2, "double")):
        for seen in (True, False):
            scenes = evaluation_scenes(count, seen, objects)
            seeds = range(seed << 32, (seed << 32) + count)
            samples = sample([canonical_caption(scene) for scene in scenes], seeds)
            shuffled = [scenes[i] for i in np.random.default_rng(0).permutation(count)]
            scores = {
                "model": score(samples, scenes),
                "ceiling": score([draw(scene, resolution) for scene in scenes], scenes),
                "floor": score(samples, shuffled),
            }
            results[group, "seen" if seen else "unseen"] = {
                which: {name: found[group][name] for name in CHECKED[group]} for which, found in scores.items()
            }
    return results


def score(images: Sequence[np.ndarray] | np.ndarray, scenes: Sequence[Scene]) -> dict[str, dict[str, float]]:
    """How often images, uint8 [R, R, 3], have the attributes of their scenes: shares in [0, 1] and the count.

    "single", over scenes of one object: colour, shape, size and background of the largest object; pair
    (colour and shape); all (those four); alone (there is exactly one object).
    "double", over scenes of two: objects (both found, each with its colour and its shape, among the two
    largest); colours (both colours found); relation (both colours found, in the right relative position);
    background; all (objects, relation, background).
    In an image without an object everything counts as wrong, the background too. A group without scenes is left out.
    Raises ValueError where the counts differ or an image has another shape or type.
    """
    if len(images) != len(scenes):
        raise ValueError(f"{len(images)} images for {len(scenes)} scenes")
    rows: dict[str, list[dict[str, bool]]] = {"single": [], "double": []}
    for image, scene in zip(images, scenes):
        reading = read_image(image)
        if len(scene.items) == 1:
            rows["single"].append(_check_single(reading, scene))
        else:
            rows["double"].append(_check_double(reading, scene))
    return {
        group: {"count": len(checks)} | {name: _mean([c[name] for c in checks]) for name in checks[0]}
        for group, checks in rows.items()
        if checks
    }


def _mean(values: list[bool]) -> float:
    return sum(values) / len(values)


def _check_single(reading: Reading, scene: Scene) -> dict[str, bool]:
    wanted = scene.items[0]
    found = reading.objects[0] if reading.objects else None
    right = {
        "colour": found is not None and found.colour == wanted.colour,
        "shape": found is not None and found.shape == wanted.shape,
        "size": found is not None and found.size == wanted.size,
        "background": found is not None and reading.background == scene.background,
    }
    right["pair"] = right["colour"] and right["shape"]
    right["all"] = all(right.values())
    right["alone"] = len(reading.objects) == 1
    return right


def _check_double(reading: Reading, scene: Scene) -> dict[str, bool]:
    # Two objects have different colours, so the colour identifies an object.
    by_colour = {found.colour: found for found in reading.objects[:2]}
    first, second = (by_colour.get(item.colour) for item in scene.items)
    both = (first, second) if first is not None and second is not None else None
    right = {
        "colours": both is not None,
        "objects": both is not None and [found.shape for found in both] == [item.shape for item in scene.items],
        "relation": both is not None and relation(*both) == scene.relation,
        "background": bool(reading.objects) and reading.background == scene.background,
    }
    right["all"] = all(right.values())
    return right
