"""Decode any image safely: whatever the bytes are, the result is a small RGB array or a ImageError.

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

from t2i.data.colour import has_own_ink, to_srgb
from t2i.data.foreign_formats import extra_formats, foreign
from t2i.data.metadata import without_metadata
from t2i.data.records import PLAIN, Framing, ImageError
from t2i.data.safe_paths import open_file
from t2i.files import first_line

T = TypeVar("T")

FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
if "avif" in features.modules and features.check("avif"):
    from PIL import AvifImagePlugin  # noqa: F401

    FORMATS = (*FORMATS, "AVIF")

# With no handler at all, Python prints a library's errors to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

MAX_PIXELS = 100_000_000  # decoded at once; Pillow holds 4 bytes a pixel, so 400 MB
MAX_BYTES = 512 * 2**20  # of the file itself
MIN_SIDE = 8  # a narrower image (1 x N: a rule, a tracking pixel) shows nothing at any resolution

# A scaled decode keeps at least the pixels a side that are asked for, whole blocks are averaged down to no fewer
# than REDUCING_GAP times those, and bicubic does the rest. COCO against a full decode and bicubic alone: 43 dB at
# 64 px (33 in the worst image). Lanczos, a little sharper, takes 0.1 ms longer at 64 px, 2 ms at 256 px.
FILTER = Image.Resampling.BICUBIC
REDUCING_GAP = 1.5
WHOLE = 16 * 2**20  # bytes; a file up to here is read, and handed to libjpeg, in one piece: 5 % faster than in 64 KiB

# Every reason an image can be refused for. They are counted and shown to the user, so they stay as they are.
REASONS = frozenset(
    (
        "empty file",
        "not an image",
        "format is not read",
        "needs t2i[formats]",
        "truncated",
        "damaged",
        "too small",
        "smaller than --min-size",
        "too many pixels",
        "file too big",
        "unsupported pixels",
        "out of memory",
        "missing file",
        "unreadable file",
        "not a file",
        "file name leaves the folder",
        "no image bytes",
    )
)


def load_image(source: Path | BinaryIO | bytes, resolution: int) -> np.ndarray:
    """Decode, turn upright, put on white, crop the centre square and resize (bicubic, antialiased).

    source: a path, a seekable binary stream (read from its start) or the file's bytes.
    Returns uint8 [resolution, resolution, 3], sRGB, writable and contiguous. Of an animation: the first frame.
    Raises ImageError, and nothing else, with one of REASONS. Not for threads: it silences Pillow's
    warnings, and Python's warning filters belong to the whole process.
    """
    return load_framed(source, resolution)[0]


def load_framed(
    source: Path | BinaryIO | bytes, resolution: int, framing: Framing = PLAIN
) -> tuple[np.ndarray, tuple[int, int]]:
    """The same in another framing, uint8 [resolution, resolution, C] (pixels.py); beside it the image's own width and
    height in pixels, as it is seen upright."""
    if resolution < 1:
        raise ValueError(f"resolution {resolution} is below 1")
    return _decoded(source, functools.partial(_square, resolution=resolution, framing=framing))


def load_whole(source: Path | BinaryIO | bytes) -> Image.Image:
    """The same without crop and resize: the whole image, RGB, upright and on white. Raises ImageError."""
    return _decoded(source, _whole)


def _decoded(source: Path | BinaryIO | bytes, use: Callable[[Image.Image], T]) -> T:
    """What `use` makes of the opened image. Raises ImageError, and nothing else.

    Where it fails, it is tried again without the metadata: pixels count.
    """
    if isinstance(source, Path):
        with open_file(str(source), source.name) as stream:
            return _decoded(stream, use)
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        if _length(stream) <= WHOLE and not isinstance(stream, io.BytesIO):
            stream = io.BytesIO(stream.read())
        start = stream.read(64)
    except ImageError:
        raise
    except Exception as error:
        raise _explain(error, stream) from error
    try:
        return _opened(stream, start, use)
    except ImageError as refused:
        if refused.reason not in ("damaged", "not an image", "truncated"):
            raise
        for bare in without_metadata(stream):
            try:
                return _opened(io.BytesIO(bare), start, use)
            except ImageError:
                continue
        raise


def _opened(stream: BinaryIO, start: bytes, use: Callable[[Image.Image], T]) -> T:
    try:
        formats = FORMATS + extra_formats(start)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata and large images warn; they are judged here
            with Image.open(stream, formats=formats) as image:
                return use(image)
    except ImageError:
        raise
    # Pillow raises OSError, SyntaxError, ValueError, struct.error, IndexError, OverflowError, zlib.error, ...
    except Exception as error:
        raise _explain(error, stream) from error


def _whole(image: Image.Image) -> Image.Image:
    _load(image, None)
    orientation = _orientation(image)
    profile = image.info.get("icc_profile")
    if (image.mode not in ("L", "RGB") or "transparency" in image.info) and not has_own_ink(image, profile):
        image = _plain(image, (0, 0, *image.size), PLAIN)
    image = to_srgb(image, profile)
    return Image.fromarray(np.ascontiguousarray(_upright(_with_channels(image, PLAIN), orientation)))


def _load(image: Image.Image, resolution: int | None) -> Any:
    """Decode, a JPEG at the smallest scale that covers `resolution`; returns what Pillow says of that scale.

    Raises ImageError for an image that is too small or too large.
    """
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise ImageError("too small", f"{width} x {height} pixels")
    # A progressive JPEG's coefficients are all held in memory before the scaled decode: it counts in full.
    counted = width * height if image.info.get("progressive") else 0
    drafted = image.draft(None, (resolution, resolution)) if resolution else None
    counted = max(counted, image.size[0] * image.size[1])
    if counted > MAX_PIXELS:
        raise ImageError("too many pixels", f"{width} x {height} pixels")
    if image.format == "JPEG":
        assert isinstance(image, ImageFile.ImageFile)
        image.decodermaxblock = WHOLE
    # Nothing but libtiff prints.
    with _no_stderr() if image.format == "TIFF" else contextlib.nullcontext():
        image.load()
    return drafted


def _square(image: Image.Image, resolution: int, framing: Framing) -> tuple[np.ndarray, tuple[int, int]]:
    width, height = image.size
    if framing.min_size > min(width, height):
        raise ImageError("smaller than --min-size", f"{width} x {height} pixels")
    drafted = _load(image, resolution)
    if drafted is None:
        width, height = image.size  # Pillow has turned a TIFF by now
        scale = 1.0
    else:
        scale = drafted[1][2] / width
    orientation = _orientation(image)
    aspect = framing.form.aspect if orientation < 5 else framing.form.aspect[::-1]  # of the image as it is stored
    unit = min(width / aspect[0], height / aspect[1])
    wide, high = round(unit * aspect[0]), round(unit * aspect[1])
    # An odd margin is cut the same way in the upright image whichever way round it is stored.
    left = _half(width - wide, more=orientation in (2, 3, 7, 8))
    top = _half(height - high, more=orientation in (3, 4, 6, 7))
    right, bottom = left + wide, top + high
    size = resolution, resolution
    if framing.fit == "pad":
        left, top, right, bottom = 0, 0, width, height
        unit = max(width / aspect[0], height / aspect[1])
        size = (
            max(1, round(resolution * width / (unit * aspect[0]))),
            max(1, round(resolution * height / (unit * aspect[1]))),
        )
    # Fractions of a pixel count: at a quarter, 426 pixels are 106.5. Rounded, the image would be off by that half.
    box = (left * scale, top * scale, right * scale, bottom * scale)

    profile = image.info.get("icc_profile")
    if (image.mode not in ("L", "RGB") or "transparency" in image.info) and not has_own_ink(image, profile):
        cut = (math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3]))
        image = _plain(image, cut, framing)
        box = (box[0] - cut[0], box[1] - cut[1], box[2] - cut[0], box[3] - cut[1])
    small = to_srgb(image.resize(size, FILTER, box, REDUCING_GAP), profile)
    pixels = np.array(_upright(_with_channels(small, framing), orientation), order="C")  # a copy: Pillow's is read-only
    own = (height, width) if orientation >= 5 else (width, height)
    if size != (resolution, resolution):
        top, left = ((resolution - length) // 2 for length in pixels.shape[:2])
        square = np.empty((resolution, resolution, pixels.shape[2]), np.uint8)
        nothing = framing.form.transparent
        square[:] = 0 if nothing else _with_channels(Image.new("RGB", (1, 1), framing.background), framing)
        square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        pixels = square
    return pixels, own


def _with_channels(image: Image.Image, framing: Framing) -> np.ndarray:
    """L, RGB or RGBa -> uint8 [H, W, C], the data set's channels."""
    pixels = np.asarray(image)
    if framing.form.transparent:
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        return pixels if pixels.shape[2] == 4 else np.concatenate([pixels, opaque], axis=2)
    if pixels.ndim == 3 and pixels.shape[2] == 4:  # colours already multiplied by alpha: the background is missing
        missing = 255 - pixels[:, :, 3:].astype(np.int32)
        behind = (missing * np.array(framing.background) + 127) // 255
        pixels = np.clip(pixels[:, :, :3] + behind, 0, 255).astype(np.uint8)
    if framing.form.channels == "grey":
        grey = pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))
        return grey[:, :, None]
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


