"""Reads a picture of drawn shapes back: which colours, shapes and sizes are there, on which page, and where?

Nothing here is trained. The page is the colour of the border; what differs from it falls into connected
pieces; a piece's colour is the nearest of the palette, its size the share of the page that it covers, its
shape the template (drawn by `draw` itself) that it correlates with best. The reading never sees the prompt.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from t2i.data.shapes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Item, Scene, draw, evaluation_scenes
from t2i.data.shapes_captions import canonical_caption

READ_AT = 64  # larger pictures are averaged down to this many pixels a side: no attribute needs more
PAGE_SPREAD = 60.0  # RGB distance from the page's colour up to which a border pixel belongs to the page
PAGE_SHARE = 0.6  # of the border that must do so; else there is no page (noise)
FOREGROUND = 45.0  # RGB distance from the page's colour: half way to the nearest colour of an object
LEAST_AREA = SIZES["small"] / 3  # of the page; smaller pieces are crumbs
MOST_AREA = 0.5  # of the page; a larger piece is another page, not an object
PALEST = 0.6  # the least share of its own colour in the inside of an object, the rest being page
LEAST_MATCH = 0.6  # correlation with the best template; below, the shape is none of ours

_GRID = 24  # side of the grid on which shapes are compared
_REACH = 0.95  # half its width, in units of the square root of the object's area: the tips of a star fit
_PALETTE = {**COLOURS, **BACKGROUNDS}
_NAMES = tuple(_PALETTE)
_RGB = np.array(list(_PALETTE.values()), dtype=np.float32)
_SIZE_NAMES = tuple(SIZES)
_SIZE_BOUNDS = [math.sqrt(a * b) for a, b in zip(list(SIZES.values()), list(SIZES.values())[1:])]


@dataclass(frozen=True, slots=True)
class ReadObject:
    """One object found. shape is None where nothing fits; area is its share of the page; (x, y) its centroid.

    match: the correlation with the template of its shape, up to 1.
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
    """What a picture shows, the largest object first. background is None where the border is no page's."""

    background: str | None
    objects: tuple[ReadObject, ...]


def read_picture(image: np.ndarray) -> Reading:
    """Reads uint8 [R, R, 3], R from 16 (from 32 on reliably). Raises ValueError for another shape or type."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape != (len(image), len(image), 3):
        raise ValueError(f"a picture is uint8 [R, R, 3], not {image.dtype} {list(image.shape)}")
    if len(image) < 16:
        raise ValueError(f"a picture of {len(image)} px is too small to read shapes in: at least 16 px")
    if len(image) > READ_AT:
        image = np.asarray(Image.fromarray(image).resize((READ_AT, READ_AT), Image.Resampling.BOX))
    pixels = image.astype(np.float32)
    page = _page_colour(pixels)
    if page is None:
        return Reading(None, ())
    name = _NAMES[_nearest(page)]
    found = [_read_object(pixels, page, *piece) for piece in _pieces(pixels, page)]
    objects = sorted((one for one in found if one is not None), key=lambda one: -one.area)
    return Reading(name if name in BACKGROUNDS else None, tuple(objects))


def relation(first: ReadObject, second: ReadObject) -> str:
    """How the first object lies to the second, along the axis on which they are further apart."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


# --- page and pieces ----------------------------------------------------------------------------------------


def _nearest(colour: np.ndarray) -> int:
    return int(((_RGB - colour) ** 2).sum(axis=1).argmin())


def _squared(line: np.ndarray) -> float:
    return max(float(line @ line), 1.0)  # in noise a piece's mean colour can be the page's


def _page_colour(pixels: np.ndarray) -> np.ndarray | None:
    """The border's median colour, float32 [3]; None where too little of the border has it."""
    edge = max(1, len(pixels) // 16)
    border = np.ones(pixels.shape[:2], dtype=bool)
    border[edge:-edge, edge:-edge] = False
    colour = np.median(pixels[border], axis=0)
    near = np.linalg.norm(pixels[border] - colour, axis=1) < PAGE_SPREAD
    return colour if near.mean() >= PAGE_SHARE else None


def _spread(mask: np.ndarray) -> np.ndarray:
    """The mask and its neighbours in four directions."""
    wide = np.pad(mask, 1)
    return wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]


def _core(mask: np.ndarray) -> np.ndarray:
    """The mask without its rim: what no neighbour outside it has blurred."""
    return ~_spread(np.pad(~mask, 1, constant_values=True))[1:-1, 1:-1]


