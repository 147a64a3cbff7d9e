"""Pictures on labelled sheets, and PNG files that carry text.

`captioned_grid` is a contact sheet, each picture with its caption beneath; `table_grid` sets prompts (rows)
against seeds (columns). Only Pillow and numpy: the command line can draw a sheet without loading torch.
"""

import io
import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from t2i.errors import UsageError, UserError
from t2i.files import atomic_write, describe_os_error, first_line, make_folder
from t2i.fonts import MAX_LABEL, Font, label_fonts

GROUND, INK, SOFT_INK, RULE = (255, 255, 255), (34, 34, 34), (96, 96, 96), (214, 214, 214)
MAX_PIXELS = 100_000_000  # 300 MB of RGB; viewers and encoders choke soon after
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_IMAGE_DESCRIPTION = 0x010E  # the EXIF tag that holds the text of a JPEG or WebP
_MAX_EXIF = 60_000  # bytes; a JPEG segment ends at 65,533


# ------------------------------------------------------------------------------------------------- sheets


def captioned_grid(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    columns: int,
    *,
    title: str | None = None,
    caption_lines: int = 3,
) -> Image.Image:
    """A contact sheet, filled row by row, each picture with its caption wrapped beneath it.

    pictures: N >= 1 arrays [H, W, 3], uint8, all of one shape; small ones are enlarged by a whole factor,
    nearest neighbour, to about 96 to 128 px. captions: N strings; what does not fit into `caption_lines`
    lines ends in an ellipsis. Returns an RGB image. Raises UsageError where the sheet would pass 100
    megapixels, ValueError where the arguments do not fit together.
    """
    if len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures but {len(captions)} captions")
    if columns < 1:
        raise UsageError(f"a grid needs at least one column, not {columns}")
    height, width, factor = _tile_size(pictures)
    columns = min(columns, len(pictures))
    font, title_font = label_fonts([*captions, title or ""], width)
    margin, gap, pad = _spacing(width)

    wrapped = [_wrap(caption, font, width, caption_lines) for caption in captions]
    rows = [range(start, min(start + columns, len(pictures))) for start in range(0, len(pictures), columns)]
    line = _line_height(font)
    # A row is only as tall as its longest caption.
    row_heights = [height + pad + line * max(len(wrapped[i]) for i in row) for row in rows]
    sheet_width = 2 * margin + columns * width + (columns - 1) * gap
    head = _wrap(title or "", title_font, sheet_width - 2 * margin, 2)
    head_height = _line_height(title_font) * len(head) + (gap if head else 0)
    sheet_height = 2 * margin + head_height + sum(row_heights) + (len(rows) - 1) * (gap + pad)

    sheet, draw = _new_sheet(sheet_width, sheet_height)
    _draw_lines(draw, head, margin, margin, title_font, INK)
    top = margin + head_height
    for row, row_height in zip(rows, row_heights):
        for column, i in enumerate(row):
            left = margin + column * (width + gap)
            _place(sheet, draw, pictures[i], factor, left, top)
            _draw_lines(draw, wrapped[i], left, top + height + pad, font, INK)
        top += row_height + gap + pad
    return sheet


