"""Files of a source: names out of documents lead nowhere else, and only regular files are opened."""

import functools
import os
import re
import stat
import sys
from typing import BinaryIO

from t2i.data.records import ImageError
from t2i.files import first_line


def inside(root: str, name: str) -> str:
    """The file `name` under `root`, with all links resolved. Opens nothing.

    Raises ImageError("file name leaves the folder") for `..`, an absolute path, a URL, a backslash, a NUL,
    text that is not valid Unicode, and for a link that leads out. `root` itself may be a link.
    """
    refused = leaves_folder(name)
    if refused:
        raise ImageError("file name leaves the folder", refused)
    path = base = _real(os.path.abspath(root))
    name = on_disk(name)
    for part in name.split("/"):
        path = f"{path}/{part}"
        if os.path.islink(path):
            break
    else:  # no link: nothing to resolve
        return path
    path = os.path.realpath(os.path.join(base, name))
    if not path.startswith(base.rstrip(os.sep) + os.sep):
        raise ImageError("file name leaves the folder", "a link leads out of it")
    return path


def leaves_folder(name: str) -> str:
    """Why the bare text of a file name is not to be trusted, or "". Looks at no disk."""
    if not name or name.isspace():
        return "it is empty"
    if "\0" in name:
        return "it holds a NUL"
    if "\\" in name:
        return "it holds a backslash"
    if "://" in name:
        return "it is a URL"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "it is an absolute path"
    if ".." in name.split("/"):
        return "it holds .."
    if not name.strip("./"):
        return "it names no file"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return ""


def seen(name: str) -> str:
    """A file name from the system as people see it, whatever the locale's encoding: bytes that are UTF-8 are text.

    What is no UTF-8 stays a lone surrogate a byte.
    """
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "surrogateescape")


def on_disk(name: str) -> str:
    """The reverse of `seen`: as the system takes it. What no file can be called stays as it is."""
    if name.isascii() or sys.getfilesystemencoding() == "utf-8":
        return name
    try:
        return os.fsdecode(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return name


@functools.lru_cache(maxsize=64)
def _real(root: str) -> str:
    return os.path.realpath(root)


def open_file(path: str, name: str) -> BinaryIO:
    """Open a regular file (a pipe would wait for ever). Raises ImageError with `name` in its detail."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError("not a file", name)
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError("missing file", name) from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise ImageError("unreadable file", f"{name}: {why}") from error
