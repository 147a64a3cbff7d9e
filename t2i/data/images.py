"""Decode any picture safely: whatever the bytes are, the result is a small RGB array or a PictureError.

Worker processes import this file, so it needs numpy and Pillow only. Most of a JPEG's cost is decoding pixels
that are then averaged away; libjpeg can decode at 1/2, 1/4 or 1/8 directly (Pillow's `draft`): used here.
"""

import contextlib
import functools
import io
import logging
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import (  # the plugins: Image.open would import all of Pillow's otherwise
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
    features,
)

from t2i.data.records import PictureError
from t2i.data.safe_paths import inside, open_file
from t2i.files import first_line

T = TypeVar("T")

FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
if "avif" in features.modules and features.check("avif"):
    from PIL import AvifImagePlugin  # noqa: F401

    FORMATS = (*FORMATS, "AVIF")

# With no handler at all, Python prints a library's errors to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# File names worth trying when a folder is listed. The decoder looks at the bytes, never at the name.
EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".avif",
))  # fmt: skip

MAX_PIXELS = 100_000_000  # decoded at once; Pillow holds 4 bytes a pixel, so 400 MB
MAX_BYTES = 512 * 2**20  # of the file itself
MIN_SIDE = 8  # a narrower picture (1 x N: a rule, a tracking pixel) shows nothing at any resolution

# A scaled decode keeps at least the pixels a side that are asked for, whole blocks are averaged down to no fewer
# than REDUCING_GAP times those, and bicubic does the rest. COCO against a full decode and bicubic alone: 43 dB at
# 64 px (33 in the worst picture). Lanczos, a little sharper, takes 0.1 ms longer at 64 px, 2 ms at 256 px.
FILTER = Image.Resampling.BICUBIC
REDUCING_GAP = 1.5
WHOLE = 16 * 2**20  # bytes; a file up to here is read, and handed to libjpeg, in one piece: 5 % faster than in 64 KiB

# Every reason a picture can be refused for. They are counted and shown to the user, so they stay as they are.
REASONS = frozenset(
    (
        "empty file",
        "not a picture",
        "truncated",
        "damaged",
        "too small",
        "too many pixels",
        "file too big",
        "unsupported pixels",
        "out of memory",
        "missing file",
        "unreadable file",
        "not a file",
        "file name leaves the folder",
    )
)


def load_picture(source: Path | BinaryIO | bytes, resolution: int) -> np.ndarray:
    """Decode, turn upright, put on white, crop the centre square and resize (bicubic, antialiased).

    source: a path, a seekable binary stream (read from its start) or the file's bytes.
    Returns uint8 [resolution, resolution, 3], RGB, writable and contiguous. Of an animation: the first frame.
    Raises PictureError, and nothing else, with one of REASONS. Not for threads: it silences Pillow's
    warnings, and Python's warning filters belong to the whole process.
    """
    if resolution < 1:
        raise ValueError(f"resolution {resolution} is below 1")
    return _decoded(source, functools.partial(_square, resolution=resolution))


def load_whole(source: Path | BinaryIO | bytes) -> Image.Image:
    """The same without crop and resize: the whole picture, RGB, upright and on white. Raises PictureError."""
    return _decoded(source, _whole)


def _decoded(source: Path | BinaryIO | bytes, use: Callable[[Image.Image], T]) -> T:
    """What `use` makes of the opened picture. Raises PictureError, and nothing else."""
    if isinstance(source, Path):
        with open_file(str(source), source.name) as stream:
            return _decoded(stream, use)
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        if _length(stream) <= WHOLE and not isinstance(stream, io.BytesIO):
            stream = io.BytesIO(stream.read())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata and large pictures warn; they are judged here
            with Image.open(stream, formats=FORMATS) as picture:
                return use(picture)
    except PictureError:
        raise
    # Pillow raises OSError, SyntaxError, ValueError, struct.error, IndexError, OverflowError, zlib.error, ...
    except Exception as error:
        raise _explain(error, stream) from error


def _whole(picture: Image.Image) -> Image.Image:
    _load(picture, None)
    orientation = _orientation(picture)
    if picture.mode not in ("L", "RGB") or "transparency" in picture.info:
        picture = _plain(picture, (0, 0, *picture.size))
    return Image.fromarray(np.ascontiguousarray(_upright(_on_white(picture), orientation)))


