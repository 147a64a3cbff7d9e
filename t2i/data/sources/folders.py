"""Two folders: pictures in one, a caption file for each in the other, matched by name."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2i.data.images import FilePicture
from t2i.data.records import Record, Skip
from t2i.data.sources.common import (
    MAX_CAPTION_BYTES,
    check_folder,
    check_split,
    clean_captions,
    counted,
    is_picture_name,
    is_utf8,
    list_files,
    printable,
    source_name,
)
from t2i.errors import UserError
from t2i.files import brief


class FolderPairSource:
    """`images/x.png` with `captions/x.txt`, UTF-8, one caption a line; in sub-folders too.

    Matched by the relative path without its extension ("sub/x"), never by position. Both folders may be the
    same one. Holds names only; a caption file is read when its picture's turn comes.
    Raises UserError where a folder is missing or holds nothing, or where no name matches.
    """

    def __init__(self, images: Path | str, captions: Path | str, split: str = "train", name: str | None = None):
        self.images = check_folder(images, "a folder of pictures")
        self.captions = check_folder(captions, "a folder of caption files (x.txt for x.png, one caption a line)")
        self.name = name or source_name(self.images)
        self.split = check_split(split)
        self._pictures = [file for file in list_files(self.images) if is_picture_name(file)]
        if not self._pictures:
            raise UserError(f"{self.images}: no pictures here; expected .jpg, .png, .webp or the like")

        texts = [file for file in list_files(self.captions) if file.lower().endswith(".txt")]
        if not texts:
            raise UserError(f"{self.captions}: no caption files here; expected x.txt for x.png, one caption a line")
        self._texts: dict[str, str] = {}  # stem -> caption file; of x.TXT and x.txt, the first in order
        for file in texts:
            self._texts.setdefault(_stem(file), file)

        stems = {_stem(file) for file in self._pictures}
        alone = [file for file in self._pictures if _stem(file) not in self._texts]
        if len(alone) == len(self._pictures):
            raise UserError(
                f"{self.captions}: no caption file matches a picture in {self.images} by name; "
                f"{brief(alone[0])} needs {brief(_stem(alone[0]))}.txt"
            )
        unused = [file for file in texts if self._texts[_stem(file)] != file or _stem(file) not in stems]
        self.notes = []
        if alone:
            self.notes.append(counted(alone, "picture", "without a caption file"))
        if unused:
            self.notes.append(counted(unused, "caption file", "without a picture"))

    def __len__(self) -> int:
        return len(self._pictures)

    def __iter__(self) -> Iterator[Record | Skip]:
        root = str(self.images)
        seen: dict[str, str] = {}
        for file in self._pictures:
            stem = _stem(file)
            first = seen.setdefault(stem, file)
            if not is_utf8(file):
                yield Skip(printable(file), "file name is not UTF-8")
            elif first != file:
                yield Skip(file, "second picture of the same name", f"{first} has its captions")
            elif stem not in self._texts:
                yield Skip(file, "no caption file", f"{stem}.txt")
            else:
                captions = self._read(self._texts[stem])
                if isinstance(captions, str):
                    yield Skip(file, captions, printable(self._texts[stem]))
                else:
                    yield Record(file, captions, FilePicture(root, file, trusted=True))

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "folders",
            "images": os.path.basename(os.path.abspath(self.images)),
            "captions": os.path.basename(os.path.abspath(self.captions)),
        }

    def _read(self, file: str) -> tuple[str, ...] | str:
        """The captions, or why there are none."""
        path = self.captions / file
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
                return "caption file is not a file"
            with open(path, "rb") as stream:
                data = stream.read(MAX_CAPTION_BYTES + 1)
        except OSError:
            return "unreadable caption file"
        if len(data) > MAX_CAPTION_BYTES:
            return "caption file is too big"
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return "caption file is not UTF-8"
        return clean_captions(text.splitlines()) or "no caption"


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]
