"""Lists of images and captions, row by row: JSON lines, JSON, CSV and TSV, parquet, Flickr8k's two, Karpathy's.

A row is never lost: what is wrong with it is said in its place, and costs that row.
"""

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from t2i.data.sources.captions import CAPTION_KEYS, first_of, is_caption_column, raw_captions
from t2i.data.sources.common import MAX_CAPTION_BYTES, shown
from t2i.errors import UserError
from t2i.files import first_line

FILE_KEYS = (
    "file_name", "filename", "image", "image_name", "image_path", "image_file", "file", "file_path", "filepath", "path",
)  # fmt: skip
DELIMITERS = (",", "\t", ";", "|")
_TOKEN = re.compile(r"(.+?)#[0-9]+\t(.*)", re.DOTALL)  # Flickr8k.token.txt


@dataclass(slots=True)
class Row:
    """One row of a list.

    where: "line 7", for messages. names: what the image may be called, the likeliest first. captions: raw ones,
    which may be no texts; cause: why there are none, where that is known. flaw: (a short stable reason, its cause)
    where the row cannot be used.
    """

    where: str
    names: tuple[str, ...] = ()
    captions: list[Any] = field(default_factory=list)
    cause: str = ""
    flaw: tuple[str, str] | None = None


Rows = Iterator[Row]


def rows_of(stream: BinaryIO, name: str, label: str) -> Rows:
    """The rows of a list, by its name's ending. label: what to call it in messages.

    Raises UserError, one line, where it cannot be read as a whole. The stream is read to its end and not closed.
    """
    match name.lower().rpartition(".")[2]:
        case "jsonl" | "ndjson":
            return _json_lines(stream)
        case "parquet":
            return _parquet(stream, label)
        case "json":
            return document_rows(read_document(stream, label), label)
        case _:
            return _separated(stream, label)


def row_of(where: str, values: Mapping[str, Any], hint: str = "") -> Row:
    """A row by its columns."""
    names = {key.strip().lower(): key for key in reversed(list(values)) if isinstance(key, str)}
    present = [names[key] for key in FILE_KEYS if key in names]
    if not present:
        return Row(where, flaw=("no file name", f"{where} has no column file_name {_has(values)}{hint}"))
    file = next((values[key] for key in present if values[key] not in (None, "")), values[present[0]])
    if not isinstance(file, str) or not file.strip():
        return Row(where, flaw=("no file name", f"{where} has no file_name ({shown(file)})"))
    key, value = first_of(values)
    if not key:
        columns = f"{where} has none of the columns {', '.join(CAPTION_KEYS[:5])} {_has(values)}{hint}"
        return Row(where, (file.strip("\r\n"),), cause=columns)
    return Row(where, (file.strip("\r\n"),), raw_captions(value))


def _has(values: Mapping[str, Any]) -> str:
    """A row's columns, for a message."""
    return f"(it has {shown(', '.join(map(str, values)), 120)})"


# ---- JSON ------------------------------------------------------------------------------------------------------


def _json_lines(stream: BinaryIO) -> Rows:
    number = 0
    while line := stream.readline(MAX_CAPTION_BYTES + 1):
        number += 1
        where = f"line {number}"
        if len(line) > MAX_CAPTION_BYTES:
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_CAPTION_BYTES)
            yield Row(where, flaw=("row is too long", f"{where} is longer than {MAX_CAPTION_BYTES} bytes"))
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            yield Row(where, flaw=("row is not UTF-8", f"{where} is not UTF-8 ({first_line(error)})"))
            continue
        if not text:
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            # Its own text counts lines too, in the one that it was given.
            why = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            cause = f"{where} is not valid JSON ({why or first_line(error)})"
            yield Row(where, flaw=("row is not valid JSON", cause))
            continue
        yield _object(where, value)


def _object(where: str, value: Any) -> Row:
    if not isinstance(value, dict):
        return Row(where, flaw=("row is not valid JSON", f"{where} is no JSON object"))
    return row_of(where, value)


def read_document(stream: BinaryIO, label: str) -> Any:
    """A whole JSON document. Raises UserError, one line."""
    try:
        return json.loads(stream.read().decode("utf-8-sig"))
    # deep nesting: RecursionError; a number of 5,000 digits: ValueError
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{label}: this is not valid JSON ({first_line(error)})") from error


def is_coco(document: Any) -> bool:
    """A document with annotations in a list of their own; Karpathy's has them as `sentences` of each image."""
    return (
        isinstance(document, dict)
        and not _is_karpathy(document)
        and ("annotations" in document or "images" in document)
    )


def _is_karpathy(document: Any) -> bool:
    images = document.get("images") if isinstance(document, dict) else None
    return isinstance(images, list) and any(isinstance(each, dict) and "sentences" in each for each in images[:100])


def document_rows(document: Any, label: str, split: str = "") -> Rows:
    """The rows of a JSON list of objects, of Karpathy's dataset_*.json (of `split`), or of {file name: captions}.

    Raises UserError for another document.
    """
    if _is_karpathy(document):
        return _karpathy(document["images"], split)
    if isinstance(document, list):
        return (_object(f"entry {number}", value) for number, value in enumerate(document))
    if isinstance(document, dict) and document and all(isinstance(value, str | list) for value in document.values()):
        return (
            Row(f"entry {number}", (name,), raw_captions(value))
            for number, (name, value) in enumerate(document.items())
        )
    raise UserError(
        f"{label}: no list of captions that t2i knows: expected COCO's images and annotations, Karpathy's "
        "dataset_*.json, or a list of {image, caption}"
    )