def _load(picture: Image.Image, resolution: int | None) -> Any:
    """Decode, a JPEG at the smallest scale that covers `resolution`; returns what Pillow says of that scale.

    Raises PictureError for a picture that is too small or too large.
    """
    width, height = picture.size
    if min(width, height) < MIN_SIDE:
        raise PictureError("too small", f"{width} x {height} pixels")
    # A progressive JPEG's coefficients are all held in memory before the scaled decode: it counts in full.
    counted = width * height if picture.info.get("progressive") else 0
    drafted = picture.draft(None, (resolution, resolution)) if resolution else None
    counted = max(counted, picture.size[0] * picture.size[1])
    if counted > MAX_PIXELS:
        raise PictureError("too many pixels", f"{width} x {height} pixels")
    if picture.format == "JPEG":
        assert isinstance(picture, ImageFile.ImageFile)
        picture.decodermaxblock = WHOLE
    # Nothing but libtiff prints.
    with _no_stderr() if picture.format == "TIFF" else contextlib.nullcontext():
        picture.load()
    return drafted


def _square(picture: Image.Image, resolution: int) -> np.ndarray:
    width, height = picture.size
    drafted = _load(picture, resolution)
    if drafted is None:
        width, height = picture.size  # Pillow has turned a TIFF by now
        scale = 1.0
    else:
        scale = drafted[1][2] / width
    orientation = _orientation(picture)
    side = min(width, height)
    margin = max(width, height) - side
    # An odd margin is cut the same way in the upright picture whichever way round it is stored.
    flipped = orientation in ((2, 3, 7, 8) if width > height else (3, 4, 6, 7))
    offset = margin - margin // 2 if flipped else margin // 2
    left, top = (offset, 0) if width > height else (0, offset)
    # Fractions of a pixel count: at a quarter, 426 pixels are 106.5. Rounded, the picture would be off by that half.
    box = (left * scale, top * scale, (left + side) * scale, (top + side) * scale)

    if picture.mode not in ("L", "RGB") or "transparency" in picture.info:
        cut = (math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3]))
        picture = _plain(picture, cut)
        box = (box[0] - cut[0], box[1] - cut[1], box[2] - cut[0], box[3] - cut[1])
    small = picture.resize((resolution, resolution), FILTER, box, REDUCING_GAP)
    return np.array(_upright(_on_white(small), orientation), order="C")  # a copy: what Pillow hands out is read-only


def _on_white(picture: Image.Image) -> np.ndarray:
    """L, RGB or RGBa -> uint8 [H, W, 3]."""
    pixels = np.asarray(picture)
    if pixels.ndim == 2:  # grey
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.shape[2] == 4:  # RGBa, colours already multiplied by alpha: what is missing is white
        white = 255 - pixels[:, :, 3:].astype(np.int16)
        return np.clip(pixels[:, :, :3] + white, 0, 255).astype(np.uint8)
    return pixels


