"""Images without captions, whose folders or files are named after what they show."""

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2i.data.records import Record, Skip
from t2i.data.sources.common import (
    check_split,
    clean_captions,
    counted,
    is_image_name,
    is_utf8,
    printable,
    source_name,
)
from t2i.data.sources.trees import is_own_png, open_tree
from t2i.errors import UsageError, UserError

_NUMBER = re.compile(r"[A-Za-z]{0,3}[0-9]+[A-Za-z]?|[0-9a-f]{8,}|\([0-9]+\)")  # 001, n02085620, img12, (3)


class NamedSource:
    """Images in a folder or zip; the caption of each is made of its folder's name, or of its own.

    how: "folder" or "name". template: a caption with {} in the name's place. Numbers and underscores are taken out of
    names ("001.Black_footed_Albatross" says "Black footed Albatross"). Raises UserError.
    """

    def __init__(self, images: Path | str, how: str, template: str = "{}", split: str = "train"):
        if "{}" not in template:
            raise UsageError(f"--caption-template {template!r:.60}: write {{}} where the name goes")
        self.images, self.how, self.template = Path(images), how, template
        self._tree = open_tree(images, "a folder of images", follow=True)
        self.name = source_name(self.images)
        self.split = check_split(split)
        files = [file for file in self._tree.files() if is_image_name(file)]
        own = {file for file in files if file.lower().endswith(".png") and is_own_png(self._tree, file)}
        self._images = [file for file in files if file not in own]
        if not self._images:
            raise UserError(f"{self.images}: no images here; expected .jpg, .png, .webp or the like")
        examples = dict.fromkeys(
            (self._said(file), self.caption(file)) for file in self._images[:: max(1, len(files) // 64)]
        )
        shown = [f'"{printable(name)}" -> "{printable(caption)}"' for name, caption in examples if caption][:3]
        if not any(self.caption(file) for file in self._images):
            raise UserError(
                f"{self.images}: the {how} names hold no words ({printable(self._said(self._images[0]))}, for one)"
            )
        self.notes = [f"captions from {how} names: {', '.join(shown)}", *self._tree.notes]
        if own:
            self.notes.append(counted(sorted(map(printable, own)), "image", "that t2i drew left out"))
        others = [printable(file) for file in self._tree.files() if not is_image_name(file)]
        if others:
            self.notes.append(counted(others, "file", "of no image's name left out"))

    def _said(self, file: str) -> str:
        """The part of a path that says what is shown."""
        folder, base = posixpath.split(file)
        if self.how == "folder":
            return posixpath.basename(folder) or os.path.basename(os.path.abspath(self.images)).removesuffix(".zip")
        return os.path.splitext(base)[0]

    def caption(self, file: str) -> str:
        """ "" where its name holds no words."""
        words = re.sub(r"[_.+]+|(?<=\s)-+|-+(?=\s)|-", " ", self._said(file)).split()
        words = [word for word in words if not _NUMBER.fullmatch(word)]
        return self.template.replace("{}", " ".join(words)) if words else ""

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Record | Skip]:
        for file in self._images:
            captions = clean_captions([self.caption(file)]) if is_utf8(file) else ()
            if not is_utf8(file):
                yield Skip(printable(file), "file name is not UTF-8")
            elif not captions:
                yield Skip(file, "name holds no words")
            else:
                yield Record(file, captions, self._tree.image(file))

    def describe(self) -> dict[str, Any]:
        images = os.path.basename(os.path.abspath(self.images))
        return {"kind": "names", "images": images, "caption_from": self.how, "template": self.template}