def _components(mask: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a bool [R, R], diagonals too, that are no crumbs: masks of the same shape."""
    side = len(mask)
    outside = side * side
    labels = np.where(mask, np.arange(outside).reshape(side, side), outside)
    while True:
        wide = np.pad(labels, 1, constant_values=outside)
        rows = np.minimum(np.minimum(wide[:-2], wide[1:-1]), wide[2:])
        lowest = np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
        # A label is the number of a pixel in the same part: jumping to that pixel's label halves the way.
        lowest = np.where(mask, np.append(lowest, outside)[lowest], outside)
        if (lowest == labels).all():
            break
        labels = lowest
    names, counts = np.unique(labels[mask], return_counts=True)
    return [labels == name for name, count in zip(names, counts) if count >= LEAST_AREA * outside]


def _own_colour(inside: np.ndarray, page: np.ndarray) -> np.ndarray:
    """The colour, [3], of a piece whose pixels are [n, 3]: of those furthest from the page: rims are mixed.

    Where two colours touch it is the one with more pixels, not a mean of both.
    """
    distance = np.linalg.norm(inside - page, axis=1)
    far = inside[distance >= np.quantile(distance, 0.7)]
    labels = ((far[:, None] - _RGB) ** 2).sum(axis=2).argmin(axis=1)
    return np.median(far[labels == np.bincount(labels).argmax()], axis=0)


def _pieces(pixels: np.ndarray, page: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """What stands out from the page: masks, bool [R, R], each with its colour, [3].

    Blur mixes an object with the page only along the line between their colours. What lies off that line is
    another object, even where the two touch.
    """
    pieces = []
    parts = _components(np.linalg.norm(pixels - page, axis=2) > FOREGROUND)
    while parts:
        part = parts.pop()
        colour = _own_colour(pixels[part], page)
        line = colour - page
        along = np.clip((pixels - page) @ line / _squared(line), 0, 1.2)[:, :, None] * line
        strange = part & (np.linalg.norm(pixels - page - along, axis=2) > FOREGROUND)
        others = [other for other in _components(strange) if _core(other).any()]
        if others and strange.sum() < part.sum():  # of noise no pixel may have the median colour
            parts.extend(others)
            parts.extend(_components(part & ~np.any(others, axis=0)))
        else:
            pieces.append((part, colour))
    return pieces


# --- one object ---------------------------------------------------------------------------------------------


def _name_of(colour: np.ndarray, page: np.ndarray) -> tuple[str, float]:
    """The palette's name for an object's colour, and how little of the page is mixed into it, in [PALEST, 1].

    The inside of a thin object is never free of the page once it is blurred, so every colour of an object may
    be paler by some page.
    """
    lines = _RGB - page
    share = np.clip((lines @ (colour - page)) / np.maximum((lines**2).sum(axis=1), 1), PALEST, 1)
    share[len(COLOURS) :] = 1
    best = int(((page + share[:, None] * lines - colour) ** 2).sum(axis=1).argmin())
    return _NAMES[best], float(share[best])


def _normalised(cover: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """The coverage on a grid around its centroid, scaled to area 1 and to mean 0 and length 1: [_GRID²].

    Also the area as a share of the page, and the centroid (x, y) in page widths.
    """
    side = len(cover)
    total = max(float(cover.sum()), 1e-6)
    places = np.arange(side) + 0.5
    x, y = float(cover.sum(axis=0) @ places) / total, float(cover.sum(axis=1) @ places) / total
    steps = ((np.arange(_GRID) + 0.5) / _GRID * 2 - 1) * _REACH * math.sqrt(total)
    patch = _between(_between(cover, y + steps).T, x + steps).T.ravel()
    patch = patch - patch.mean()
    return patch / max(float(np.linalg.norm(patch)), 1e-6), total / side**2, x / side, y / side


def _between(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows of [R, C] at fractional places, linearly interpolated, zero outside: [len(at), C]."""
    wide = np.pad(rows, ((1, 1), (0, 0)))
    place = np.clip(at + 0.5, 0, len(rows) + 0.999)
    low = np.floor(place).astype(int)
    part = (place - low)[:, None]
    return wide[low] * (1 - part) + wide[np.minimum(low + 1, len(rows) + 1)] * part


@lru_cache(maxsize=16)
def _templates(side: int) -> np.ndarray:
    """Every shape as it looks at that resolution, crisp and soft: float32 [sizes, shapes, 2, _GRID²]."""
    page, ink = np.zeros(3, np.float32), np.array(COLOURS["yellow"], np.float32)
    bank = np.zeros((len(SIZES), len(SHAPES), 2, _GRID * _GRID), np.float32)
    for s, size in enumerate(SIZES):
        for k, shape in enumerate(SHAPES):
            for shift in range(8):  # places within a pixel look different at 32 px: take their mean
                x, y = 0.5 + shift / 8 / side, 0.5 + (shift * 3 % 8) / 8 / side
                item = Item("yellow", shape, size, COLOURS["yellow"], x, y)
                picture = Image.fromarray(draw(Scene((item,), "black", (0, 0, 0)), side))
                for soft in (0, 1):
                    shown = picture.filter(ImageFilter.GaussianBlur(soft * 0.8)) if soft else picture
                    cover = np.clip(np.asarray(shown, np.float32) @ (ink - page) / (ink @ ink), 0, 1)
                    bank[s, k, soft] += _normalised(cover)[0]
    return bank / np.linalg.norm(bank, axis=-1, keepdims=True)


def _read_object(pixels: np.ndarray, page: np.ndarray, piece: np.ndarray, colour: np.ndarray) -> ReadObject | None:
    """What the piece is; None where its colour is a page's, or it is too small or too large for an object."""
    name, share = _name_of(colour, page)
    # Blur moves coverage about but keeps its sum, so the area survives it. Whether a pale inside is a thin
    # object blurred (divide by share) or one drawn pale (do not) is not known: the mean does for both.
    line = (colour - page) / math.sqrt(share)
    cover = np.clip((pixels - page) @ line / _squared(line), 0, 1) * _spread(_spread(piece))
    patch, area, x, y = _normalised(cover)
    if name in BACKGROUNDS or not LEAST_AREA <= area <= MOST_AREA:
        return None
    size = int(np.searchsorted(_SIZE_BOUNDS, area))
    matches = (_templates(len(pixels))[size] @ patch).max(axis=1)
    best = int(matches.argmax())
    shape = SHAPES[best] if matches[best] >= LEAST_MATCH else None
    return ReadObject(name, shape, _SIZE_NAMES[size], area, x, y, float(matches[best]))


# --- scores -------------------------------------------------------------------------------------------------

# What is asked of a picture, by the number of its objects.
ASKED = {
    "single": ("colour", "shape", "size", "background", "pair", "all"),
    "double": ("colours", "objects", "relation", "background", "all"),
}


def accuracy(
    draw_prompts: Callable[[Sequence[str], Sequence[int]], np.ndarray], resolution: int, count: int, seed: int = 0
) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """How a model obeys prompts that name everything, with a ruler at either end.

    draw_prompts: prompts and seeds -> uint8 [N, R, R, 3]. count: scenes of each kind. seed: of the noise.
    Returns, for each of ("single", "seen"), ("single", "unseen"), ("double", "seen") and ("double", "unseen") pairs of
    colour and shape, the shares named in ASKED of the model's pictures ("model"), of pictures drawn from the scenes
    themselves ("ceiling") and of the model's with the scenes shuffled ("floor").
    """
    results = {}
    for objects, group in ((1, "single"), (2, "double")):
        for seen in (True, False):
            scenes = evaluation_scenes(count, seen, objects)
            seeds = range(seed << 32, (seed << 32) + count)
            drawn = draw_prompts([canonical_caption(scene) for scene in scenes], seeds)
            shuffled = [scenes[i] for i in np.random.default_rng(0).permutation(count)]
            rulers = {
                "model": score(drawn, scenes),
                "ceiling": score([draw(scene, resolution) for scene in scenes], scenes),
                "floor": score(drawn, shuffled),
            }
            results[group, "seen" if seen else "unseen"] = {
                ruler: {name: found[group][name] for name in ASKED[group]} for ruler, found in rulers.items()
            }
    return results


def score(images: Sequence[np.ndarray] | np.ndarray, scenes: Sequence[Scene]) -> dict[str, dict[str, float]]:
    """How often each image, uint8 [R, R, 3], shows what its scene says: shares in [0, 1] and the count.

    "single", over scenes of one object: colour, shape, size and background of the largest object; pair
    (colour and shape); all (those four); alone (there is exactly one object).
    "double", over scenes of two: objects (both found, each with its colour and its shape, among the two
    largest); colours (both colours found); relation (both colours found, and they lie as they should);
    background; all (objects, relation, background).
    A picture without an object has everything wrong, its page too. A group without scenes is left out.
    Raises ValueError where the counts differ or an image is no picture.
    """
    if len(images) != len(scenes):
        raise ValueError(f"{len(images)} images for {len(scenes)} scenes")
    rows: dict[str, list[dict[str, bool]]] = {"single": [], "double": []}
    for image, scene in zip(images, scenes):
        reading = read_picture(image)
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
    shown = reading.objects[0] if reading.objects else None
    right = {
        "colour": shown is not None and shown.colour == wanted.colour,
        "shape": shown is not None and shown.shape == wanted.shape,
        "size": shown is not None and shown.size == wanted.size,
        "background": shown is not None and reading.background == scene.background,
    }
    right["pair"] = right["colour"] and right["shape"]
    right["all"] = all(right.values())
    right["alone"] = len(reading.objects) == 1
    return right


def _check_double(reading: Reading, scene: Scene) -> dict[str, bool]:
    # Two objects have different colours, so an object is told by its colour.
    by_colour = {shown.colour: shown for shown in reading.objects[:2]}
    first, second = (by_colour.get(item.colour) for item in scene.items)
    both = (first, second) if first is not None and second is not None else None
    right = {
        "colours": both is not None,
        "objects": both is not None and [shown.shape for shown in both] == [item.shape for item in scene.items],
        "relation": both is not None and relation(*both) == scene.relation,
        "background": bool(reading.objects) and reading.background == scene.background,
    }
    right["all"] = all(right.values())
    return right
