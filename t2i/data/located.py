"""Where images are: in a file, inside a tar, inside a zip, in memory. Small picklable locators."""

import contextlib
import functools
import io
import os
import zipfile
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from t2i.data.images import MAX_BYTES, load_framed
from t2i.data.records import PLAIN, Framing, ImageError
from t2i.data.safe_paths import inside, on_disk, open_file
from t2i.files import first_line


class FilePart:
    """An image that is some file's bytes: `open` says which."""

    __slots__ = ()

    def open(self) -> BinaryIO:
        """A seekable stream of the encoded image. Raises ImageError."""
        raise NotImplementedError

    def load(self, resolution: int) -> np.ndarray:
        """uint8 [resolution, resolution, 3]. Raises ImageError."""
        return self.framed(resolution, PLAIN)[0]

    def framed(self, resolution: int, framing: Framing) -> tuple[np.ndarray, tuple[int, int]]:
        """uint8 [resolution, resolution, 3], and the image's own (width, height) in px. Raises ImageError."""
        with self.open() as stream:
            return load_framed(stream, resolution, framing)


@dataclass(frozen=True, slots=True)
class FileImage(FilePart):
    """An image in a file under a folder.

    name: relative to `root`, with "/" between folders.
    trusted: the name came from listing the folder, and links in it are followed. A name out of a document is
        not trusted: load() then refuses, unopened, one that leads out of `root` by itself or by a link.
    """

    root: str
    name: str
    trusted: bool = False

    def open(self) -> BinaryIO:
        path = os.path.join(self.root, on_disk(self.name)) if self.trusted else inside(self.root, self.name)
        return open_file(path, self.name)

    def stamp(self) -> tuple[int, int]:
        """The file's bytes and time of change (ns)."""
        return _stamp(os.path.join(self.root, on_disk(self.name)))


@dataclass(frozen=True, slots=True)
class TarImage(FilePart):
    """An image inside an uncompressed tar: `size` bytes from `offset` on."""

    path: str
    offset: int
    size: int

    def open(self) -> BinaryIO:
        if self.size > MAX_BYTES:
            raise ImageError("file too big", f"{self.size / 2**20:.0f} MiB")
        name = os.path.basename(self.path)
        with open_file(self.path, name) as stream:
            try:
                stream.seek(self.offset)
                data = stream.read(self.size)
            except (OSError, ValueError) as error:
                raise ImageError("unreadable file", f"{name}: {first_line(error)}") from error
        if len(data) < self.size:
            raise ImageError("truncated", f"{name} ends inside the image")
        return io.BytesIO(data)

    def stamp(self) -> tuple[int, int]:
        """The image's own bytes, and the tar's time of change (ns)."""
        return self.size, _stamp(self.path)[1]


@dataclass(frozen=True, slots=True)
class ZipImage(FilePart):
    """An image inside a zip. member: its name as the zip has it; size: unpacked bytes."""

    path: str
    member: str
    size: int

    def open(self) -> BinaryIO:
        if self.size > MAX_BYTES:
            raise ImageError("file too big", f"{self.size / 2**20:.0f} MiB")
        try:
            archive = opened_zip(self.path, _stamp(self.path)[1])
            return io.BytesIO(read_member(archive, archive.getinfo(self.member), MAX_BYTES))
        except ImageError:
            raise
        except FileNotFoundError as error:
            raise ImageError("missing file", os.path.basename(self.path)) from error
        except Exception as error:  # BadZipFile, zlib.error, RuntimeError (a password), NotImplementedError, KeyError
            raise ImageError("damaged", f"in {os.path.basename(self.path)}: {first_line(error)}") from error

    def stamp(self) -> tuple[int, int]:
        """The image's own bytes, and the zip's time of change (ns)."""
        return self.size, _stamp(self.path)[1]


@dataclass(frozen=True, slots=True)
class BytesImage(FilePart):
    """An image in memory."""

    data: bytes

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data)

    def stamp(self) -> tuple[int, int]:
        """The image's own bytes; it has no time."""
        return len(self.data), 0


@functools.lru_cache(maxsize=4)
def opened_zip(path: str, changed: int) -> zipfile.ZipFile:
    """A zip, its directory read once in a process. changed: of its file, so that another file is read anew."""
    return zipfile.ZipFile(path)


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    """A member's bytes. Raises ImageError above `limit`, whatever its header says; and what zipfile raises."""
    with archive.open(member) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ImageError("file too big", f"above {limit / 2**20:.0f} MiB")
    return data


def _stamp(path: str) -> tuple[int, int]:
    with contextlib.suppress(OSError, ValueError):
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    return -1, 0