def _plain(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Cut `box` out, any mode -> L, RGB or RGBa.

    RGBa is premultiplied: averaging leaves no dark fringe round what is cut out.
    """
    mode = picture.mode
    crop = picture.crop(box)
    if mode.startswith("I;16") or (mode == "I" and picture.format in ("PNG", "PPM")):
        return _from_16_bits(crop, getattr(picture, "tag_v2", {}))
    if mode in ("I", "F"):  # 32-bit integers and floats: nothing in the file says which value is white
        raise PictureError("unsupported pixels", f"mode {mode}")
    if crop.has_transparency_data:
        return crop.convert("RGBA").convert("RGBa")
    return crop.convert("L" if mode == "1" else "RGB")


def _from_16_bits(picture: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Grey at 16 bits (in a TIFF, 12 too: `tags` says) -> L."""
    white = 2 ** tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0] - 1
    values = np.asarray(picture).astype(np.uint32)
    grey = np.minimum((values * 255 + white // 2) // white, 255).astype(np.uint8)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # 0 is white
        grey = 255 - grey
    see_through = picture.info.get("transparency")  # PNG's tRNS: one value that is not there
    if isinstance(see_through, int):
        grey[values == see_through] = 255
    return Image.fromarray(grey)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, 3] as stored -> upright, by EXIF's orientation 1-8."""
    match orientation:
        case 2:
            return pixels[:, ::-1]
        case 3:
            return pixels[::-1, ::-1]
        case 4:
            return pixels[::-1]
        case 5:
            return pixels.swapaxes(0, 1)
        case 6:
            return np.rot90(pixels, -1)
        case 7:
            return pixels[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return np.rot90(pixels, 1)
    return pixels


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation, 1-8; 1 where there is none or it is damaged."""
    if picture.format == "TIFF":  # Pillow has turned it already
        return 1
    try:
        value = picture.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block in a good picture
        return 1
    return value if value in range(1, 9) else 1


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Close standard error to C code: libtiff writes "LZWDecode: ..." there by itself."""
    try:
        saved = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _length(stream: BinaryIO) -> int:
    """The stream's bytes; it is at its start afterwards. Raises PictureError for none and for too many."""
    length = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if length == 0:
        raise PictureError("empty file")
    if length > MAX_BYTES:
        raise PictureError("file too big", f"{length / 2**20:.0f} MiB")
    return length


def _explain(error: Exception, stream: BinaryIO) -> PictureError:
    if isinstance(error, UnidentifiedImageError):  # its own text holds an object's address
        with contextlib.suppress(OSError, ValueError):
            stream.seek(0)
            return PictureError("not a picture", f"it starts with {stream.read(12)!r}")
        return PictureError("not a picture")
    # The same picture must be refused with the same bytes on every run: no addresses.
    detail = re.sub(r"0x[0-9a-fA-F]+", "0x...", first_line(error))
    detail = detail.encode("ascii", "backslashreplace").decode()
    if isinstance(error, Image.DecompressionBombError):
        return PictureError("too many pixels", detail)
    if isinstance(error, MemoryError):
        return PictureError("out of memory", detail)
    if isinstance(error, EOFError) or "truncated" in detail.lower():
        return PictureError("truncated", detail)
    if isinstance(error, OSError) and error.errno is not None:  # the disk's error, not the picture's
        return PictureError("unreadable file", error.strerror or detail)
    return PictureError("damaged", detail)


# ---------------------------------------------------------------- where pictures are


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A picture in a file under a folder.

    name: relative to `root`, with "/" between folders.
    trusted: the name came from listing the folder, and links in it are followed. A name out of a document is
        not trusted: load() then refuses, unopened, one that leads out of `root` by itself or by a link.
    """

    root: str
    name: str
    trusted: bool = False

    def load(self, resolution: int) -> np.ndarray:
        """uint8 [resolution, resolution, 3]. Raises PictureError."""
        path = os.path.join(self.root, self.name) if self.trusted else inside(self.root, self.name)
        with open_file(path, self.name) as stream:
            return load_picture(stream, resolution)

    def stamp(self) -> tuple[int, int]:
        """The file's bytes and time of change (ns)."""
        return _stamp(os.path.join(self.root, self.name))


@dataclass(frozen=True, slots=True)
class TarPicture:
    """A picture inside an uncompressed tar: `size` bytes from `offset` on."""

    path: str
    offset: int
    size: int

    def load(self, resolution: int) -> np.ndarray:
        """uint8 [resolution, resolution, 3]. Raises PictureError."""
        if self.size > MAX_BYTES:
            raise PictureError("file too big", f"{self.size / 2**20:.0f} MiB")
        name = os.path.basename(self.path)
        with open_file(self.path, name) as stream:
            try:
                stream.seek(self.offset)
                data = stream.read(self.size)
            except (OSError, ValueError) as error:
                raise PictureError("unreadable file", f"{name}: {first_line(error)}") from error
        if len(data) < self.size:
            raise PictureError("truncated", f"{name} ends inside the picture")
        return load_picture(data, resolution)

    def stamp(self) -> tuple[int, int]:
        """The picture's own bytes, and the tar's time of change (ns)."""
        return self.size, _stamp(self.path)[1]


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return -1, 0
    return status.st_size, status.st_mtime_ns
