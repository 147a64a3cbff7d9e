"""Parquet files with the images inside, as data sets on the Hugging Face hub have them; from there, too.

Read row group by row group, a few rows at a time, so that memory stays flat: the captions in the walk, the images
when their turn to be decoded comes, in this process and in order. What a row's `path` says is never opened.
"""

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from t2i.data.located import BytesImage
from t2i.data.records import HELD_OUT, VALIDATION, ImageError, ImageLocator, Record, Skip, plain_split
from t2i.data.sources.captions import first_of, is_caption_column, raw_captions
from t2i.data.sources.common import check_split, clean_captions, counted, plural, shown, source_name
from t2i.data.sources.rows import open_parquet, parquet_errors
from t2i.errors import UserError
from t2i.files import brief, describe_os_error, first_line

HUB = "hf://"
IMAGE_KEYS = ("image", "img", "picture", "jpg", "png", "webp", "bytes", "image_bytes", "pixels")
BATCH = 64  # rows in memory at once


class ParquetSource:
    """Rows of parquet files: an image (a struct of bytes and path, or bytes) and a caption column.

    pattern: a file, a folder or a glob; or hf://datasets/ORG/NAME/... through huggingface_hub. Captions are in the
    first of the columns text, caption, captions, prompt, description that holds something, row by row.
    Raises UserError, one line.
    """

    def __init__(self, pattern: str, split: str = "train"):
        self.pattern = pattern
        self.split = check_split(split)
        self.notes: list[str] = []
        self._files = self._of_split(_expand(pattern))
        self.name = _name(pattern)
        self._counts = []
        self._columns: list[tuple[str, list[str]]] = []
        for file in self._files:
            with _Opened(file) as parquet:
                self._columns.append(_columns(parquet.schema_arrow, file.label))
                self._counts.append(parquet.metadata.num_rows)
        if not sum(self._counts):
            raise UserError(f"{pattern}: {plural(len(self._files), 'parquet file')} without a row")

    def _of_split(self, files: list["_File"]) -> list["_File"]:
        """Of a folder's or data set's files those of the split, where their names tell (train-00000-of-00002.parquet).

        A glob or a file is what it says. Raises UserError where there is none.
        """
        if any(mark in self.pattern for mark in "*?[") or self.pattern.endswith(".parquet"):
            return files
        splits = {file.path: _split(file.key) for file in files}
        if not any(splits.values()):
            return files
        wanted = VALIDATION if self.split == "val" else (self.split,)
        kept = [file for file in files if splits[file.path] in wanted]
        others = [file.key for file in files if splits[file.path] not in wanted]
        if not kept:
            there = sorted({name for name in splits.values() if name})
            said = f"there is {', '.join(there)}: --split {there[0]}"
            raise UserError(f"{self.pattern}: no parquet file of the split {self.split}; {said}")
        if others:
            self.notes.append(counted(others, "file", "of other splits left out (--split)"))
        return kept

    def __len__(self) -> int:
        return sum(self._counts)

    def __iter__(self) -> Iterator[Record | Skip]:
        for file, (image, captions) in zip(self._files, self._columns):
            with _Opened(file) as parquet:
                yield from self._entries(parquet, file, image, captions)

    def _entries(self, parquet: Any, file: "_File", image: str, columns: list[str]) -> Iterator[Record | Skip]:
        row = 0
        for group in range(parquet.num_row_groups):
            first = row
            for batch in parquet.iter_batches(batch_size=1024, row_groups=[group], columns=columns):
                for values in batch.to_pylist():
                    key = f"{file.key}/{row:06d}"
                    raw = raw_captions(first_of(values)[1])
                    texts = [caption for caption in raw if isinstance(caption, str)]
                    clean = clean_captions(texts)
                    if clean:
                        yield Record(key, clean, ParquetImage(file, group, row - first, image))
                    else:
                        reason = "caption is no text" if len(texts) < len(raw) else "no caption"
                        yield Skip(key, reason, f"row {row + 1}")
                    row += 1

    def describe(self) -> dict[str, Any]:
        content = hashlib.sha256("\n".join(file.identity for file in self._files).encode()).hexdigest()
        versions = {"versions_sha256": content} if self.pattern.startswith(HUB) else {}
        return {"kind": "parquet", "pattern": os.path.basename(self.pattern), "files": len(self._files), **versions}