def _half(margin: int, more: bool) -> int:
    """Half of a margin, rounded; more: up."""
    return margin - margin // 2 if more else margin // 2


def _plain(image: Image.Image, box: tuple[int, int, int, int], framing: Framing) -> Image.Image:
    """Cut `box` out, any mode -> L, RGB or RGBa.

    RGBa is premultiplied: averaging leaves no dark fringe round what is cut out.
    """
    mode = image.mode
    crop = image.crop(box)
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        return _from_16_bits(crop, getattr(image, "tag_v2", {}), framing)
    if mode in ("I", "F"):  # 32-bit integers and floats: nothing in the file says which value is white
        raise ImageError("unsupported pixels", f"mode {mode}")
    if crop.has_transparency_data:
        return crop.convert("RGBA").convert("RGBa")
    return crop.convert("L" if mode == "1" else "RGB")


def _from_16_bits(image: Image.Image, tags: Mapping[int, Any], framing: Framing) -> Image.Image:
    """Grey at 16 bits (in a TIFF, 12 too: `tags` says) -> L; RGBa or RGB where a value is transparent."""
    white = 2 ** tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0] - 1
    values = np.asarray(image).astype(np.uint32)
    grey = np.minimum((values * 255 + white // 2) // white, 255).astype(np.uint8)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # 0 is white
        grey = 255 - grey
    see_through = image.info.get("transparency")  # PNG's tRNS: one value that is not there
    if isinstance(see_through, int):
        alpha = np.where(values == see_through, 0, 255).astype(np.uint8)
        return Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).convert("RGBA").convert("RGBa")
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


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1-8; 1 where there is none or it is damaged."""
    if image.format == "TIFF":  # Pillow has turned it already
        return 1
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block in a good image
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
    """The stream's bytes; it is at its start afterwards. Raises ImageError for none and for too many."""
    length = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if length == 0:
        raise ImageError("empty file")
    if length > MAX_BYTES:
        raise ImageError("file too big", f"{length / 2**20:.0f} MiB")
    return length


def _explain(error: Exception, stream: BinaryIO) -> ImageError:
    if isinstance(error, UnidentifiedImageError):  # its own text holds an object's address
        start = b""
        with contextlib.suppress(OSError, ValueError):
            stream.seek(0)
            start = stream.read(512)
        return foreign(start) or ImageError("not an image", f"it starts with {start[:12]!r}" if start else "")
    # The same image must be refused with the same bytes on every run: no addresses.
    detail = re.sub(r"0x[0-9a-fA-F]+", "0x...", first_line(error))
    detail = detail.encode("ascii", "backslashreplace").decode()
    if isinstance(error, Image.DecompressionBombError):
        return ImageError("too many pixels", detail)
    if isinstance(error, MemoryError):
        return ImageError("out of memory", detail)
    if isinstance(error, EOFError) or "truncated" in detail.lower():
        return ImageError("truncated", detail)
    if isinstance(error, OSError) and error.errno is not None:  # the disk's error, not the image's
        return ImageError("unreadable file", error.strerror or detail)
    return ImageError("damaged", detail)
