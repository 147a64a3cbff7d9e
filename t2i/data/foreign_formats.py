"""Formats that Pillow does not read by itself: two that an extra adds, and those that a message can name."""

import contextlib
import functools

from t2i.data.records import ImageError

# File names that are images'. The decoder looks at the bytes, never at the name.
EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".avif",
))  # fmt: skip
# Images' names all the same: what has one is an entry, and where it cannot be decoded, that is said.
FOREIGN = frozenset((
    ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".svg", ".svgz", ".ico", ".cur", ".tga", ".pcx",
    ".psd", ".psb", ".xcf", ".eps", ".ai", ".exr", ".hdr", ".dds", ".icns", ".qoi", ".dng", ".cr2", ".cr3", ".nef",
    ".arw", ".orf", ".rw2", ".raf", ".emf", ".wmf",
))  # fmt: skip

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_NAMED = (
    (b"\0\0\0\x0cjP  ", "JPEG 2000"), (b"\xff\x4f\xff\x51", "JPEG 2000"), (b"\0\0\1\0", "an icon (.ico)"),
    (b"\x0a\x05\x01", "PCX"), (b"8BPS", "Photoshop (.psd)"), (b"gimp xcf", "GIMP"), (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"), (b"%PDF", "PDF"), (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"), (b"DDS ", "DDS"), (b"icns", "an icon (.icns)"), (b"qoif", "QOI"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file"), (b"\x1f\x8b", "a compressed file"),
)  # fmt: skip


def _is_heif(start: bytes) -> bool:
    return start[4:8] == b"ftyp" and start[8:12] in _BRANDS


def extra_formats(start: bytes) -> tuple[str, ...]:
    """What else may be tried on a file that starts so (its first 64 bytes): HEIF or JXL, where the extra is there."""
    if _is_heif(start):
        return ("HEIF",) if _has_heif() else ()
    if start.startswith(_JXL):
        return ("JXL",) if _has_jxl() else ()
    return ()


def foreign(start: bytes) -> ImageError | None:
    """Why a file that no decoder took cannot be used, by its first 512 bytes; None where nothing is known."""
    for name, found, there in (
        ("HEIC", _is_heif(start), _has_heif),
        ("JPEG XL", start.startswith(_JXL) and len(start) > 16, _has_jxl),
    ):
        if found and not there():
            return ImageError("needs t2i[formats]", f'{name}: pip install "t2i[formats]"')
        if found:
            return ImageError("damaged", name)
    name = next((name for sign, name in _NAMED if start.startswith(sign)), "")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith((b"<svg", b"<?xml", b"<!--", b"<!DOCTYPE svg")) and b"<svg" in start:
        name = "SVG"
    return ImageError("format is not read", f"{name}: convert it to PNG or JPEG") if name else None


@functools.cache
def _has_heif() -> bool:
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
        return True
    return False


@functools.cache
def _has_jxl() -> bool:
    with contextlib.suppress(ImportError):
        from pillow_jxl import JpegXLImagePlugin

        JpegXLImagePlugin.DECODE_THREADS = 0  # a process a core decodes
        return True
    return False
