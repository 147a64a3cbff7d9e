"""Drawn shapes in words: one scene has thousands of captions, and none of them says anything wrong.

Colour and shape are always named, size and background often; the order of words, the sentence and the
synonyms vary. A model that reads few different sentences learns those and not what their words mean.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from t2i.data.shapes import Item, Scene

T = TypeVar("T")

# A name is its own first word and each word belongs to one name only, so a caption can be read back.
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red",),
    "green": ("green",),
    "blue": ("blue",),
    "yellow": ("yellow",),
    "purple": ("purple", "violet"),
    "orange": ("orange",),
    "cyan": ("cyan", "turquoise"),
    "pink": ("pink",),
}
SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star", "five-pointed star"),
    "heart": ("heart",),
    "cross": ("cross", "plus sign", "plus"),
    "diamond": ("diamond", "rhombus"),
    "ring": ("ring", "hoop"),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized", "mid-sized"),
    "large": ("large", "big", "huge"),
}
BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "white": ("white",),
    "black": ("black",),
    "grey": ("grey", "gray"),
    "beige": ("beige", "cream"),
}
RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}

SAY_SIZE = 0.6  # share of captions that name the size (of each object); the rest leave it open
SAY_BACKGROUND = 0.6

# {a}: the article is put in at the end, when the word after it is known.
_LEADS = ("", "", "", "{a} picture of ", "{a} drawing of ", "{a} image of ", "there is ", "this is ")
_PAGES_AFTER = (
    "{thing} on {a} {page} background",
    "{thing} on {page}",
    "{thing} against {page}",
    "{thing} against {a} {page} backdrop",
    "{thing} in front of {a} {page} background",
    "{thing} with {a} {page} background",
)
_PAGES_BEFORE = (
    "on {a} {page} background, {thing}",
    "against {a} {page} backdrop, {thing}",
    "{a} {page} background with {thing}",
    "{a} {page} page with {thing} on it",
)
_NAMES = (  # of an object with its size in front ("" where it is not said)
    "{a} {size}{colour} {shape}",
    "{a} {size}{colour} {shape}",
    "{a} {size}{colour} {shape}",
    "{a} {size}{colour}-coloured {shape}",
    "{a} {size}{shape} in {colour}",
    "{a} {size}{shape} coloured {colour}",
    "{a} {size}{shape} that is {colour}",
)
_STATEMENTS = (  # whole sentences about a single object, with its size and without
    (
        "the {size} {shape} is {colour}",
        "the {colour} {shape} is {size}",
        "the {shape} is {size} and {colour}",
    ),
    (
        "the {shape} is {colour}",
        "the {shape} has the colour {colour}",
        "the object is {a} {colour} {shape}",
    ),
)
_SIDES = {  # the first object's place, then the second's
    "left of": ("on the left", "on the right"),
    "right of": ("on the right", "on the left"),
    "above": ("at the top", "at the bottom"),
    "below": ("at the bottom", "at the top"),
}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def _pick(uniform: Callable[[], float], options: Sequence[T]) -> T:
    return options[int(uniform() * len(options))]


def _articles(text: str) -> str:
    """Every {a} as "a" or "an", by the first letter of the next word: no word here breaks that rule."""
    first, *rest = text.split("{a} ")
    return first + "".join(("an " if part[0] in "aeiou" else "a ") + part for part in rest)


def _name(item: "Item", uniform: Callable[[], float]) -> str:
    """The object as a noun, article open: "{a} tiny red disc"."""
    size = _pick(uniform, SIZE_WORDS[item.size]) + " " if uniform() < SAY_SIZE else ""
    colour, shape = _pick(uniform, COLOUR_WORDS[item.colour]), _pick(uniform, SHAPE_WORDS[item.shape])
    return _pick(uniform, _NAMES).format(a="{a}", size=size, colour=colour, shape=shape)


def _statement(item: "Item", uniform: Callable[[], float]) -> str:
    say_size = uniform() < SAY_SIZE
    return _pick(uniform, _STATEMENTS[0 if say_size else 1]).format(
        a="{a}",
        size=_pick(uniform, SIZE_WORDS[item.size]),
        colour=_pick(uniform, COLOUR_WORDS[item.colour]),
        shape=_pick(uniform, SHAPE_WORDS[item.shape]),
    )


def _two(scene: "Scene", uniform: Callable[[], float]) -> str:
    """Both objects and how they lie, told from either of them."""
    (first, second), relation = scene.items, scene.relation
    assert relation is not None
    if uniform() < 0.5:
        first, second, relation = second, first, OPPOSITE[relation]
    one, other = _name(first, uniform), _name(second, uniform)
    form = uniform()
    if form < 0.25:
        here, there = _SIDES[relation]
        return f"{one} {here} and {other} {there}"
    where = _pick(uniform, RELATION_WORDS[relation])
    if form < 0.4:
        return f"{where} {other} is {one}"
    if form < 0.5:
        return f"{where} {other} there is {one}"
    return f"{one} {where} {other}"


def caption(scene: "Scene", uniform: Callable[[], float], page: bool = True) -> str:
    """One caption of the scene; `uniform` gives the random numbers in [0, 1). page: speak of the background, often."""
    lead, stands_alone = _pick(uniform, _LEADS), False
    if len(scene.items) == 2:
        text = _two(scene, uniform)
        stands_alone = not text.startswith("{a} ")  # "left of a box is ..." follows no "a picture of"
    elif uniform() < 0.2:
        text, stands_alone = _statement(scene.items[0], uniform), True
    else:
        text = _name(scene.items[0], uniform)
    if page and uniform() < SAY_BACKGROUND:
        colour = _pick(uniform, BACKGROUND_WORDS[scene.background])
        if stands_alone or lead or uniform() < 0.6:
            text = _pick(uniform, _PAGES_AFTER).format(a="{a}", thing=text, page=colour)
        else:
            text, lead = _pick(uniform, _PAGES_BEFORE).format(a="{a}", thing=text, page=colour), ""
    return _articles(text if stands_alone else lead + text)


def captions(scene: "Scene", uniform: Callable[[], float], count: int = 3, page: bool = True) -> tuple[str, ...]:
    """`count` different captions of the scene. page: see `caption`."""
    found: dict[str, None] = {}
    while len(found) < count:  # each scene has hundreds, so repeats are rare
        found.setdefault(caption(scene, uniform, page))
    return tuple(found)


def canonical_caption(scene: "Scene") -> str:
    """The caption that names everything, always in the same words: the prompt of an evaluation.

    "a large red circle on a white background", "a small red circle left of a medium blue square on a ..."
    """
    names = ["{a} " + f"{item.size} {item.colour} {item.shape}" for item in scene.items]
    text = f" {scene.relation} ".join(names)
    return _articles(f"{text} on {{a}} {scene.background} background")
