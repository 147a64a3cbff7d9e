"""Labelled grids."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from t2i import fonts, grids
from t2i.errors import UsageError
from t2i.grids import captioned_grid, table_grid

UNUSUAL = [
    "",
    "a\ttab,\r\na newline and a NUL \0",
    "кошка сидит на столе",
    "一只猫坐在桌子上看着窗外的雨下个不停" * 4,
    "ماء بارد",
    "smile \U0001f600\U0001f468‍\U0001f469‍\U0001f467",
    "e\u0301" * 200,
    "a lone surrogate \udcff",
    "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen",
]


def flat(size: int = 16, value: int = 40) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def ink(image: Image.Image, box: tuple[int, int, int, int]) -> int:
    """How many pixels of a box are dark."""
    return int((np.asarray(image.convert("L").crop(box)) < 128).sum())


@pytest.mark.parametrize(("size", "tile"), [(16, 128), (32, 128), (48, 96), (64, 128), (65, 130), (128, 128)])
def test_small_images_are_enlarged_by_a_whole_factor_to_a_readable_size(size, tile):
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    sheet = np.asarray(captioned_grid([pixels], [""], 1))
    margin = (sheet.shape[1] - tile) // 2
    factor = tile // size
    enlarged = pixels.repeat(factor, 0).repeat(factor, 1)
    assert np.array_equal(sheet[margin : margin + tile, margin : margin + tile], enlarged)


def test_every_image_stands_in_its_place_with_its_caption_beneath_it():
    images = [flat(value=1 + i) for i in range(5)]
    sheet = captioned_grid(images, ["first", "", "third", "fourth", "fifth"], 3)
    grey = np.asarray(sheet)[:, :, 0]  # no text is as dark as the images
    places = {i: np.argwhere(grey == 1 + i) for i in range(5)}
    boxes = {i: (*p.min(0), *p.max(0)) for i, p in places.items()}
    assert boxes[0][0] == boxes[1][0] == boxes[2][0] < boxes[3][0] == boxes[4][0]
    assert boxes[0][1] == boxes[3][1] < boxes[1][1] == boxes[4][1] < boxes[2][1]
    for i, has_text in enumerate([True, False, True, True, True]):
        _, left, bottom, right = boxes[i]
        assert (ink(sheet, (left, bottom + 2, right, bottom + 24)) > 0) == has_text


def test_a_long_caption_ends_in_an_ellipsis_and_stays_within_its_column():
    font = fonts.font(13, wide=False)
    lines = grids._wrap("a very long caption " * 30, font, 128, 3)
    assert len(lines) == 3 and lines[-1].endswith("…")
    assert all(font.getlength(line) <= 128 for line in lines)


def test_a_caption_that_just_fits_keeps_every_word():
    font = fonts.font(13, wide=False)
    text = "a man riding a wave on a board"
    lines = grids._wrap(text, font, 128, 3)
    assert " ".join(lines) == text


@settings(max_examples=60)
@given(st.text(max_size=120), st.integers(20, 300), st.integers(1, 4))
def test_any_text_wraps_into_the_width_and_the_number_of_lines(text, width, lines):
    font = fonts.font(13, wide=True)
    wrapped = grids._wrap(text, font, width, lines)
    assert len(wrapped) <= lines
    assert all(font.getlength(line) <= width or len(line) <= 2 for line in wrapped)


def test_unusual_characters_in_labels_do_not_crash():
    images = [flat() for _ in UNUSUAL]
    captioned_grid(images, UNUSUAL, 4, title=UNUSUAL[5])
    table_grid([[p] for p in images], UNUSUAL, [UNUSUAL[2]], title=UNUSUAL[7])


def test_unusual_characters_do_not_crash_the_bitmap_font_of_a_pillow_without_freetype(monkeypatch):
    bitmap = ImageFont.load_default_imagefont()
    monkeypatch.setattr(fonts, "font", lambda size, wide, east: bitmap)
    images = [flat() for _ in UNUSUAL]
    captioned_grid(images, UNUSUAL, 4, title="a title")
    table_grid([[p] for p in images], UNUSUAL, ["a column"])


def test_letters_with_accents_have_glyphs():
    font = fonts.font(20, wide=True)
    glyphs = {bytes(font.getmask(letter)) for letter in "éüñçжλ"}
    assert len(glyphs) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere fonts lie in places that no variable names")
def test_a_font_of_the_system_writes_chinese_japanese_and_korean(monkeypatch, tmp_path):
    """Whichever is found first; here DejaVu under the name of one of them."""
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / "wqy-zenhei.ttc").symlink_to(fonts._dejavu())
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    fonts.font.cache_clear()
    for text, name in (("a “red” café", "DejaVuSans.ttf"), ("红苹果", "wqy-zenhei.ttc"), ("りん", "wqy-zenhei.ttc")):
        found, title = fonts.label_fonts(["a table", text], 128)
        assert Path(str(found.path)).name == Path(str(title.path)).name == name
    fonts.font.cache_clear()


def test_a_table_has_a_row_a_prompt_and_a_column_a_seed():
    rows = [[flat(value=10 * r + c + 1) for c in range(3)] for r in range(2)]
    sheet = table_grid(rows, ["a table", "two dogs on a sofa"], ["seed 0", "seed 1", "seed 2"], title="a model")
    grey = np.asarray(sheet)[:, :, 0]  # no text is as dark as the images
    corner = {(r, c): tuple(np.argwhere(grey == 10 * r + c + 1).min(0)) for r in range(2) for c in range(3)}
    for r in range(2):
        assert len({corner[r, c][0] for c in range(3)}) == 1
    for c in range(3):
        assert corner[0, c][1] == corner[1, c][1]
        top, left = corner[0, c]
        assert ink(sheet, (left, top - 22, left + 128, top - 2)) > 0  # its seed above it
    for r in range(2):
        top, left = corner[r, 0]
        assert ink(sheet, (0, top, left - 2, top + 128)) > 0  # its prompt beside it


def test_a_table_does_without_column_labels_and_with_a_short_last_row():
    table_grid([[flat(), flat()], [flat()]], ["one", "two"])


def test_a_grid_beyond_a_hundred_megapixels_is_refused_in_one_line():
    tile = flat(512)
    with pytest.raises(UsageError, match="100 megapixels") as caught:
        captioned_grid([tile] * 400, ["x"] * 400, 20)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="100 megapixels"):
        table_grid([[tile] * 20] * 20, ["x"] * 20)


def test_arguments_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="2 images but 1 captions"):
        captioned_grid([flat(), flat()], ["one"], 2)
    with pytest.raises(ValueError, match="at least one image"):
        captioned_grid([], [], 2)
    with pytest.raises(UsageError, match="at least one column"):
        captioned_grid([flat()], ["one"], 0)
    with pytest.raises(ValueError, match="uint8"):
        captioned_grid([flat(), flat(32)], ["one", "two"], 2)
    with pytest.raises(ValueError, match="uint8"):
        captioned_grid([flat().astype(np.float32)], ["one"], 1)
    with pytest.raises(ValueError, match="1 columns but 2 column labels"):
        table_grid([[flat()]], ["one"], ["a", "b"])


def test_making_a_grid_imports_neither_torch_nor_matplotlib():
    code = (
        "import sys, numpy as np; from t2i.grids import captioned_grid; "
        "captioned_grid([np.zeros((16, 16, 3), np.uint8)], ['\\u00e9'], 1); "
        "sys.exit(', '.join({'torch', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("side", [16, 64, 128, 256])
def test_a_grid_that_is_too_large_is_refused_before_it_is_made(side, monkeypatch):
    """By the size that it would have without labels."""
    sheet = grids.table_grid([[np.zeros((side, side, 3), np.uint8)] * 3] * 2, ["", ""])
    monkeypatch.setattr(grids, "MAX_PIXELS", sheet.width * sheet.height)
    grids.check_grid(2, 3, side)
    monkeypatch.setattr(grids, "MAX_PIXELS", sheet.width * sheet.height - 1)
    with pytest.raises(UsageError, match=f"a grid of {sheet.width} x {sheet.height} pixels is over the limit"):
        grids.check_grid(2, 3, side)
