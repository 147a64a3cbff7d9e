"""Labelled sheets of images.

`captioned_grid` is a contact sheet, each image with its caption beneath; `table_grid` sets prompts (rows) against
seeds (columns). Only Pillow and numpy are imported: the command line makes a sheet without loading torch.
"""

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t2i.errors import UsageError
from t2i.files import encodable
from t2i.fonts import MAX_LABEL, Font, label_fonts

BACKGROUND, INK, SOFT_INK, RULE = (255, 255, 255), (34, 34, 34), (96, 96, 96), (214, 214, 214)
SQUARE = 8  # px, under transparent images
MAX_PIXELS = 100_000_000  # 300 MB of RGB; viewers and encoders choke soon after


# ------------------------------------------------------------------------------------------------- sheets


def captioned_grid(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    columns: int,
    *,
    title: str | None = None,
    caption_lines: int = 3,
) -> Image.Image:
    """A contact sheet, filled row by row, each image with its caption wrapped beneath it.

    images: N >= 1 arrays [H, W, 3], or [H, W, 4] with alpha, uint8, all of one shape; small ones are enlarged by a
    whole factor, nearest neighbour, to about 96 to 128 px. captions: N strings; what does not fit into `caption_lines`
    lines ends in an ellipsis. Returns an RGB image. Raises UsageError where the sheet would pass 100
    megapixels, ValueError where the arguments do not fit together.
    """
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images but {len(captions)} captions")
    if columns < 1:
        raise UsageError(f"a grid needs at least one column, not {columns}")
    height, width, factor = _tile_size(images)
    columns = min(columns, len(images))
    font, title_font = label_fonts([*captions, title or ""], width)
    margin, gap, pad = _spacing(width)

    wrapped = [_wrap(caption, font, width, caption_lines) for caption in captions]
    rows = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
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
            _place(sheet, draw, images[i], factor, left, top)
            _draw_lines(draw, wrapped[i], left, top + height + pad, font, INK)
        top += row_height + gap + pad
    return sheet


