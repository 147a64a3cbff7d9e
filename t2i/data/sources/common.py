"""What the sources share: names, captions, and texts for the user."""

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from t2i.data.images import EXTENSIONS
from t2i.data.records import PictureError
from t2i.data.safe_paths import inside
from t2i.errors import UserError
from t2i.files import brief, describe_os_error

MAX_CAPTION_BYTES = 2**20  # of one picture's caption file; a larger one is no caption file
CAPTION_KEYS = ("text", "caption", "captions", "prompt", "description")
SPLIT = re.compile("[A-Za-z0-9_-]{1,40}")  # a split becomes part of paths

_BLANK = re.compile("[\\s\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff]+")
# Folder names that say nothing about what is in them.
_GENERIC = re.compile("(images?|imgs?|pictures|photos|captions|annotations|(train|val|valid|validation|test)[0-9]*)")


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


def is_picture_name(name: str) -> bool:
    """By its extension, in any case."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


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


def list_files(root: Path) -> list[str]:
    """Every file under `root`, relative, "/" between folders, sorted; hidden files and folders left out.

    Links to files count as files, links to folders are not followed (they could go round in circles).
    Raises UserError where a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise describe_os_error(error, error.filename or root) from error

    found = []
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        found += [prefix + name for name in files if not name.startswith(".")]
    return sorted(found)


def plural(count: int, noun: str) -> str:
    """ "1 picture", "2 pictures" """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def counted(names: list[str], noun: str, what: str) -> str:
    """ "7 pictures without a caption file: a.png, b.png, c.png, d.png, e.png, ..." """
    first = ", ".join(brief(name) for name in names[:5])
    return f"{plural(len(names), noun)} {what}: {first}{', ...' if len(names) > 5 else ''}"


class Presence:
    """Whether files named in a document are there, and inside `folder`. Opens nothing.

    It remembers sub-folders, so that a name costs one lstat.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._leaves: dict[str, bool] = {}  # by sub-folder

    def __call__(self, name: str) -> str:
        """ "there", "missing", or "outside": a link in it leads out of the folder."""
        parent = os.path.dirname(name)
        if parent not in self._leaves:
            self._leaves[parent] = parent != "" and self._outside(parent)
        if self._leaves[parent]:
            return "outside"
        try:
            mode = os.lstat(self._folder / name).st_mode
        except (OSError, ValueError):
            return "missing"
        return "outside" if stat.S_ISLNK(mode) and self._outside(name) else "there"

    def _outside(self, name: str) -> bool:
        try:
            inside(str(self._folder), name)
        except PictureError:
            return True
        return False


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
