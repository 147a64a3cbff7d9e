"""An image's file without its metadata: for when text, profiles or EXIF keep good pixels from being decoded."""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

PNG = b"\x89PNG\r\n\x1a\n"
LIMIT = 512 * 2**20
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TEXT = (b"tEXt", b"zTXt", b"iTXt")


def without_metadata(stream: BinaryIO) -> Iterator[bytes]:
    """The file with less and less beside its pixels, as often as there is less; nothing for other formats."""
    stream.seek(0)
    start = stream.read(8)
    if start == PNG:
        data = start + stream.read(LIMIT)
        chunks = list(_chunks(data))
        sound = [part for name, part, good in chunks if name in _NEEDED or (good and name not in _TEXT)]
        bare = [part for name, part, good in chunks if name in _NEEDED and (good or name != b"tRNS")]
        yield PNG + b"".join(sound)
        if len(bare) < len(sound):
            yield PNG + b"".join(bare)
    elif start[:3] == b"\xff\xd8\xff":
        data = start + stream.read(LIMIT)
        bare_jpeg = _without_segments(data)
        if len(bare_jpeg) < len(data):
            yield bare_jpeg


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(name, the whole chunk, whether its checksum holds), as far as they can be followed."""
    place = len(PNG)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        name = data[place + 4 : place + 8]
        end = place + 12 + length
        if end > len(data):  # cut off: the decoder says so
            yield name, data[place:], False
            return
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        yield name, data[place:end], zlib.crc32(data[place + 4 : end - 4]) == checksum
        if name == b"IEND":
            return
        place = end


def _without_segments(data: bytes) -> bytes:
    """A JPEG without comments and application segments, but for JFIF's and Adobe's, which say what the colours are."""
    kept, place = [data[:2]], 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # filling
            place += 1
            continue
        if marker == 0xDA:  # the pixels begin
            break
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if not (0xE1 <= marker <= 0xEF and marker != 0xEE) and marker != 0xFE:
            kept.append(data[place:end])
        place = end
    return b"".join([*kept, data[place:]])
