"""Drawn shapes, the built-in data set: every attribute of an image is known, so obedience can be measured.

A Scene is one or two coloured shapes on a plain page. It is a handful of numbers; `draw` turns it into the
same image at any resolution, shapes_captions.py puts it into words, evaluation/attributes.py reads it back.
One pair in eight of colour and shape is never drawn for training: does a model combine what it learned apart?
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from t2i.errors import UsageError
from t2i.pixels import PLAIN_FORMAT, PixelFormat

RGB = tuple[int, int, int]
T = TypeVar("T")

# Objects are 100 apart in RGB from each other and from every background: blur and noise then mix up none.
COLOURS: dict[str, RGB] = {
    "red": (220, 30, 35),
    "green": (30, 150, 50),
    "blue": (35, 70, 225),
    "yellow": (255, 225, 20),
    "purple": (125, 35, 175),
    "orange": (250, 125, 10),
    "cyan": (20, 200, 220),
    "pink": (255, 110, 190),
}
BACKGROUNDS: dict[str, RGB] = {
    "white": (248, 248, 248),
    "black": (12, 12, 12),
    "grey": (128, 128, 128),
    "beige": (222, 200, 160),
}
# The share of the page that an object covers: the same for every shape, so size can be read without shape.
SIZES: dict[str, float] = {"small": 0.048, "medium": 0.100, "large": 0.215}
RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")  # of the first object to the second

# Each colour and each shape once: all of them train in seven pairs, so none is rarer and gives its pair away.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset({
    ("red", "cross"), ("green", "diamond"), ("blue", "heart"), ("yellow", "star"),
    ("purple", "circle"), ("orange", "square"), ("cyan", "triangle"), ("pink", "ring"),
})  # fmt: skip

TWO_OBJECTS = 0.3  # share of scenes that hold two objects
UNSEEN_IN_VAL = 0.5  # share of the single-object val scenes that show a held-out pair
TINT = 8  # colours vary by up to this much in each channel
MARGIN = 0.03  # no object comes closer to the edge of the page; all lengths are in page widths
GAP = 0.08  # free space between two objects: 2.5 px at 32 px, so that they stay two after blur
RESOLUTIONS = range(16, 257)
SPLITS = ("train", "val")


# --- outlines -----------------------------------------------------------------------------------------------


def _polar(radii: Sequence[float], turn: float) -> np.ndarray:
    """Points at equal angles around the origin, the first at `turn` radians: [len(radii), 2]."""
    angles = turn + np.arange(len(radii)) * (2 * math.pi / len(radii))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.asarray(radii)[:, None]


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 96, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _cross() -> np.ndarray:
    quarter = np.array([(1.0, 3.0), (1.0, 1.0), (3.0, 1.0)])  # arms a third as thick as they are long
    quarters = [quarter, quarter[::-1] * (1, -1), quarter * (-1, -1), quarter[::-1] * (-1, 1)]
    return np.concatenate(quarters)


def _unit(outer: np.ndarray, hole: float = 0.0) -> np.ndarray:
    """The outline with its bounding box around the origin and area 1, not counting a hole of that radius."""
    x, y = outer[:, 0], outer[:, 1]
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 * (1 - hole**2)
    return (outer - (outer.min(axis=0) + outer.max(axis=0)) / 2) / math.sqrt(area)


RING_HOLE = 0.5  # inner over outer radius

# Outlines of area 1, y downwards: [points, 2]. The order is the order of the names everywhere.
OUTLINES: dict[str, np.ndarray] = {
    "circle": _unit(_polar([1.0] * 96, 0.0)),
    "square": _unit(_polar([1.0] * 4, math.pi / 4)),
    "triangle": _unit(np.array([(0.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])),
    "star": _unit(_polar([1.0, 0.5] * 5, -math.pi / 2)),
    "heart": _unit(_heart()),
    "cross": _unit(_cross()),
    "diamond": _unit(np.array([(0.0, -1.0), (0.8, 0.0), (0.0, 1.0), (-0.8, 0.0)])),
    "ring": _unit(_polar([1.0] * 96, 0.0), hole=RING_HOLE),
}
SHAPES: tuple[str, ...] = tuple(OUTLINES)
PAIRS: tuple[tuple[str, str], ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
SEEN_PAIRS: tuple[tuple[str, str], ...] = tuple(pair for pair in PAIRS if pair not in HELD_OUT_PAIRS)
UNSEEN_PAIRS: tuple[tuple[str, str], ...] = tuple(pair for pair in PAIRS if pair in HELD_OUT_PAIRS)


def extent(shape: str, size: str) -> tuple[float, float]:
    """Width and height of an object, in page widths."""
    width, height = (OUTLINES[shape].max(axis=0) * 2 * math.sqrt(SIZES[size])).tolist()
    return width, height


# --- scenes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One object: names from COLOURS, SHAPES and SIZES, the colour as drawn, its box's centre in [0, 1]²."""

    colour: str
    shape: str
    size: str
    rgb: RGB
    x: float
    y: float

    @property
    def pair(self) -> tuple[str, str]:
        return self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    """One or two objects on a page. `relation` is of items[0] to items[1]; None with a single object.

    Two objects never have the same colour: "the red one" always says which.
    """

    items: tuple[Item, ...]
    background: str
    background_rgb: RGB
    relation: str | None = None

    @property
    def unseen(self) -> bool:
        """Whether an object shows a pair of colour and shape that training never shows."""
        return any(item.pair in HELD_OUT_PAIRS for item in self.items)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able. Says `unseen` too, for who reads the file."""
        items = [
            {"colour": i.colour, "shape": i.shape, "size": i.size, "rgb": list(i.rgb), "x": i.x, "y": i.y}
            for i in self.items
        ]
        return {
            "items": items,
            "background": self.background,
            "background_rgb": list(self.background_rgb),
            "relation": self.relation,
            "unseen": self.unseen,
        }


class Dice:
    """Random choices, seeded by words. Uses random() alone: the one method whose sequence Python promises."""

    def __init__(self, *words: object):
        self.uniform = random.Random("/".join(map(str, words))).random

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.uniform() * len(options))]

    def between(self, low: float, high: float) -> float:
        return round(low + (high - low) * self.uniform(), 4)  # short in JSON; 0.03 pixels at 256 px

    def tint(self, rgb: RGB) -> RGB:
        red, green, blue = (min(255, max(0, v + int(self.uniform() * (2 * TINT + 1)) - TINT)) for v in rgb)
        return red, green, blue

    def shade(self, rgb: RGB) -> RGB:
        """A little lighter or darker, all channels alike: a page stays as white as it was."""
        step = int(self.uniform() * (2 * TINT + 1)) - TINT
        red, green, blue = (min(255, max(0, value + step)) for value in rgb)
        return red, green, blue

    def shuffled(self, options: Sequence[T]) -> list[T]:
        return sorted(options, key=lambda _: self.uniform())


def _single(dice: Dice, pair: tuple[str, str], size: str, background: str) -> Scene:
    x, y = (dice.between(MARGIN + side / 2, 1 - MARGIN - side / 2) for side in extent(pair[1], size))
    item = Item(*pair, size, dice.tint(COLOURS[pair[0]]), x, y)
    return Scene((item,), background, dice.shade(BACKGROUNDS[background]))


def _double(dice: Dice, pairs: Sequence[tuple[str, str]], relation: str, background: str) -> Scene:
    """Two objects with a gap along one axis, shifted across it by at most a third of their distance."""
    # Two objects above "small" would not fit beside each other.
    sizes = dice.pick([("small", "small"), ("small", "medium"), ("medium", "small")])
    axis = 0 if relation in ("left of", "right of") else 1
    sides = [extent(pair[1], size) for pair, size in zip(pairs, sizes)]
    first, second = (0, 1) if relation in ("left of", "above") else (1, 0)  # by place on the axis

    spare = 1 - 2 * MARGIN - GAP - sides[0][axis] - sides[1][axis]
    before = dice.between(0, spare)
    gap = GAP + dice.between(0, spare - before)
    along = [0.0, 0.0]
    along[first] = MARGIN + before + sides[first][axis] / 2
    along[second] = along[first] + (sides[first][axis] + sides[second][axis]) / 2 + gap

    bounds = [(MARGIN + side[1 - axis] / 2, 1 - MARGIN - side[1 - axis] / 2) for side in sides]
    across = [dice.between(*bounds[0]), 0.0]
    reach = abs(along[1] - along[0]) / 3
    across[1] = dice.between(max(bounds[1][0], across[0] - reach), min(bounds[1][1], across[0] + reach))

    places = [(a, b) if axis == 0 else (b, a) for a, b in zip(along, across)]
    items = tuple(
        Item(*pair, size, dice.tint(COLOURS[pair[0]]), round(x, 4), round(y, 4))
        for pair, size, (x, y) in zip(pairs, sizes, places)
    )
    return Scene(items, background, dice.shade(BACKGROUNDS[background]), relation)


def _partner(dice: Dice, pair: tuple[str, str], pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """A pair of another colour."""
    return dice.pick([other for other in pairs if other[0] != pair[0]])


def scene_at(seed: int, index: int, split: str = "train") -> Scene:
    """The scene with that number: the same on every run and machine. Training scenes show SEEN_PAIRS only."""
    dice = Dice("scene", seed, split, index)
    two = dice.uniform() < TWO_OBJECTS
    unseen = not two and split == "val" and dice.uniform() < UNSEEN_IN_VAL
    pair = dice.pick(UNSEEN_PAIRS if unseen else SEEN_PAIRS)
    background = dice.pick(list(BACKGROUNDS))
    if two:
        return _double(dice, (pair, _partner(dice, pair, SEEN_PAIRS)), dice.pick(RELATIONS), background)
    return _single(dice, pair, dice.pick(list(SIZES)), background)


def evaluation_scenes(count: int, seen: bool = True, objects: int = 1, seed: int = 0) -> list[Scene]:
    """Scenes to make evaluation prompts of, with every pair (and relation) equally often, in mixed order.

    seen: pairs of colour and shape that training shows; else every object shows a held-out pair.
    objects: 1 or 2. With two, the first object's pairs are balanced, the second's are any of another colour.
    Raises UsageError for a count below 1 or another number of objects.
    """
    if count < 1:
        raise UsageError(f"evaluation needs at least 1 scene, got {count}")
    if objects not in (1, 2):
        raise UsageError(f"a scene of drawn shapes holds 1 or 2 objects, not {objects}")
    pairs = SEEN_PAIRS if seen else UNSEEN_PAIRS
    order = Dice("evaluation", seed, seen, objects)
    # Decks dealt side by side and shuffled anew when empty, so that no pair keeps meeting the same page.
    decks: dict[str, list[Any]] = {"pair": [], "size": [], "background": [], "relation": []}
    cards = {"pair": pairs, "size": list(SIZES), "background": list(BACKGROUNDS), "relation": RELATIONS}
    scenes = []
    for index in range(count):
        drawn = {}
        for name, deck in decks.items():
            if not deck:
                deck.extend(order.shuffled(cards[name]))
            drawn[name] = deck.pop()
        dice = Dice("evaluation", seed, seen, objects, index)
        if objects == 1:
            scenes.append(_single(dice, drawn["pair"], drawn["size"], drawn["background"]))
        else:
            both = (drawn["pair"], _partner(dice, drawn["pair"], pairs))
            scenes.append(_double(dice, both, drawn["relation"], drawn["background"]))
    return order.shuffled(scenes)  # neighbours from one deck would differ more often than by chance


# --- drawing ------------------------------------------------------------------------------------------------


def check_resolution(resolution: int) -> None:
    """Raises UsageError outside 16..256 px."""
    if resolution not in RESOLUTIONS:
        raise UsageError(f"shapes are drawn at {RESOLUTIONS.start} to {RESOLUTIONS.stop - 1} px, not {resolution}")


def draw(scene: Scene, resolution: int, form: PixelFormat = PLAIN_FORMAT) -> np.ndarray:
    """The scene, antialiased: uint8 [resolution, resolution, C] (pixels.py). Raises UsageError outside 16..256 px.

    A page of another aspect is longer on one side, and objects lie further apart there. On a transparent one there is
    no background.
    """
    check_resolution(resolution)
    fine = max(4, 512 // resolution)  # drawn so many times larger, then averaged
    side = resolution * fine
    stretch = np.array(form.aspect) / min(form.aspect)
    ground: tuple[int, ...] = scene.background_rgb
    page = Image.new("RGB", tuple((stretch * side).round().astype(int).tolist()), ground)
    if form.transparent:  # nothing, whose colours times alpha are 0 too
        ground = 0, 0, 0, 0
        page = Image.new("RGBA", page.size, ground)
    pen = ImageDraw.Draw(page)
    for item in scene.items:
        outline = OUTLINES[item.shape] * math.sqrt(SIZES[item.size])
        centre = np.array([item.x, item.y]) * stretch
        # Pillow counts from the centre of the first pixel: hence the half.
        pen.polygon(((outline + centre) * side - 0.5).ravel().tolist(), fill=item.rgb)
        if item.shape == "ring":
            pen.polygon(((outline * RING_HOLE + centre) * side - 0.5).ravel().tolist(), fill=ground)
    if form.aspect == (1, 1):
        page = page.reduce(fine)
    else:
        # As premultiplied, which they are: Pillow would divide by alpha otherwise.
        bands = [band.resize((resolution, resolution), Image.Resampling.BOX) for band in page.split()]
        page = Image.merge(page.mode, bands)
    pixels = np.asarray(page.convert("L") if form.channels == "grey" else page)
    return pixels[:, :, None] if form.channels == "grey" else pixels
