"""What the sources share: names, captions, and texts for the user."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from t2i.data.foreign_formats import EXTENSIONS, FOREIGN
from t2i.errors import UserError
from t2i.files import brief, describe_os_error

MAX_CAPTION_BYTES = 2**20  # of one image's caption file; a larger one is no caption file
SPLIT = re.compile("[A-Za-z0-9_-]{1,40}")  # a split becomes part of paths

_BLANK = re.compile("[\\s\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff]+")
# Folder names that say nothing about what is in them.
_GENERIC = re.compile("(images?|imgs?|images|photos|captions|annotations|(train|val|valid|validation|test)[0-9]*)")


def clean_captions(captions: Iterable[str]) -> tuple[str, ...]:
    """Strip, fold runs of whitespace, control characters and lone surrogates to one space; drop empty ones.

    Of captions that are then equal the first is kept; the order stays.
    """
    cleaned = (_BLANK.sub(" ", caption).strip() for caption in captions)
    return tuple(dict.fromkeys(caption for caption in cleaned if caption))


def source_name(path: Path | str) -> str:
    """A short name, [a-z0-9_-], for data in `path`: the folder's; its parent's where that says "images"."""
    path = Path(os.path.abspath(path))
    for folder in (path, *path.parents):
        name = re.sub("[^a-z0-9_-]+", "-", folder.name.lower()).strip("-_")
        if name and not _GENERIC.fullmatch(name):
            return name[:40]
    return "data"


def check_split(split: str) -> str:
    """Letters, digits, _ and - only. Raises UserError."""
    if not SPLIT.fullmatch(split):
        raise UserError(f"--split {shown(split)}: use a name like train or val (letters, digits, _ and -)")
    return split


def shown(value: object, limit: int = 80) -> str:
    """A value from a document as it may stand in a message: one line, short, printable."""
    if isinstance(value, (list, dict)):  # perhaps nested deeper than repr can go
        return f"a {type(value).__name__}"
    text = repr(value[:limit] if isinstance(value, str) else value)
    return text if len(text) <= limit + 2 else text[: limit - 3] + "..."


def extension(name: str) -> str:
    """ ".jpg" of "sub/x.JPG"; "" where there is none."""
    return os.path.splitext(name)[1].lower()


def is_image_name(name: str) -> bool:
    """By its extension, in any case: one that is decoded, or one of an image that cannot be."""
    return extension(name) in EXTENSIONS or extension(name) in FOREIGN


def is_utf8(name: str) -> bool:
    """False for a file name whose bytes are no UTF-8: Python holds those as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """The name itself where it can be written as UTF-8, else with backslash escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def check_folder(path: Path | str, what: str) -> Path:
    """Raises UserError, one line, where `path` is no readable folder. `what`: what was expected there."""
    path = Path(path)
    try:
        if path.is_dir():
            os.scandir(path).close()
            return path
    except (OSError, ValueError) as error:
        raise _path_error(error, path) from error
    if path.exists():
        raise UserError(f"{path}: this is no folder; expected {what}")
    raise UserError(f"{path}: no such folder; expected {what}")


def plural(count: int, noun: str) -> str:
    """ "1 image", "2 images" """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def counted(names: list[str], noun: str, what: str) -> str:
    """ "7 images without a caption file: a.png, b.png, c.png, d.png, e.png, ..." """
    first = ", ".join(brief(name) for name in names[:5])
    return f"{plural(len(names), noun)} {what}: {first}{', ...' if len(names) > 5 else ''}"


def read_bytes(path: Path) -> bytes:
    """A whole file. Raises UserError, one line."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise _path_error(error, path) from error


def _path_error(error: Exception, path: Path) -> UserError:
    if isinstance(error, OSError):
        return describe_os_error(error, path)
    return UserError(f"{shown(str(path))}: {error}")  # a NUL in a path is a ValueError