def table_grid(
    rows: Sequence[Sequence[np.ndarray]],
    row_labels: Sequence[str],
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Image.Image:
    """A table of images: a row for each prompt, labelled at its left; a column for each seed.

    rows: R >= 1 rows of arrays [H, W, 3 or 4], uint8, all of one shape (a short row leaves cells empty); enlarged
    as in `captioned_grid`. row_labels: R strings, wrapped to an image's height. column_labels: one for each
    column, or None. Returns an RGB image. Raises UsageError where the sheet would pass 100 megapixels,
    ValueError where the arguments do not fit together.
    """
    if len(rows) != len(row_labels):
        raise ValueError(f"{len(rows)} rows but {len(row_labels)} row labels")
    height, width, factor = _tile_size([image for row in rows for image in row])
    columns = max(len(row) for row in rows)
    if column_labels is not None and len(column_labels) != columns:
        raise ValueError(f"{columns} columns but {len(column_labels)} column labels")
    font, title_font = label_fonts([*row_labels, *(column_labels or ()), title or ""], width)
    margin, _, pad = _spacing(width)
    gap = _table_gap(width)
    line = _line_height(font)

    # The label column is as narrow as its text allows: short labels waste no space.
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
        # A label of fewer lines is aligned to the images below it, not to the title.
        top = margin + head_height + line * (top_lines - len(text))
        _draw_lines(draw, text, left + column * (width + gap), top, font, SOFT_INK, centre=width)
    for r, (row, text) in enumerate(zip(rows, labels)):
        top = margin + head_height + top_height + r * (height + gap)
        _draw_lines(draw, text, margin, top + max(0, height - line * len(text)) // 2, font, INK)
        for column, image in enumerate(row):
            _place(sheet, draw, image, factor, left + column * (width + gap), top)
    return sheet


# ------------------------------------------------------------------------------------------------ layout


def _tile_size(images: Sequence[np.ndarray]) -> tuple[int, int, int]:
    """Height and width of an image on the sheet, and the whole factor that enlarges it."""
    if len(images) == 0:
        raise ValueError("a grid needs at least one image")
    shape = images[0].shape
    if len(shape) != 3 or shape[2] not in (3, 4) or 0 in shape:
        raise ValueError(f"images must be [H, W, 3] or [H, W, 4], not {shape}")
    for image in images:
        if image.dtype != np.uint8 or image.shape != shape:
            raise ValueError(f"images must all be uint8 {shape}, not {image.dtype} {image.shape}")
    factor = _enlargement(max(shape[:2]))
    return shape[0] * factor, shape[1] * factor, factor


def _enlargement(side: int) -> int:
    """16 -> 128, 32 -> 128, 48 -> 96, 64 -> 128 px; 96 and above stay as they are."""
    return max(128 // side, -(-96 // side), 1)


def _spacing(tile: int) -> tuple[int, int, int]:
    """Margin around the sheet, gap between images, space between an image and its text; pixels."""
    return max(12, tile // 8), max(10, tile // 10), max(4, tile // 24)


def check_grid(rows: int, columns: int, side: int) -> None:
    """Raise UsageError, one line, where a table_grid of images of `side` pixels is too large, even without labels."""
    tile = side * _enlargement(side)
    margin, gap = _spacing(tile)[0], _table_gap(tile)
    _check_pixels(2 * margin + columns * (tile + gap) - gap, 2 * margin + rows * (tile + gap) - gap)


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UsageError(
            f"a grid of {width} x {height} pixels is over the limit of {MAX_PIXELS // 10**6} megapixels; "
            "ask for fewer images"
        )


def _table_gap(tile: int) -> int:
    return max(2, tile // 32)


def _new_sheet(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    _check_pixels(width, height)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    return sheet, ImageDraw.Draw(sheet)


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, image: np.ndarray, factor: int, left: int, top: int) -> None:
    """Paste an image [H, W, 3 or 4] onto the sheet, enlarged by `factor`, nearest neighbour."""
    tile = Image.fromarray(np.ascontiguousarray(image.repeat(factor, axis=0).repeat(factor, axis=1)))
    # A hairline around each image: an image with a white background has no edge.
    draw.rectangle((left - 1, top - 1, left + tile.width, top + tile.height), outline=RULE)
    if tile.mode == "RGBA":
        tile = Image.alpha_composite(_squares(*tile.size), tile)
    sheet.paste(tile, (left, top))


def _squares(width: int, height: int) -> Image.Image:
    """The pattern that stands for nothing: white and light grey squares, RGBA."""
    rows, columns = np.mgrid[:height, :width] // SQUARE
    shade = np.where((rows + columns) % 2, 236, 255).astype(np.uint8)
    return Image.fromarray(shade).convert("RGBA")


# -------------------------------------------------------------------------------------------------- text


def _text_width(text: str, font: Font) -> int:
    return int(np.ceil(font.getlength(text)))


def _line_height(font: Font) -> int:
    if isinstance(font, ImageFont.FreeTypeFont):
        ascent, descent = font.getmetrics()
        return max(round(1.25 * font.size), ascent + descent)
    return font.getbbox("Ag")[3] + 3


def _clean(text: str, font: Font) -> str:
    """One line of characters that a font can render: no control characters, no lone surrogates."""
    text = encodable(text[:MAX_LABEL] + ("\N{HORIZONTAL ELLIPSIS}" if len(text) > MAX_LABEL else ""))
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    text = " ".join(text.split())
    if not isinstance(font, ImageFont.FreeTypeFont):  # the bitmap font raises beyond Latin-1
        text = text.replace("\N{HORIZONTAL ELLIPSIS}", "...").encode("latin-1", "replace").decode("latin-1")
    return text


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
    """How many characters of a word fit on a line: at least one; a combining accent stays with its letter."""
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
        line = line[:space]  # drop a short piece of a word
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
