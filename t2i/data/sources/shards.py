"""img2dataset's tar shards: KEY.jpg with KEY.txt and/or KEY.json. Read in place; nothing is extracted."""

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from t2i.data.images import TarPicture
from t2i.data.records import Record, Skip
from t2i.data.sources.common import (
    CAPTION_KEYS,
    MAX_CAPTION_BYTES,
    check_split,
    clean_captions,
    is_picture_name,
    is_utf8,
    plural,
    printable,
    source_name,
)
from t2i.errors import UserError
from t2i.files import brief, describe_os_error, first_line

MAX_SHARDS = 1_000_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class DamagedTar(Exception):
    """A tar whose headers cannot be followed to its end."""


@dataclass(slots=True)
class _Group:
    """What one KEY has in a shard: (offset, size) of each part."""

    pictures: list[tuple[str, int, int]] = field(default_factory=list)  # extension, offset, size
    text: tuple[int, int] | None = None
    document: tuple[int, int] | None = None


class ShardSource:
    """Uncompressed tars, by a glob ("data/*.tar"), a brace range ("data/{00000..00012}.tar") or a folder.

    A picture's captions: the caption in KEY.json, else KEY.txt's lines. Shards in the order of their names,
    keys in order inside each; one shard's index is held at a time. What follows a damaged place in a tar is
    one Skip. len() reads every header once.
    Raises UserError, one line, where no shard or no picture is found, and for compressed tars (a picture in
    the middle of one cannot be reached).
    """

    def __init__(self, pattern: Path | str, split: str = "train"):
        self.pattern = str(pattern)
        self.split = check_split(split)
        self.notes: list[str] = []
        self._shards = _expand(self.pattern)
        self._base = os.path.commonpath([os.path.dirname(os.path.abspath(shard)) for shard in self._shards])
        self.name = source_name(self._base)
        self._count: int | None = None
        for shard in self._shards:
            _check_uncompressed(shard)
        damaged = ""
        for shard in self._shards:
            groups, damage = _read_index(shard)
            if any(group.pictures for group in groups.values()):
                break
            damaged = damaged or (damage and f" ({os.path.basename(shard)} is damaged: {damage})")
        else:
            expected = "expected KEY.jpg with KEY.txt or KEY.json"
            raise UserError(f"{self.pattern}: no pictures in these tars{damaged}; {expected}")

    def __len__(self) -> int:
        if self._count is None:
            self._count = 0
            for shard in self._shards:
                groups, damage = _read_index(shard)
                self._count += sum(len(group.pictures) for group in groups.values()) + bool(damage)
        return self._count

    def __iter__(self) -> Iterator[Record | Skip]:
        self.notes = []
        alone = 0
        for shard in self._shards:
            groups, damage = _read_index(shard)
            relative = os.path.relpath(shard, self._base).replace(os.sep, "/")
            try:
                with open(shard, "rb") as stream:
                    for key in sorted(groups):
                        alone += not groups[key].pictures
                        yield from _entries(stream, shard, f"{relative}/{key}", groups[key])
            except OSError as error:
                raise describe_os_error(error, shard) from error
            if damage:
                yield Skip(printable(relative), "damaged tar", damage)
                self.notes.append(f"{brief(relative)} is damaged ({damage}); what came before was used")
        if alone:
            self.notes.append(f"{plural(alone, 'caption')} without a picture")

    def describe(self) -> dict[str, Any]:
        return {"kind": "shards", "pattern": os.path.basename(self.pattern), "shards": len(self._shards)}


def _expand(pattern: str) -> list[str]:
    """The shards' paths, sorted. Raises UserError where there are none or one of a range is missing."""
    if os.path.isdir(pattern):
        pattern = os.path.join(glob.escape(pattern), "*.tar")
    match = _RANGE.search(pattern)
    if match is None:
        shards = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern))
        if not shards:
            raise UserError(f"{pattern}: no such tar files; expected img2dataset's, such as data/00000.tar")
        return shards
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MAX_SHARDS:
        raise UserError(f"{pattern}: the range {match[0]} is empty or too long")
    width = len(match[1])
    shards = [f"{pattern[: match.start()]}{n:0{width}}{pattern[match.end() :]}" for n in range(first, last + 1)]
    missing = [shard for shard in shards if not os.path.isfile(shard)]
    if missing:
        raise UserError(f"{missing[0]}: no such file; {len(missing)} of the {len(shards)} in the range are missing")
    return shards


