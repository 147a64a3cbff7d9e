"""Images and caption files, matched by name: in two folders, or side by side in one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2i.data.records import ImageError, Record, Skip
from t2i.data.sources.captions import document_captions, text_captions
from t2i.data.sources.common import (
    MAX_CAPTION_BYTES,
    check_split,
    counted,
    extension,
    is_image_name,
    is_utf8,
    plural,
    printable,
    source_name,
)
from t2i.data.sources.names import Names, TwoFit
from t2i.data.sources.trees import is_own_png, open_tree, read
from t2i.errors import UserError
from t2i.files import brief

KINDS = (".txt", ".caption", ".json")  # of caption files, the preferred one first


class FolderPairSource:
    """`images/x.png` with `captions/x.txt` (or x.caption, x.json, x.png.txt), UTF-8; in sub-folders too.

    One caption a line; in a .json under its first caption key that holds something. captions: the folder of the
    caption files; None: they are beside the images.
    Matched by the relative path without its extension ("sub/x"), never by position. Whatever has a caption file is an
    entry, whatever it is called. Holds names only; a caption file is read when its image's turn comes.
    Raises UserError where a folder is missing or holds nothing, or where no name matches.
    """

    def __init__(
        self,
        images: Path | str,
        captions: Path | str | None = None,
        split: str = "train",
        name: str | None = None,
    ):
        self.images = Path(images)
        self.captions = Path(images if captions is None else captions)
        self._tree = open_tree(images, "a folder of images", follow=True)
        one = captions is None or os.path.abspath(captions) == os.path.abspath(images)
        what = "a folder of caption files (x.txt for x.png, one caption a line)"
        self._caption_tree = self._tree if one else open_tree(self.captions, what, follow=True)
        self.name = name or source_name(self.images)
        self.split = check_split(split)
        self.notes: list[str] = []

        files = self._tree.files()
        texts = [file for file in self._caption_tree.files() if extension(file) in KINDS]
        self._texts: dict[str, list[str]] = {}  # "sub/x" or "sub/x.png" -> caption files, the preferred one first
        for file in sorted(texts, key=lambda file: KINDS.index(extension(file))):
            self._texts.setdefault(_stem(file), []).append(file)
        self._bases = Names(self._texts)
        self._images = self._entries([file for file in files if not (one and extension(file) in KINDS)])
        if not any(map(is_image_name, self._images)) and not self._images:
            raise UserError(f"{self.images}: no images here; expected .jpg, .png, .webp or the like")
        if not texts:
            raise UserError(
                f"{self.captions}: no caption files here; expected x.txt for x.png, one caption a line (or x.caption, "
                "x.json, x.png.txt); a list goes with --annotations, names are captions with --caption-from"
            )
        self._say(texts, one)

    def _entries(self, files: list[str]) -> list[str]:
        """The files that are images by name, and those of other names that have a caption file."""
        images = [file for file in files if is_image_name(file)]
        stems = {_stem(file) for file in images}
        strange = [file for file in files if not is_image_name(file)]
        strange = [file for file in strange if file in self._texts or (_stem(file) not in stems and self._has(file))]
        own = [file for file in images if file.lower().endswith(".png") and is_own_png(self._tree, file)]
        if own:
            self.notes.append(counted(list(map(printable, own)), "image", "that t2i drew left out"))
        return sorted({*images, *strange} - set(own))

    def _has(self, file: str) -> bool:
        try:
            return bool(self._caption_files(file))
        except TwoFit:
            return True

    def _caption_files(self, file: str) -> list[str]:
        """Those of x.png itself, else of x; the preferred one first. Raises TwoFit."""
        for base in (file, _stem(file)):
            found = self._bases.find(base)
            if found is not None:
                return self._texts[found]
        return []

    def _say(self, texts: list[str], one: bool) -> None:
        alone, several = [], []
        used: set[str] = set()
        for file in self._images:
            try:
                found = self._caption_files(file)
            except TwoFit as two:
                used.update((*self._texts[two.first], *self._texts[two.second]))
                continue
            if not found:
                alone.append(file)
                continue
            kinds = list(dict.fromkeys(map(extension, found)))
            used.add(found[0])
            used.update(other for other in found[1:] if extension(other) != extension(found[0]))
            if len(kinds) > 1:
                several.append((file, kinds))
        if self._images and len(alone) == len(self._images):
            raise UserError(
                f"{self.captions}: no caption file matches an image in {self.images} by name; "
                f"{brief(alone[0])} needs {brief(_stem(alone[0]))}.txt"
            )
        unused = [file for file in texts if file not in used and not (one and extension(file) == ".json")]
        self.notes += self._tree.notes
        if self._caption_tree is not self._tree:
            self.notes += self._caption_tree.notes
        if alone:
            self.notes.append(counted(list(map(printable, alone)), "image", "without a caption file"))
        if unused:
            self.notes.append(counted(list(map(printable, sorted(unused))), "caption file", "without an image"))
        if several:
            extensions = " and ".join(several[0][1])
            first = several[0][1][0]
            self.notes.append(
                f"{plural(len(several), 'image')} with {extensions}: {first} is used where it holds a caption "
                f"({brief(several[0][0])}, for one)"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Record | Skip]:
        seen: dict[str, str] = {}
        for file in self._images:
            if not is_utf8(file):
                yield Skip(printable(file), "file name is not UTF-8")
                continue
            try:
                texts = self._caption_files(file)
            except TwoFit as two:
                yield Skip(file, "name fits two files", f"caption files of {two}")
                continue
            if not texts:
                yield Skip(file, "no caption file", f"{_stem(file)}.txt")
                continue
            first = seen.setdefault(texts[0], file)
            if first != file:
                yield Skip(file, "second image of the same name", f"{first} has its captions")
                continue
            captions = self._read(texts)
            if isinstance(captions, str):
                yield Skip(file, captions, printable(texts[0]))
            else:
                yield Record(file, captions, self._tree.image(file))

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "folders",
            "images": os.path.basename(os.path.abspath(self.images)),
            "captions": os.path.basename(os.path.abspath(self.captions)),
        }

    def _read(self, files: list[str]) -> tuple[str, ...] | str:
        """The captions of the first file that has any, or why there are none."""
        why = ""
        for file in files:
            try:
                data = read(self._caption_tree, file, MAX_CAPTION_BYTES)
            except ImageError as error:
                why = why or _CAUSES.get(error.reason, "unreadable caption file")
                continue
            captions = document_captions(data) if extension(file) == ".json" else text_captions(data)
            if not isinstance(captions, str):
                return captions
            why = why or captions
        return why


_CAUSES = {"not a file": "caption file is not a file"}  # opening a pipe would wait for ever


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]