@dataclass(frozen=True, slots=True)
class _File:
    """A parquet file here or on the hub. key: its name in the source; identity: of its content, on the hub."""

    path: str
    key: str
    size: int
    changed: int
    identity: str = ""

    @property
    def label(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class ParquetImage:
    """An image in a row of a row group."""

    file: _File
    group: int
    row: int
    column: str

    def fetch(self) -> ImageLocator | ImageError:
        """The image with its bytes; the rows are read on from where the last one was."""
        try:
            value = _cell(self.file, self.group, self.column, self.row)
        except UserError as error:
            return ImageError("unreadable file", first_line(error))
        except MemoryError:
            return ImageError("out of memory")
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            named = isinstance(value, dict) and isinstance(value.get("path"), str)
            cause = "the row names a file, which is not opened" if named else "the cell is empty"
            return ImageError("no image bytes", cause)
        return BytesImage(data)

    def load(self, resolution: int) -> Any:
        """uint8 [resolution, resolution, 3]. Raises ImageError."""
        image = self.fetch()
        if isinstance(image, ImageError):
            raise image
        return image.load(resolution)

    def stamp(self) -> tuple[int, int]:
        """The file's bytes and time of change (ns)."""
        return self.file.size, self.file.changed


class _Opened:
    """A parquet file, open; what pyarrow raises in the block becomes one line."""

    def __init__(self, file: _File):
        self._file = file

    def __enter__(self) -> Any:
        try:
            stream: Any = _open(self._file.path)
        except OSError as error:
            raise describe_os_error(error, self._file.path) from error
        self._stream = stream
        try:
            self._parquet = open_parquet(stream, self._file.label)
        except UserError:
            stream.close()
            raise
        return self._parquet

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._parquet.close()
        self._stream.close()
        if isinstance(error, Exception) and not isinstance(error, UserError) and isinstance(error, parquet_errors()):
            raise UserError(f"{self._file.label}: this is not a readable parquet file ({first_line(error)})") from error


class _Reader:
    """The cells of a column in a row group, one after the other, BATCH of them in memory."""

    def __init__(self, file: _File, group: int, column: str):
        self.of = file, group, column
        self._opened = _Opened(file)
        parquet = self._opened.__enter__()
        self._batches = parquet.iter_batches(batch_size=BATCH, row_groups=[group], columns=[column])
        self._first, self._cells = 0, None

    def row(self, number: int) -> Any:
        """Raises UserError. `number` may not be before the last one's batch."""
        try:
            while self._cells is None or number >= self._first + len(self._cells):
                self._first += len(self._cells) if self._cells is not None else 0
                self._cells = next(self._batches).column(0)
            return self._cells[number - self._first].as_py()
        except StopIteration as error:
            raise UserError(f"{self.of[0].label}: it has fewer rows than it says") from error
        except parquet_errors() as error:
            raise UserError(f"{self.of[0].label}: damaged ({first_line(error)})") from error

    def is_past(self, number: int) -> bool:
        return number < self._first

    def close(self) -> None:
        self._opened.__exit__(None, None, None)


_current: list[_Reader] = []  # the one that is open


def _cell(file: _File, group: int, column: str, row: int) -> Any:
    """A cell, from the open reader where it is of that column and not past the row. Raises UserError."""
    if not _current or _current[0].of != (file, group, column) or _current[0].is_past(row):
        while _current:
            _current.pop().close()
        _current.append(_Reader(file, group, column))
    return _current[0].row(row)


def _columns(schema: Any, label: str) -> tuple[str, list[str]]:
    """The image column and the caption columns. Raises UserError."""
    import pyarrow

    def holds_bytes(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return any(part.name == "bytes" and holds_bytes(part.type) for part in kind)
        return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)

    names = list(schema.names)
    images = [name for name in names if holds_bytes(schema.field(name).type)]
    captions = [name for name in names if is_caption_column(name) and name not in images]
    has = f"(it has {shown(', '.join(names), 160)})"
    if not images:
        raise UserError(
            f"{label}: no column with images inside {has}; expected a struct of bytes and path, or bytes; "
            "a list of file names goes with --images DIR --annotations FILE"
        )
    if not captions:
        raise UserError(f"{label}: none of the caption columns text, caption, captions, prompt, description {has}")
    preferred = [name for key in IMAGE_KEYS for name in images if name.strip().lower() == key]
    return (preferred or images)[0], captions


# ---- where the files are ---------------------------------------------------------------------------------------


def _expand(pattern: str) -> list[_File]:
    """The files, sorted. Raises UserError where there are none."""
    if pattern.startswith(HUB):
        return _on_hub(pattern)
    expanded = os.path.expanduser(pattern)
    if os.path.isdir(expanded):
        expanded = os.path.join(glob.escape(expanded), "**", "*.parquet")
    paths = [expanded] if os.path.isfile(expanded) else sorted(glob.glob(expanded, recursive=True))
    paths = [path for path in paths if os.path.isfile(path)]
    if not paths:
        raise UserError(
            f"{pattern}: no such parquet files; expected a file, a folder or a glob such as 'data/*.parquet'"
        )
    base = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    files = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise describe_os_error(error, path) from error
        key = os.path.relpath(os.path.abspath(path), base).replace(os.sep, "/")
        files.append(_File(path, key.encode("utf-8", "backslashreplace").decode(), status.st_size, status.st_mtime_ns))
    return files


def _on_hub(pattern: str) -> list[_File]:
    hub = _hub()
    try:
        wanted = pattern if any(mark in pattern for mark in "*?[") else None
        if wanted is None:
            wanted = pattern if pattern.endswith(".parquet") else f"{pattern.rstrip('/')}/**/*.parquet"
        found = hub.glob(wanted, detail=True)
        found = {name: facts for name, facts in found.items() if facts.get("type") == "file"}
    except Exception as error:  # huggingface_hub raises its own, requests' or httpx's, OSError, ValueError
        raise UserError(f"{pattern}: the hub cannot be read ({brief(first_line(error), 200)})") from error
    if not found:
        raise UserError(f"{pattern}: no parquet files there; give hf://datasets/ORG/NAME or a path or glob in it")
    base = os.path.commonpath([os.path.dirname(name) for name in found])
    files = []
    for name in sorted(found):
        facts = found[name]
        lfs = facts.get("lfs")
        identity = str((lfs.get("sha256") if isinstance(lfs, dict) else None) or facts.get("blob_id") or facts["size"])
        files.append(_File(HUB + name, os.path.relpath(name, base), int(facts["size"]), 0, identity))
    return files


def _open(path: str) -> Any:
    return _hub().open(path, "rb") if path.startswith(HUB) else open(path, "rb")


def _hub() -> Any:
    """huggingface_hub's file system, which comes with transformers."""
    try:
        from huggingface_hub import HfFileSystem
    except ImportError as error:
        raise UserError(f"reading {HUB} needs huggingface_hub: pip install huggingface_hub") from error
    return HfFileSystem()


def _split(key: str) -> str:
    """The split that a file's name or folder tells, or ""."""
    *folders, base = key.split("/")
    for part in (re.split(r"[-_.]", base)[0], *reversed(folders)):
        if plain_split(part) in ("train", *HELD_OUT):
            return plain_split(part)
    return ""


def _name(pattern: str) -> str:
    if pattern.startswith(HUB):
        parts = pattern.removeprefix(HUB).removeprefix("datasets/").split("/")
        return source_name("/" + parts[1].partition("@")[0]) if len(parts) > 1 else "data"
    path = os.path.expanduser(pattern)
    while any(mark in path for mark in "*?["):
        path = os.path.dirname(path)
    return source_name(path if os.path.isdir(path) else os.path.splitext(path)[0])