def _karpathy(images: list[Any], split: str) -> Rows:
    wanted = {"train": ("train", "restval"), "valid": ("val",), "validation": ("val",)}.get(split, (split,))
    for number, image in enumerate(images):
        where = f"images[{number}]"
        if not isinstance(image, dict):
            yield Row(where, flaw=("no file name", f"{where} is no object"))
            continue
        if split and isinstance(image.get("split"), str) and image["split"] not in wanted:
            continue
        row = row_of(where, {"sentences": [], **image})
        folder = image.get("filepath")
        name = image.get("filename")
        if row.flaw is None and isinstance(folder, str) and folder and isinstance(name, str) and name:
            row.names = (name, f"{folder}/{name}")
        yield row


# ---- tables ----------------------------------------------------------------------------------------------------


def _separated(stream: BinaryIO, label: str) -> Rows:
    """CSV, TSV and their kin, or Flickr8k's token file: the first line says which."""
    # Bytes that are no UTF-8 become lone surrogates, and are found row by row.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        first = text.readline(MAX_CAPTION_BYTES)
        # A closed wrapper closes the stream: it is not ours.
        yield from _token(_again(first, text)) if _TOKEN.fullmatch(first.rstrip("\r\n")) else _table(first, text, label)
    finally:
        with contextlib.suppress(ValueError):  # closed already
            text.detach()


def _again(first: str, rest: Iterable[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _token(lines: Iterable[str]) -> Rows:
    for number, line in enumerate(lines, 1):
        where, line = f"line {number}", line.rstrip("\r\n")
        if not line.strip():
            continue
        found = _TOKEN.fullmatch(line)
        if not _is_text(line):
            yield Row(where, flaw=("row is not UTF-8", f"{where} is not UTF-8"))
        elif not found:
            yield Row(where, flaw=("row has another form", f"{where} is not 'name.jpg#0<TAB>caption'"))
        else:
            yield Row(where, (found[1],), [found[2]])


def _table(first: str, text: io.TextIOWrapper, label: str) -> Rows:
    delimiter = next((mark for mark in DELIMITERS if _is_header(_cells(first, mark))), ",")
    reader = csv.reader(_again(first, text), delimiter=delimiter, strict=True, skipinitialspace=delimiter == "|")
    header: list[str] | None = None
    hint = "" if _is_header(_cells(first, delimiter)) else "; its first line names the columns, such as file_name,text"
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            where = f"line {reader.line_num}"
            cause = f"{where} is not valid CSV ({first_line(error)})"
            if "unexpected end of data" in str(error) or header is None:  # a quote has swallowed all that follows
                raise UserError(f"{label}: {cause}; a quotation mark is not closed") from error
            yield Row(where, flaw=("row is not valid CSV", cause))
            continue
        where = f"line {reader.line_num}"
        if header is None:
            header = [cell.strip() for cell in cells]
            continue
        if not any(cell.strip() for cell in cells):
            continue
        yield _cells_row(where, header, cells, hint)


def _cells_row(where: str, header: list[str], cells: list[str], hint: str) -> Row:
    if not all(map(_is_text, cells)):
        return Row(where, flaw=("row is not UTF-8", f"{where} is not UTF-8"))
    row = row_of(where, dict(zip(header, [*cells, *[None] * (len(header) - len(cells))])), hint)
    if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
        cause = f"{where} has {len(cells)} cells, the header {len(header)}: quote captions that contain commas"
        row.flaw = ("more cells than columns", cause)
    elif len(cells) < len(header) and not row.captions and row.flaw is None:
        row.cause = f"{where} has {len(cells)} cells, the header {len(header)}"
    return row


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _is_header(cells: list[str]) -> bool:
    names = [cell.strip().lower() for cell in cells]
    return any(name in FILE_KEYS for name in names) and any(map(is_caption_column, names))


def _is_text(cell: str | None) -> bool:
    if cell is None or cell.isascii():
        return True
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- parquet ---------------------------------------------------------------------------------------------------


def parquet_errors() -> tuple[type[Exception], ...]:
    """What pyarrow raises of a damaged file: more than its own. Imports it."""
    import pyarrow

    return (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, IndexError)


def open_parquet(source: Any, label: str) -> Any:
    """A pyarrow ParquetFile that reads in small pieces. Raises UserError, one line, also where pyarrow is missing."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f'{label}: reading parquet needs pyarrow: pip install "t2i[parquet]"') from error
    try:
        return parquet.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
    except parquet_errors() as error:
        raise UserError(f"{label}: this is not a readable parquet file ({first_line(error)})") from error


def _parquet(stream: BinaryIO, label: str) -> Rows:
    file = open_parquet(stream, label)
    try:
        names = file.schema_arrow.names
        columns = [name for name in names if name.strip().lower() in FILE_KEYS or is_caption_column(name)]
        whole = len(columns) > 1  # else all the names are for the message
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for values in batch.to_pylist():
                number += 1
                yield row_of(f"row {number}", values if whole else {**dict.fromkeys(names), **values})
    except UserError:
        raise
    except parquet_errors() as error:
        raise UserError(f"{label}: this is not a readable parquet file ({first_line(error)})") from error
