"""File names compared as people see them: é is é however it is encoded, \\ is /, .JPG is .jpg."""

import os
import posixpath
import unicodedata
from collections.abc import Iterable

from t2i.data.safe_paths import leaves_folder


class TwoFit(Exception):
    """A name that fits two files and is neither's: `first` and `second`."""

    def __init__(self, first: str, second: str):
        super().__init__(f"{first} and {second}")
        self.first, self.second = first, second


def plain(name: str) -> str:
    """A name out of a document, with "/" between folders; one that leads elsewhere keeps what shows it."""
    name = name.replace("\\", "/")
    return name if leaves_folder(name) else posixpath.normpath(name)


def folded(name: str) -> str:
    """What names have in common that look the same."""
    stem, extension = os.path.splitext(plain(name))
    return unicodedata.normalize("NFC", stem + extension.lower())


class Names:
    """Names to look others up in: the exact one, else the one that differs in nothing that people see."""

    def __init__(self, names: Iterable[str]):
        self._names = set(names)
        self._folded: dict[str, list[str]] | None = None

    def find(self, name: str) -> str | None:
        """Raises TwoFit."""
        if name in self._names:
            return name
        if self._folded is None:
            self._folded = {}
            for each in sorted(self._names):
                self._folded.setdefault(folded(each), []).append(each)
        fitting = self._folded.get(folded(name), [])
        if len(fitting) > 1:
            raise TwoFit(*fitting[:2])
        return fitting[0] if fitting else None
