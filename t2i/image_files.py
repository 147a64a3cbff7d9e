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
_IMAGE_DESCRIPTION = 0x010E  # the EXIF tag that holds the text of a JPEG or WebP
_MAX_EXIF = 60_000  # bytes; a JPEG segment ends at 65,533


def save_png(image: Image.Image | np.ndarray, path: Path | str, text: dict[str, str] | None = None) -> None:
    """Write an image file atomically, with `text` as metadata that `read_png_text` reads.

    image: a PIL image, or an array uint8 [H, W, 3] or [H, W]. The suffix of `path` picks the format: .png
    (each item of `text` a text chunk, its key 1 to 79 Latin-1 characters), .jpg, .jpeg and .webp (`text` as
    JSON in the EXIF description, left out where it is too long for that). A missing parent folder is made.
    Raises UsageError at an unknown suffix, UserError where the file cannot be written.
    """
    path = Path(path)
    check_image_name(path)
    kind = FORMATS[path.suffix.lower()]
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    # Undecodable arguments hold lone surrogates, which cannot be encoded; NUL ends a text chunk.
    text = {key: encodable(value).replace("\0", "") for key, value in (text or {}).items()}
    options: dict[str, object] = {}
    if kind == "PNG":
        chunks = PngImagePlugin.PngInfo()
        for key, value in text.items():
            chunks.add_text(key, value)  # Pillow writes iTXt where the text is not Latin-1
        options["pnginfo"] = chunks
    else:
        options["quality"] = 95
        if image.mode not in ("RGB", "L"):
            image = image.convert("RGB")
        description = json.dumps(text)  # ASCII, as the tag requires
        if text and len(description) < _MAX_EXIF:
            exif = Image.Exif()
            exif[_IMAGE_DESCRIPTION] = description
            options["exif"] = exif
    encoded = io.BytesIO()
    try:
        image.save(encoded, format=kind, **options)
    except (OSError, ValueError) as error:  # WebP ends at 16,383 px a side, JPEG at 65,535
        what = f"{path}: this {image.width} x {image.height} image cannot be written as {kind}"
        raise UserError(f"{what} ({first_line(error)})") from error
    make_folder(path.parent)
    with atomic_write(path) as stream:
        stream.write(encoded.getbuffer())


def check_image_name(path: Path | str) -> None:
    """Raise UsageError, one line, where the suffix names no format that `save_png` writes."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        what = f"the suffix {path.suffix}" if path.suffix else "a name without a suffix"
        raise UsageError(f"{path}: {what} names no image format; use one of {', '.join(FORMATS)}")


def read_png_text(path: Path | str) -> dict[str, str]:
    """The metadata that `save_png` wrote into an image file; empty where there is none. Raises UserError, one line."""
    path = Path(path)
    try:
        with Image.open(path) as image:
            if isinstance(image, PngImagePlugin.PngImageFile):
                return {key: str(value) for key, value in image.text.items()}
            description = image.getexif().get(_IMAGE_DESCRIPTION)
            text = json.loads(description) if isinstance(description, str) else None
            return {key: str(value) for key, value in text.items()} if isinstance(text, dict) else {}
    except (json.JSONDecodeError, RecursionError):
        return {}  # another program's description
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise describe_os_error(error, path) from error
        raise UserError(f"{path}: not a readable image ({first_line(error)})") from error
