"""Images of every kind, documents, and seeded damage to both."""

import copy
import io
import json
import random
import struct
import zlib

import numpy as np
from PIL import Image


def scene(width: int, height: int) -> np.ndarray:
    """Something smooth, uint8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    blue = 127 + 100 * np.sin(x / 7) * np.cos(y / 5)
    return np.stack([255 * x / max(1, width - 1), 255 * y / max(1, height - 1), blue], axis=2).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, format: str, **options) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG with the header as it is told."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def images() -> dict[str, bytes]:
    """One file of every kind that users have, and some that nobody should."""
    pixels = scene(40, 30)
    image = Image.fromarray(pixels)
    frames = [Image.fromarray(np.roll(pixels, 5 * n, axis=1)) for n in range(3)]
    animation = {"save_all": True, "append_images": frames[1:]}
    turned = []
    for orientation in range(1, 9):
        turned.append(Image.Exif())
        turned[-1][0x0112] = orientation
    wide = np.repeat(pixels[:16].astype(">u2") * 257, 1, axis=0)
    return {
        **{f"JPEG turned {n}": encode(pixels, "JPEG", exif=exif) for n, exif in enumerate(turned, 1)},
        "JPEG progressive": encode(pixels, "JPEG", progressive=True, icc_profile=b"icc" * 20),
        "JPEG grey": encode(pixels[..., 0], "JPEG"),
        "JPEG CMYK": encode(image.convert("CMYK"), "JPEG"),
        "PNG": encode(pixels, "PNG", exif=turned[5]),
        "PNG with alpha": encode(image.convert("RGBA"), "PNG"),
        "PNG palette with alpha": encode(image.convert("P"), "PNG", transparency=bytes(range(200))),
        "PNG palette with one clear colour": encode(image.convert("P"), "PNG", transparency=3),
        "PNG grey 16": encode(pixels[..., 0].astype(np.uint16) * 257, "PNG"),
        "PNG colour 16": png(40, 16, 16, 2, b"".join(b"\0" + row.tobytes() for row in wide)),
        "PNG one bit": encode(image.convert("1"), "PNG"),
        "PNG animated": encode(frames[0], "PNG", **animation),
        "WebP": encode(image.convert("RGBA"), "WEBP", exif=turned[2]),
        "WebP lossless": encode(pixels, "WEBP", lossless=True),
        "WebP animated": encode(frames[0], "WEBP", **animation),
        "GIF animated": encode(frames[0], "GIF", **animation),
        "BMP": encode(pixels, "BMP"),
        "TIFF": encode(pixels, "TIFF"),
        "TIFF LZW": encode(pixels, "TIFF", compression="tiff_lzw"),
        "TIFF deflate": encode(pixels, "TIFF", compression="tiff_adobe_deflate", exif=turned[7]),
        "TIFF JPEG": encode(pixels, "TIFF", compression="jpeg"),
        "TIFF CMYK": encode(image.convert("CMYK"), "TIFF"),
        "TIFF grey 16": encode(pixels[..., 0].astype(np.uint16) * 257, "TIFF"),
        "PPM": encode(pixels, "PPM"),
        "1 x N": encode(scene(1, 200), "PNG"),
        "N x 1": encode(scene(200, 1), "JPEG"),
        "a bomb": png(60_000, 60_000, 8, 2, b"\0" * 10_000),
        "a bomb of almost allowed size": png(10_000, 9_999, 8, 2, b"\0" * 10_000),
        "nothing": b"",
    }


def damage(data: bytes, chance: random.Random) -> bytes:
    """Flipped, overwritten, removed and inserted bytes, and cuts; half of the time near the start, where sizes are."""
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 30))):
        if not damaged:
            return chance.randbytes(chance.randrange(3))
        at = chance.randrange(min(len(damaged), 200) if chance.random() < 0.5 else len(damaged))
        match chance.randrange(6):
            case 0:
                damaged[at] ^= 1 << chance.randrange(8)
            case 1:
                damaged[at] = chance.choice((0, 1, 127, 128, 255))
            case 2:
                del damaged[at : at + chance.randrange(1, 20)]
            case 3:
                damaged[at:at] = chance.randbytes(chance.randrange(1, 20))
            case 4:
                damaged[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80"))
            case 5:
                del damaged[max(at, 50) :]
    return bytes(damaged)


# ---- documents -------------------------------------------------------------------------------------------------

HOSTILE_NAMES = (
    "../out.png", "x/../../out.png", "/etc/passwd", "file:///etc/passwd", "https://x.org/a.png", "a\0.png",
    "..\\out.png", "C:\\x.png", "c:x.png", "\ud800.png", "\udcff.png", "..", ".", "", " ", "link.png", "up/out.png",
    "up/../out.png", "loop/x/../../../out.png", "~/out.png", "%2e%2e/out.png", "a" * 5000, "a/" * 3000 + "x.png",
    "//etc/passwd", "\\\\host\\share\\x.png", "nul", "-rf", "$(touch x).png", "| touch x",
)  # fmt: skip
ODD_VALUES = (
    None, True, False, -1, 0, 1, 2, 2**63, -(2**63) - 1, 10**300, 10**4000, 1e308, -0.0, float("nan"), float("inf"),
    "", "\ud83d", "\0", [], {}, [[]], {"id": 1}, [1, 2], "9" * 5000,
)  # fmt: skip
JUNK = ("", "\0", "9" * 5000, "[" * 5000, '{"a":' * 3000, '"', "\\ud800", "}", "NaN", "\ufeff", "1e999", "\\", "\n")


def spots(value):
    """Every (container, key) in a document, to a depth that recursion takes."""
    waiting, found = [value], []
    while waiting and len(found) < 5000:
        inner = waiting.pop()
        items = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        for key, child in list(items):
            found.append((inner, key))
            waiting.append(child)
    return found


def mutate(content, chance: random.Random):
    """A document with one to four places removed, replaced, doubled, nested or made hostile."""
    content = copy.deepcopy(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        places = spots(content)
        if not places:  # all of it is gone by now
            break
        container, key = chance.choice(places)
        match chance.randrange(7):
            case 0:
                del container[key]
            case 1:
                container[key] = copy.deepcopy(chance.choice(ODD_VALUES))
            case 2:
                container[key] = chance.choice(HOSTILE_NAMES)
            case 3:
                container[key] = copy.deepcopy(chance.choice(places)[0])
            case 4:
                for _ in range(chance.choice((5, 60, 400))):
                    container[key] = [container[key]]
            case 5:
                container[key] = "\ud83d" + str(container[key])[:50]
            case 6 if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))  # two of one id
    return content


def written(content, chance: random.Random) -> bytes:
    """A document as JSON; in three of ten with junk in its text, in one of ten cut off, in some not UTF-8."""
    try:
        text = json.dumps(content)
    except RecursionError:  # nested deeper than Python can write
        text = f'{{"images": {"[" * 3000}{"]" * 3000}}}'
    dice = chance.random()
    if dice < 0.3:
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(JUNK) + text[at + chance.randrange(3) :]
    elif dice < 0.4:
        text = text[: chance.randrange(len(text) + 1)]
    data = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.05:
        data = chance.choice((text.encode("utf-16", "surrogatepass"), b"\xff" + data, b"\xef\xbb\xbf" + data))
    return data
