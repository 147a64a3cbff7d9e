"""Hugging Face's imagefolder: images beside a metadata.jsonl, metadata.csv or metadata.parquet, or below one."""

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2i.data.records import HELD_OUT, VALIDATION, ImageError
from t2i.data.sources.common import SPLIT, check_split, source_name
from t2i.data.sources.listed import ListedSource, RowList
from t2i.data.sources.rows import Row, rows_of
from t2i.data.sources.trees import Tree, open_tree
from t2i.errors import UserError
from t2i.files import brief, describe_os_error

FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SPLITS = ("train", *HELD_OUT)


class ImageFolderSource(ListedSource):
    """A metadata file's rows: `file_name` (or image, file, path), relative to the file's folder, and a caption column.

    Captions are in the first of the columns text, caption, captions, prompt, description that holds something: a text
    or a list of texts. The file lies in `root`, in `root/<split>` (val is also called valid or validation), or there
    is one in each of several sub-folders. metadata: a file of another name, in `root` or anywhere.
    follow: links may lead out of `root`, as a hub snapshot's do. See ListedSource for the rest.
    """

    def __init__(
        self,
        root: Path | str,
        split: str = "train",
        metadata: Path | str | None = None,
        follow: bool = False,
        name: str | None = None,
    ):
        tree = open_tree(root, "images with a metadata.jsonl, metadata.csv or metadata.parquet", follow)
        self.split = check_split(split)
        self.name = name or source_name(tree.path)
        notes: list[str] = []
        if metadata is not None:
            lists, self.metadata = [_named(tree, Path(metadata))], Path(metadata).name
        else:
            found = _find(tree, split, notes)
            top = posixpath.commonpath([posixpath.dirname(file) for file in found]) if len(found) > 1 else ""
            top = top or (posixpath.dirname(found[0]) if len(found) == 1 else "")
            tree = tree.sub(top)
            found = [posixpath.relpath(file, top) if top else file for file in found]
            lists, self.metadata = [_row_list(tree, file) for file in found], posixpath.basename(found[0])
        self.folder = tree.path
        self._several = len(lists)
        self._take(tree, lists)
        self.notes = notes + self.notes

    def describe(self) -> dict[str, Any]:
        several = {"metadata_files": self._several} if self._several > 1 else {}
        return {"kind": "imagefolder", "metadata": self.metadata, **several}


def _find(tree: Tree, split: str, notes: list[str]) -> list[str]:
    """The metadata files to read, relative to the tree. Raises UserError: what was expected."""
    files = [file for file in tree.files() if posixpath.basename(file) in FILES]
    rank = {name: number for number, name in enumerate(FILES)}
    places: dict[str, list[str]] = {}  # folder -> its metadata files, the preferred one first
    for file in sorted(files, key=lambda file: (posixpath.dirname(file), rank[posixpath.basename(file)])):
        places.setdefault(posixpath.dirname(file), []).append(file)
    names = VALIDATION if split == "val" else (split,)
    singles = [place for place in ("", *names) if place in places]
    if singles:
        used, *others = (file for place in singles for file in places[place])
        if others:
            notes.append(f"{used} is used, {', '.join(others)} is not")
        return [used]
    below = [place for place in places if place.split("/")[0] in names]
    if not below and not any(place.split("/")[0] in SPLITS for place in places):
        below = list(places)
    if below:
        for place in below:
            if len(places[place]) > 1:
                notes.append(f"{places[place][0]} is used, {', '.join(places[place][1:])} is not")
        return [places[place][0] for place in below]
    expected = f"expected {', '.join(FILES[:2])} or {FILES[2]} here or in {split}/"
    there = sorted({place.split("/")[0] for place in places if SPLIT.fullmatch(place.split("/")[0])})
    hint = f"; there is {brief(', '.join(there))}: --split {there[0]}" if there else ""
    raise UserError(f"{tree.path}: {expected}{hint}; a file of another name is given with --metadata")


def _row_list(tree: Tree, file: str) -> RowList:
    label = str(tree.path / file)

    def read() -> Iterator[Row]:
        try:
            stream = tree.open(file)
        except ImageError as error:
            raise UserError(f"{label}: {error}") from error
        with stream:
            yield from rows_of(stream, file, label)

    folder = posixpath.dirname(file)
    return RowList(label, read, f"{folder}/" if folder else "")


def _named(tree: Tree, metadata: Path) -> RowList:
    """A metadata file of any name: in the tree, else as the path says it."""
    inner = metadata.as_posix()
    if not metadata.is_absolute() and inner in tree.files():
        return _row_list(tree, inner)
    return file_list(metadata)


def file_list(path: Path) -> RowList:
    """A list in a file that the user named. Raises UserError."""

    def read() -> Iterator[Row]:
        try:
            with open(path, "rb") as stream:
                yield from rows_of(stream, path.name, str(path))
        except OSError as error:
            raise describe_os_error(error, path) from error

    if not path.is_file():
        raise UserError(f"{path}: no such file" if not path.exists() else f"{path}: this is no file")
    return RowList(str(path), read)
