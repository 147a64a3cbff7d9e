"""Tar shards, img2dataset's and WebDataset's: KEY.jpg with KEY.txt and/or KEY.json. Nothing is extracted."""

import glob
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from t2i.data.located import TarImage
from t2i.data.records import Record, Skip
from t2i.data.sources.captions import document_captions, text_captions
from t2i.data.sources.common import (
    MAX_CAPTION_BYTES,
    check_split,
    is_image_name,
    is_utf8,
    plural,
    printable,
    source_name,
)
from t2i.errors import UserError
from t2i.files import brief, describe_os_error, first_line

MAX_SHARDS = 1_000_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
# WebDataset's other parts of a sample, which are no images: labels, arrays, tensors.
_OTHER_PARTS = frozenset((
    "cls", "cls2", "index", "inx", "id", "npy", "npz", "pth", "pt", "pkl", "pickle", "pyd", "msgpack", "mp", "ten",
    "tb", "cbor",
))  # fmt: skip


class DamagedTar(Exception):
    """A tar whose headers cannot be followed to its end."""


@dataclass(slots=True)
class _Group:
    """What one KEY has in a shard: (offset, size) of each part; a size of -1 stands for what is no plain file."""

    images: list[tuple[str, int, int]] = field(default_factory=list)  # extension, offset, size
    others: list[tuple[str, int, int]] = field(default_factory=list)  # of names that are no image's
    text: tuple[int, int] | None = None
    document: tuple[int, int] | None = None

    @property
    def captioned(self) -> bool:
        return self.text is not None or self.document is not None

    @property
    def entries(self) -> list[tuple[str, int, int]]:
        """Its images by name; where there is none, what else its caption can be of."""
        return self.images or (self.others[:1] if self.captioned else [])


class ShardSource:
    """Uncompressed tars, by a glob ("data/*.tar"), a brace range ("data/{00000..00012}.tar") or a folder.

    An image's captions: the caption in KEY.json, else KEY.txt's lines. A key ends at the first dot of the base name,
    as WebDataset has it. Shards in the order of their names, keys in order inside each; one shard's index is held at a
    time. What follows a damaged place in a tar is one Skip. len() reads every header once.
    Raises UserError, one line, where no shard or no image is found, and for compressed tars (an image in
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
            if any(group.entries for group in groups.values()):
                self._check_keys(shard, groups)
                break
            damaged = damaged or (damage and f" ({os.path.basename(shard)} is damaged: {damage})")
        else:
            expected = "expected KEY.jpg with KEY.txt or KEY.json"
            raise UserError(f"{self.pattern}: no images in these tars{damaged}; {expected}")

    def _check_keys(self, shard: str, groups: dict[str, _Group]) -> None:
        """Raises UserError where the names' dots make one key of all images."""
        key, group = max(groups.items(), key=lambda item: len(item[1].images))
        dotted = [extension for extension, _, _ in group.images if "." in extension]
        if len(dotted) > 2 and 2 * len(dotted) > sum(len(each.images) for each in groups.values()):
            raise UserError(
                f"{shard}: a key ends at the first dot of the name, as WebDataset has it, and so {key}.{dotted[0]} and "
                f"{key}.{dotted[1]} are one sample, {key!r}; write the tar with names without other dots"
            )

    def __len__(self) -> int:
        if self._count is None:
            self._count = 0
            for shard in self._shards:
                groups, damage = _read_index(shard)
                self._count += sum(len(group.entries) for group in groups.values()) + bool(damage)
        return self._count

    def __iter__(self) -> Iterator[Record | Skip]:
        self.notes = []
        alone = both = 0
        for shard in self._shards:
            groups, damage = _read_index(shard)
            relative = os.path.relpath(shard, self._base).replace(os.sep, "/")
            try:
                with open(shard, "rb") as stream:
                    for key in sorted(groups):
                        group = groups[key]
                        alone += group.captioned and not group.entries
                        both += bool(group.entries) and group.text is not None and group.document is not None
                        yield from _entries(stream, shard, f"{relative}/{key}", group)
            except OSError as error:
                raise describe_os_error(error, shard) from error
            if damage:
                yield Skip(printable(relative), "damaged tar", damage)
                self.notes.append(f"{brief(relative)} is damaged ({damage}); what came before was used")
        if alone:
            self.notes.append(f"{plural(alone, 'caption')} without an image")
        if both:
            self.notes.append(f"{plural(both, 'image')} with .json and .txt: .json is used where it holds a caption")

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

    Only plain files are read: links, devices and sparse files are entries that cannot be. Two images of one name are
    both listed.
    Raises UserError where the file cannot be read.
    """
    groups: dict[str, _Group] = {}
    try:
        for member in _members(shard):
            folder, _, base = member.name.rpartition("/")
            start, _, rest = base.partition(".")
            if not start or member.isdir():
                continue
            key = f"{folder}/{start}" if folder else start
            rest = rest.lower()
            extension = rest.rpartition(".")[2]
            plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
            place = (member.offset_data, member.size if plain else -1)
            if extension in ("txt", "json"):
                if plain:
                    group = groups.setdefault(key, _Group())
                    if extension == "txt":
                        group.text = place
                    else:
                        group.document = place
            elif is_image_name(f"{start}.{extension}"):
                groups.setdefault(key, _Group()).images.append((rest, *place))
            elif extension not in _OTHER_PARTS:
                groups.setdefault(key, _Group()).others.append((rest, *place))
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
    for number, (extension, offset, size) in enumerate(group.entries):
        if number:
            first = f"{key}.{group.entries[0][0]}".rpartition("/")[2]
            name = printable(f"{key}.{extension}")
            yield Skip(name, "second image of the same name", printable(f"{first} has its captions"))
        elif not is_utf8(key):
            yield Skip(printable(key), "file name is not UTF-8")
        elif size < 0:
            yield Skip(key, "not a file", "a link, a device or a sparse file in the tar")
        elif not group.captioned:
            yield Skip(key, "no caption file", "neither .txt nor .json")
        else:
            captions = _captions(stream, group)
            if isinstance(captions, str):
                yield Skip(key, captions)
            else:
                yield Record(key, captions, TarImage(shard, offset, size))


def _captions(stream: BinaryIO, group: _Group) -> tuple[str, ...] | str:
    """The captions, or why there are none. JSON first: in a .txt, a caption's own line breaks split it."""
    why = ""
    if group.document is not None:
        captions = document_captions(_read(stream, group.document))
        if not isinstance(captions, str):
            return captions
        why = captions
    if group.text is not None:
        captions = text_captions(_read(stream, group.text))
        return why if why and captions == "no caption" else captions
    return why


def _read(stream: BinaryIO, place: tuple[int, int]) -> bytes | None:
    offset, size = place
    if size > MAX_CAPTION_BYTES:
        return None
    stream.seek(offset)
    return stream.read(size)
