"""Hugging Face's imagefolder: pictures beside a metadata.jsonl, metadata.csv or metadata.parquet."""

import csv
import itertools
import json
import operator
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2i.data.images import FilePicture
from t2i.data.records import VALIDATION, Record, Skip
from t2i.data.safe_paths import leaves_folder
from t2i.data.sources.common import (
    CAPTION_KEYS,
    MAX_CAPTION_BYTES,
    SPLIT,
    Presence,
    check_folder,
    check_split,
    clean_captions,
    shown,
    source_name,
)
from t2i.errors import UserError
from t2i.files import brief, describe_os_error, first_line

FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")

# (where in the file, for a message; the row)
Row = tuple[str, dict[str, Any]]


class ImageFolderSource:
    """A metadata file's rows: `file_name`, relative to the file's folder, and one caption column.

    The caption column is the first there is of text, caption, captions, prompt, description: a text or a list
    of texts; a row without one is skipped. The file lies in `root` or in `root/<split>`; val is also called valid or
    validation.
    In the order of the rows, which are read twice, one by one: to check and count them (here), and for the walk.
    Raises UserError, one line, for what is missing or malformed and for file names that lead out of the
    folder, by a link too.
    """

    def __init__(self, root: Path | str, split: str = "train"):
        root = check_folder(root, "pictures with a metadata.jsonl, metadata.csv or metadata.parquet")
        self.split = check_split(split)
        self.name = source_name(root)
        self.notes: list[str] = []
        names = VALIDATION if split == "val" else (split,)
        found = [folder / name for folder in (root, *(root / name for name in names)) for name in FILES]
        found = [path for path in found if path.is_file()]
        if not found:
            raise UserError(f"{root}: expected {', '.join(FILES[:2])} or {FILES[2]} here or in {split}/{_others(root)}")
        self.metadata = found[0]
        self.folder = self.metadata.parent
        if len(found) > 1:
            used, *others = (path.relative_to(root).as_posix() for path in found)
            self.notes.append(f"{used} is used, {', '.join(others)} is not")

        self._count = 0
        self._presence = Presence(self.folder)
        present = captioned = False
        example = ""
        for where, file, raw in self._entries():
            captioned = captioned or raw is not None
            example = example or file
            presence = self._presence(file)
            if presence == "outside":
                name = f"{where} names {shown(file)}"
                raise UserError(f"{self.metadata}: {name}, a link that leads out of the folder; refused")
            present = present or presence == "there"
            self._count += 1
        if not self._count:
            raise UserError(f"{self.metadata}: it has no rows; expected one a picture")
        if not captioned:
            where, row = next(self._rows())
            raise UserError(f"{self.metadata}: {where} has none of the columns {', '.join(CAPTION_KEYS)} {_has(row)}")
        if not present:
            raise UserError(f"{self.folder}: none of the {self._count} pictures is here ({shown(example)}, for one)")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Record | Skip]:
        root = str(self.folder)
        seen: set[str] = set()
        for where, file, raw in self._entries():
            texts = [caption for caption in raw or () if isinstance(caption, str)]
            captions = clean_captions(texts)
            if file in seen:
                yield Skip(file, "second entry of the same file", where)
            elif self._presence(file) != "there":
                yield Skip(file, "missing file", where)
            elif not captions:
                yield Skip(file, "caption is no text" if len(texts) < len(raw or ()) else "no caption", where)
            else:
                yield Record(file, captions, FilePicture(root, file))
            seen.add(file)

    def describe(self) -> dict[str, Any]:
        return {"kind": "imagefolder", "metadata": self.metadata.name}

    def _entries(self) -> Iterator[tuple[str, str, list[Any] | None]]:
        """(where, file name, raw captions); rows of one file that follow each other (one a caption) are one.

        Raw captions may be no texts; None where there is no column for them.
        """
        rows = ((*self._parse(where, row), where) for where, row in self._rows())
        for file, group in itertools.groupby(rows, key=operator.itemgetter(0)):
            parts = list(group)
            found = [captions for _, captions, _ in parts if captions is not None]
            yield parts[0][2], file, list(itertools.chain(*found)) if found else None

    def _rows(self) -> Iterator[Row]:
        try:
            match self.metadata.suffix:
                case ".jsonl":
                    yield from _jsonl(self.metadata)
                case ".csv":
                    yield from _csv(self.metadata)
                case _:
                    yield from _parquet(self.metadata)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.metadata}: this is not UTF-8 ({first_line(error)})") from error
        except OSError as error:
            raise describe_os_error(error, self.metadata) from error

    def _parse(self, where: str, row: dict[str, Any]) -> tuple[str, list[Any] | None]:
        """A row's file name and raw captions. Raises UserError."""
        if "file_name" not in row:
            other = self.metadata.suffix == ".csv" and any(mark in str(name) for name in row for mark in ";\t|")
            hint = "; commas must separate the columns" if other else ""
            raise UserError(f"{self.metadata}: {where} has no column file_name {_has(row)}{hint}")
        file = row["file_name"]
        if not isinstance(file, str) or not file:
            raise UserError(f"{self.metadata}: {where} has no file_name ({shown(file)})")
        refused = leaves_folder(file)
        if refused:
            raise UserError(f"{self.metadata}: {where} names {shown(file)}: {refused}; the whole file is refused")
        key = next((key for key in CAPTION_KEYS if key in row), None)
        value = row[key] if key else None
        captions = value if isinstance(value, list) else [value] if value is not None else []
        return posixpath.normpath(file), captions if key else None


def _has(row: dict[str, Any]) -> str:
    """A row's columns, for a message."""
    return f"(it has {shown(', '.join(map(str, row)), 120)})"


def _others(root: Path) -> str:
    """The splits that are there, for a message."""
    there = {path.parent.name for name in FILES for path in root.glob(f"*/{name}")}
    splits = sorted(name for name in there if SPLIT.fullmatch(name))
    return f"; there is {brief(', '.join(splits))}: --split {splits[0]}" if splits else ""


def _jsonl(path: Path) -> Iterator[Row]:
    with open(path, "rb") as stream:
        number = 0
        while line := stream.readline(MAX_CAPTION_BYTES + 1):
            number += 1
            if len(line) > MAX_CAPTION_BYTES:
                raise UserError(f"{path}: line {number} is longer than {MAX_CAPTION_BYTES} bytes")
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if not text:
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                # Its own text counts lines too, in the one that it was given.
                why = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
                raise UserError(f"{path}: line {number} is not valid JSON ({why or first_line(error)})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}: line {number} is no JSON object")
            yield f"line {number}", row


def _csv(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, restkey="", strict=True)
        try:
            for row in reader:
                yield f"line {reader.line_num}", row
        except csv.Error as error:
            raise UserError(f"{path}: line {reader.reader.line_num} is not valid CSV ({first_line(error)})") from error


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f'{path}: reading parquet needs pyarrow: pip install "t2i[parquet]"') from error
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = [name for name in names if name == "file_name" or name in CAPTION_KEYS]
            whole = "file_name" in columns and len(columns) > 1  # else all the names are for the message
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row if whole else {**dict.fromkeys(names), **row}
    # a damaged file raises more than ArrowException
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: this is not a readable parquet file ({first_line(error)})") from error