def _check_uncompressed(shard: str) -> None:
    try:
        if not os.path.isfile(shard):
            raise UserError(f"{shard}: this is no tar file")
        with open(shard, "rb") as stream:
            start = stream.read(6)
    except OSError as error:
        raise describe_os_error(error, shard) from error
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise UserError(f"{shard}: this tar is compressed; unpack it to a plain .tar first")


def _read_index(shard: str) -> tuple[dict[str, _Group], str]:
    """{key: where its parts are} and what is wrong with the tar, or "". Reads headers only.

    Only plain files count: no links, devices or sparse files. Two pictures of one name are both listed.
    Raises UserError where the file cannot be read.
    """
    groups: dict[str, _Group] = {}
    try:
        for member in _members(shard):
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                continue
            folder, _, base = member.name.rpartition("/")
            start, dot, extension = base.partition(".")  # img2dataset's keys hold no dot
            if not dot or not start:
                continue
            key = f"{folder}/{start}" if folder else start
            extension = extension.lower()
            place = (member.offset_data, member.size)
            if is_picture_name(f"{start}.{extension}"):
                groups.setdefault(key, _Group()).pictures.append((extension, *place))
            elif extension == "txt":
                groups.setdefault(key, _Group()).text = place
            elif extension == "json":
                groups.setdefault(key, _Group()).document = place
    except DamagedTar as error:
        return groups, str(error)
    except OSError as error:
        raise describe_os_error(error, shard) from error
    return groups, ""


def _members(shard: str) -> Iterator[tarfile.TarInfo]:
    """The headers, one after the other. Raises DamagedTar at the place where they cannot be followed."""
    length = os.path.getsize(shard)
    previous = -1
    with open(shard, "rb") as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    # A header with a negative size leads back, and round for ever.
                    if member.offset <= previous or member.size < 0 or tar.offset <= member.offset:
                        raise DamagedTar(f"its headers go round in a circle at byte {member.offset}")
                    previous = member.offset
                    if member.isreg() and not member.issparse() and member.offset_data + member.size > length:
                        raise DamagedTar(f"it is cut off at byte {length}")
                    # tarfile would keep every header.
                    tar.members = []  # type: ignore[attr-defined]  # typeshed does not list it
                    yield member
                end = tar.offset
        except (DamagedTar, OSError):
            raise
        # tarfile raises TarError, ValueError, OverflowError, UnicodeDecodeError, RecursionError, ...
        except Exception as error:
            raise DamagedTar(first_line(error)) from error
        # tarfile takes a damaged header for the end: the true end is zeros, or the file's.
        stream.seek(end)
        if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise DamagedTar(f"no valid header at byte {end}")


def _entries(stream: BinaryIO, shard: str, key: str, group: _Group) -> Iterator[Record | Skip]:
    for number, (extension, offset, size) in enumerate(group.pictures):
        if number:
            yield Skip(printable(f"{key}.{extension}"), "second picture of the same name")
        elif not is_utf8(key):
            yield Skip(printable(key), "file name is not UTF-8")
        elif group.text is None and group.document is None:
            yield Skip(key, "no caption file", "neither .txt nor .json")
        else:
            captions = _captions(stream, group)
            if isinstance(captions, str):
                yield Skip(key, captions)
            else:
                yield Record(key, captions, TarPicture(shard, offset, size))


def _captions(stream: BinaryIO, group: _Group) -> tuple[str, ...] | str:
    """The captions, or why there are none. JSON first: in a .txt, a caption's own line breaks split it."""
    why = "no caption"
    if group.document is not None:
        captions = _from_document(_read(stream, group.document))
        if isinstance(captions, str):
            why = captions
        elif captions:
            return captions
    if group.text is not None:
        data = _read(stream, group.text)
        if data is None:
            return "caption file is too big"
        try:
            return clean_captions(data.decode("utf-8-sig").splitlines()) or why
        except UnicodeDecodeError:
            return "caption file is not UTF-8"
    return why


def _from_document(data: bytes | None) -> tuple[str, ...] | str:
    if data is None:
        return "caption file is too big"
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return "caption file is not valid JSON"
    if not isinstance(document, dict):
        return "caption file is not valid JSON"
    # img2dataset writes "caption" first of all; "text" is a caption too where there is none
    value = next((document[key] for key in ("caption", *CAPTION_KEYS) if document.get(key)), None)
    values = value if isinstance(value, list) else [value]
    return clean_captions(value for value in values if isinstance(value, str))


def _read(stream: BinaryIO, place: tuple[int, int]) -> bytes | None:
    offset, size = place
    if size > MAX_CAPTION_BYTES:
        return None
    stream.seek(offset)
    return stream.read(size)
