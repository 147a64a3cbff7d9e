"""Captions that speak of sides: their image mirrored is a wrong one, and the hardest to tell from the right one."""

import re

HORIZONTAL, VERTICAL = 3, 2  # axes of images [B, 3, R, R]
FLIPS = (HORIZONTAL, VERTICAL)
_LEFT_RIGHT = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_ABOVE_BELOW = re.compile(r"\b(above|below|over|under|beneath|underneath|top|bottom)\b", re.IGNORECASE)


def speaks_of_sides(caption: str) -> bool:
    """Whether an image of this caption, mirrored left to right, belies it (English)."""
    return _LEFT_RIGHT.search(caption) is not None


def flip_axis(caption: str) -> int:
    """The axis along which an image of this caption, mirrored, belies it; 0 where it speaks of no side (English)."""
    if speaks_of_sides(caption):
        return HORIZONTAL
    return VERTICAL if _ABOVE_BELOW.search(caption) else 0
