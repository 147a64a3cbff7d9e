"""Image files (PNG, JPEG, WebP) that carry text: the prompt, the seed and the model of a generated image.

Only Pillow and numpy are imported: a sheet can be written without loading torch.
"""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from t2i.errors import UsageError, UserError
from t2i.files import atomic_write, describe_os_error, encodable, first_line, make_folder

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
READABLE = (*FORMATS, ".gif")
_IMAGE_DESCRIPTION = 0x010E  # the EXIF tag that holds the text of a JPEG or WebP
_MAX_EXIF = 60_000  # bytes; a JPEG segment ends at 65,533


def encode_png(image: Image.Image | np.ndarray, text: dict[str, str] | None = None) -> bytes:
    """A PNG file's bytes, with `text` as its text chunks."""
    encoded = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        encoded, "PNG", pnginfo=_chunks(text or {})
    )
    return encoded.getvalue()


def save_image(image: Image.Image | np.ndarray, path: Path | str, text: dict[str, str] | None = None) -> None:
    """Write an image file atomically, with `text` as metadata that `read_image_text` reads.

    image: a PIL image, or an array uint8 [H, W, 3], [H, W, 4] with alpha (on white in a JPEG) or [H, W].
    The suffix of `path` picks the format: .png (each item of `text` a text chunk, its key 1 to 79 Latin-1
    characters), .jpg, .jpeg and .webp (`text` as JSON in the EXIF description, left out where it is too long for
    that). A missing parent folder is made.
    Raises UsageError at an unknown suffix, UserError where the file cannot be written.
    """
    path = Path(path)
    check_image_name(path)
    kind = FORMATS[path.suffix.lower()]
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    options: dict[str, object] = {}
    if kind == "PNG":
        options["pnginfo"] = _chunks(text or {})
    else:
        options["quality"] = 95
        if image.mode == "RGBA" and kind == "JPEG":
            image = on_colour(image, (255, 255, 255))
        elif image.mode not in ("RGB", "L", "RGBA"):
            image = image.convert("RGB")
        options["exif"] = exif_of(text or {})
    encoded = io.BytesIO()
    try:
        image.save(encoded, format=kind, **options)
    except (OSError, ValueError) as error:  # WebP ends at 16,383 px a side, JPEG at 65,535
        what = f"{path}: this {image.width} x {image.height} image cannot be written as {kind}"
        raise UserError(f"{what} ({first_line(error)})") from error
    make_folder(path.parent)
    with atomic_write(path) as stream:
        stream.write(encoded.getbuffer())


def on_colour(image: Image.Image | np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """An RGBA image (or array [H, W, 4]) on a colour, RGB."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    return Image.alpha_composite(Image.new("RGBA", image.size, (*colour, 255)), image).convert("RGB")


def _chunks(text: dict[str, str]) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    for key, value in _clean(text).items():
        chunks.add_text(key, value)  # Pillow writes iTXt where the text is not Latin-1
    return chunks


def exif_of(text: dict[str, str]) -> Image.Exif:
    """EXIF that holds `text` as JSON in its description; empty where it is too long for that."""
    exif = Image.Exif()
    description = as_json(text)
    if text and len(description) < _MAX_EXIF:
        exif[_IMAGE_DESCRIPTION] = description
    return exif


def as_json(text: dict[str, str]) -> str:
    """Metadata as JSON in ASCII, as EXIF and GIF require."""
    return json.dumps(_clean(text))


def _clean(text: dict[str, str]) -> dict[str, str]:
    """Undecodable arguments hold lone surrogates, which cannot be encoded; NUL ends a text chunk."""
    return {key: encodable(value).replace("\0", "") for key, value in text.items()}


def check_image_name(path: Path | str) -> None:
    """Raise UsageError, one line, where the suffix names no format that `save_image` writes."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        what = f"the suffix {path.suffix}" if path.suffix else "a name without a suffix"
        raise UsageError(f"{path}: {what} names no image format; use one of {', '.join(FORMATS)}")


def read_image_text(path: Path | str) -> dict[str, str]:
    """The metadata that `save_image` wrote into an image file, or `save_animation`; empty where there is
    none. Raises UserError, one line."""
    path = Path(path)
    try:
        with Image.open(path) as image:
            if isinstance(image, PngImagePlugin.PngImageFile):
                return {key: str(value) for key, value in image.text.items()}
            description = image.getexif().get(_IMAGE_DESCRIPTION)
            if image.format == "GIF" and isinstance(comment := image.info.get("comment"), bytes):
                description = comment.decode("ascii", "replace")
            text = json.loads(description) if isinstance(description, str) else None
            return {key: str(value) for key, value in text.items()} if isinstance(text, dict) else {}
    except (json.JSONDecodeError, RecursionError):
        return {}  # another program's description
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise describe_os_error(error, path) from error
        raise UserError(f"{path}: not a readable image ({first_line(error)})") from error