def table_grid(
    rows: Sequence[Sequence[np.ndarray]],
    row_labels: Sequence[str],
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Image.Image:
    """A table of pictures: a row for each prompt, labelled at its left; a column for each seed.

    rows: R >= 1 rows of arrays [H, W, 3], uint8, all of one shape (a short row leaves cells empty); enlarged
    as in `captioned_grid`. row_labels: R strings, wrapped to a picture's height. column_labels: one for each
    column, or None. Returns an RGB image. Raises UsageError where the sheet would pass 100 megapixels,
    ValueError where the arguments do not fit together.
    """
    if len(rows) != len(row_labels):
        raise ValueError(f"{len(rows)} rows but {len(row_labels)} row labels")
    height, width, factor = _tile_size([picture for row in rows for picture in row])
    columns = max(len(row) for row in rows)
    if column_labels is not None and len(column_labels) != columns:
        raise ValueError(f"{columns} columns but {len(column_labels)} column labels")
    font, title_font = label_fonts([*row_labels, *(column_labels or ()), title or ""], width)
    margin, _, pad = _spacing(width)
    gap = _table_gap(width)
    line = _line_height(font)

    # The label column is as narrow as its text allows: a column of the single word "cat" wastes no paper.
    label_lines = max(1, min(6, height // line))
    limit = max(150, round(1.4 * width))
    labels = [_wrap(label, font, limit, label_lines) for label in row_labels]
    label_width = max((_text_width(text, font) for label in labels for text in label), default=0)
    label_space = label_width + 2 * pad if label_width else 0

    tops = [_wrap(label, font, width, 2) for label in column_labels or ()]
    top_lines = max(map(len, tops), default=0)
    sheet_width = 2 * margin + label_space + columns * width + (columns - 1) * gap
    head = _wrap(title or "", title_font, sheet_width - 2 * margin, 2)
    head_height = _line_height(title_font) * len(head) + (2 * pad if head else 0)
    top_height = line * top_lines + (pad if top_lines else 0)
    sheet_height = 2 * margin + head_height + top_height + len(rows) * height + (len(rows) - 1) * gap

    sheet, draw = _new_sheet(sheet_width, sheet_height)
    _draw_lines(draw, head, margin, margin, title_font, INK)
    left = margin + label_space
    for column, text in enumerate(tops):
        # Labels of fewer lines stand on the pictures, not under the title.
        top = margin + head_height + line * (top_lines - len(text))
        _draw_lines(draw, text, left + column * (width + gap), top, font, SOFT_INK, centre=width)
    for r, (row, text) in enumerate(zip(rows, labels)):
        top = margin + head_height + top_height + r * (height + gap)
        _draw_lines(draw, text, margin, top + max(0, height - line * len(text)) // 2, font, INK)
        for column, picture in enumerate(row):
            _place(sheet, draw, picture, factor, left + column * (width + gap), top)
    return sheet


# -------------------------------------------------------------------------------------------------- files


def save_png(image: Image.Image | np.ndarray, path: Path | str, text: dict[str, str] | None = None) -> None:
    """Write a picture whole or not at all; `text` goes into the file and `read_png_text` gets it back.

    image: a PIL image, or an array uint8 [H, W, 3] or [H, W]. The suffix of `path` picks the format: .png
    (each item of `text` a text chunk, its key 1 to 79 Latin-1 characters), .jpg, .jpeg and .webp (`text` as
    JSON in the EXIF description, left out where it is too long for that). A missing parent folder is made.
    Raises UsageError at an unknown suffix, UserError where the file cannot be written.
    """
    path = Path(path)
    check_picture_name(path)
    kind = FORMATS[path.suffix.lower()]
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    # No character may make a picture unsaveable: undecodable arguments hold lone surrogates, NUL ends chunks.
    text = {key: _encodable(value).replace("\0", "") for key, value in (text or {}).items()}
    options: dict[str, object] = {}
    if kind == "PNG":
        chunks = PngImagePlugin.PngInfo()
        for key, value in text.items():
            chunks.add_text(key, value)  # Pillow writes iTXt where Latin-1 does not do
        options["pnginfo"] = chunks
    else:
        options["quality"] = 95
        if image.mode not in ("RGB", "L"):
            image = image.convert("RGB")
        description = json.dumps(text)  # ASCII, as the tag wants
        if text and len(description) < _MAX_EXIF:
            exif = Image.Exif()
            exif[_IMAGE_DESCRIPTION] = description
            options["exif"] = exif
    encoded = io.BytesIO()
    try:
        image.save(encoded, format=kind, **options)
    except (OSError, ValueError) as error:  # WebP ends at 16,383 px a side, JPEG at 65,535
        what = f"{path}: this {image.width} x {image.height} picture cannot be written as {kind}"
        raise UserError(f"{what} ({first_line(error)})") from error
    make_folder(path.parent)
    with atomic_write(path) as stream:
        stream.write(encoded.getbuffer())


def check_picture_name(path: Path | str) -> None:
    """Raise UsageError, one line, where the suffix names no format that `save_png` writes."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        what = f"the suffix {path.suffix}" if path.suffix else "a name without a suffix"
        raise UsageError(f"{path}: {what} names no picture format; use one of {', '.join(FORMATS)}")


def read_png_text(path: Path | str) -> dict[str, str]:
    """The text that `save_png` put into a picture; empty where there is none. Raises UserError, one line."""
    path = Path(path)
    try:
        with Image.open(path) as image:
            if isinstance(image, PngImagePlugin.PngImageFile):
                return {key: str(value) for key, value in image.text.items()}
            said = image.getexif().get(_IMAGE_DESCRIPTION)
            text = json.loads(said) if isinstance(said, str) else None
            return {key: str(value) for key, value in text.items()} if isinstance(text, dict) else {}
    except (json.JSONDecodeError, RecursionError):
        return {}  # somebody else's description
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise describe_os_error(error, path) from error
        raise UserError(f"{path}: this is no picture that can be read ({first_line(error)})") from error


# ------------------------------------------------------------------------------------------------ layout


def _tile_size(pictures: Sequence[np.ndarray]) -> tuple[int, int, int]:
    """Height and width of a picture on the sheet, and the whole factor that enlarges it."""
    if len(pictures) == 0:
        raise ValueError("a grid needs at least one picture")
    shape = pictures[0].shape
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"pictures must be [H, W, 3], not {shape}")
    for picture in pictures:
        if picture.dtype != np.uint8 or picture.shape != shape:
            raise ValueError(f"pictures must all be uint8 {shape}, not {picture.dtype} {picture.shape}")
    factor = _enlargement(max(shape[:2]))
    return shape[0] * factor, shape[1] * factor, factor


def _enlargement(side: int) -> int:
    """16 -> 128, 32 -> 128, 48 -> 96, 64 -> 128 px; 96 and above stay as they are."""
    return max(128 // side, -(-96 // side), 1)


def _spacing(tile: int) -> tuple[int, int, int]:
    """Margin around the sheet, gap between pictures, space between a picture and its text; pixels."""
    return max(12, tile // 8), max(10, tile // 10), max(4, tile // 24)


def check_grid(rows: int, columns: int, side: int) -> None:
    """Raise UsageError, one line, where a table_grid of pictures of `side` pixels is too large, even without labels."""
    tile = side * _enlargement(side)
    margin, gap = _spacing(tile)[0], _table_gap(tile)
    _check_pixels(2 * margin + columns * (tile + gap) - gap, 2 * margin + rows * (tile + gap) - gap)


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UsageError(
            f"a grid of {width} x {height} pixels is over the limit of {MAX_PIXELS // 10**6} megapixels; "
            "ask for fewer pictures"
        )


def _table_gap(tile: int) -> int:
    return max(2, tile // 32)


def _new_sheet(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    _check_pixels(width, height)
    sheet = Image.new("RGB", (width, height), GROUND)
    return sheet, ImageDraw.Draw(sheet)


def _place(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, picture: np.ndarray, factor: int, left: int, top: int
) -> None:
    """Set a picture [H, W, 3] on the sheet, enlarged by `factor`, nearest neighbour."""
    tile = Image.fromarray(np.ascontiguousarray(picture.repeat(factor, axis=0).repeat(factor, axis=1)))
    # A hairline around it, or a picture on white ground has no edge.
    draw.rectangle((left - 1, top - 1, left + tile.width, top + tile.height), outline=RULE)
    sheet.paste(tile, (left, top))


# -------------------------------------------------------------------------------------------------- text


def _text_width(text: str, font: Font) -> int:
    return int(np.ceil(font.getlength(text)))


def _line_height(font: Font) -> int:
    if isinstance(font, ImageFont.FreeTypeFont):
        ascent, descent = font.getmetrics()
        return max(round(1.25 * font.size), ascent + descent)
    return font.getbbox("Ag")[3] + 3


def _clean(text: str, font: Font) -> str:
    """One line of characters that the font can be asked for: no controls, no lone surrogates."""
    text = _encodable(text[:MAX_LABEL] + ("\N{HORIZONTAL ELLIPSIS}" if len(text) > MAX_LABEL else ""))
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    text = " ".join(text.split())
    if not isinstance(font, ImageFont.FreeTypeFont):  # the bitmap font raises beyond Latin-1
        text = text.replace("\N{HORIZONTAL ELLIPSIS}", "...").encode("latin-1", "replace").decode("latin-1")
    return text


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _wrap(text: str, font: Font, width: int, lines: int) -> list[str]:
    """Break a text into at most `lines` lines of at most `width` pixels; the rest becomes an ellipsis."""

    def fits(candidate: str) -> bool:
        return font.getlength(candidate) <= width

    wrapped: list[str] = []
    line = ""
    words = _clean(text, font).split()[::-1]
    while words:
        if len(wrapped) == lines:
            return [*wrapped[:-1], _ellipsise(wrapped[-1], font, fits)]
        word = words.pop()
        joined = f"{line} {word}" if line else word
        if fits(joined):
            line = joined
        elif line:
            wrapped.append(line)
            line = ""
            words.append(word)
        else:  # a word wider than a line, or a text of a script without spaces
            cut = _longest_fitting(word, fits)
            wrapped.append(word[:cut])
            words.append(word[cut:])
    if line and len(wrapped) == lines:
        return [*wrapped[:-1], _ellipsise(wrapped[-1], font, fits)]
    return [*wrapped, line] if line else wrapped


def _longest_fitting(word: str, fits: Callable[[str], bool]) -> int:
    """How many characters of a word fit on a line: at least one, and no accent is torn from its letter."""
    cut = 1
    while cut < len(word) and fits(word[: cut + 1]):
        cut += 1
    while 1 < cut < len(word) and unicodedata.combining(word[cut]):
        cut -= 1
    return max(1, cut)


def _ellipsise(line: str, font: Font, fits: Callable[[str], bool]) -> str:
    dots = "\N{HORIZONTAL ELLIPSIS}" if isinstance(font, ImageFont.FreeTypeFont) else "..."
    line = line.rstrip(dots)
    whole = line
    while line and not fits(line + dots):
        line = line[:-1]
    space = line.rfind(" ")
    if line != whole and whole[len(line)] != " " and space > 0.6 * len(line):
        line = line[:space]  # a short piece of a word says less than the dots
    return line.rstrip(" ,;:-") + dots


def _draw_lines(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[str],
    left: int,
    top: int,
    font: Font,
    colour: tuple[int, int, int],
    centre: int = 0,
) -> None:
    """Draw lines below each other; with `centre`, each in the middle of that many pixels from `left` on."""
    for i, line in enumerate(lines):
        shift = (centre - _text_width(line, font)) // 2 if centre else 0
        draw.text((left + shift, top + i * _line_height(font)), line, font=font, fill=colour)
