"""Image files that carry text."""

import numpy as np
import pytest
from PIL import Image

from t2i.errors import UsageError, UserError
from t2i.image_files import check_image_name, read_image_text, save_image


def flat(size: int = 16, value: int = 40) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".PNG"])
def test_text_comes_back_from_a_saved_image_emoji_included(tmp_path, suffix):
    text = {
        "prompt": "a cat \U0001f600 一只猫 и кошка",
        "café": "seed é 1",
        "long": "x " * 4000,
        "lines": "a\nb",
    }
    path = tmp_path / f"out{suffix}"
    save_image(flat(24), path, text)
    assert read_image_text(path) == text
    with Image.open(path) as image:
        assert image.size == (24, 24)


def test_a_png_keeps_its_pixels_and_a_grey_array_is_an_image_too(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    save_image(pixels, tmp_path / "rgb.png")
    save_image(pixels[:, :, 0], tmp_path / "grey.png")
    with Image.open(tmp_path / "rgb.png") as rgb, Image.open(tmp_path / "grey.png") as grey:
        assert np.array_equal(np.asarray(rgb), pixels)
        assert np.array_equal(np.asarray(grey), pixels[:, :, 0])
    assert read_image_text(tmp_path / "rgb.png") == {}


def test_a_text_that_no_format_can_hold_does_not_lose_the_image(tmp_path):
    save_image(flat(), tmp_path / "a.png", {"prompt": "a\0b \udcff"})
    assert read_image_text(tmp_path / "a.png") == {"prompt": "ab ?"}
    save_image(flat(), tmp_path / "a.jpg", {"prompt": "x" * 100_000})
    assert read_image_text(tmp_path / "a.jpg") == {}


def test_transparent_images_are_written_as_jpeg(tmp_path):
    save_image(Image.new("RGBA", (8, 8), (10, 20, 30, 0)), tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").stat().st_size > 0


@pytest.mark.parametrize("name", ["out.gif", "out", "out.png.txt"])
def test_an_unknown_suffix_is_refused_in_one_line_that_names_the_known_ones(tmp_path, name):
    with pytest.raises(UsageError, match=r"\.png, \.jpg, \.jpeg, \.webp") as caught:
        save_image(flat(), tmp_path / name)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError):
        check_image_name(name)


def test_a_missing_folder_is_made(tmp_path):
    save_image(flat(), tmp_path / "a" / "b" / "out.png")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["out.png"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "out.png", tmp_path / "folder.png"):
        with pytest.raises(UserError) as caught:
            save_image(flat(), path)
        assert str(path.parent) in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


def test_a_read_only_folder_is_one_line(read_only_folder):
    for path in (read_only_folder / "out.png", read_only_folder / "new" / "out.png"):
        with pytest.raises(UserError, match="Permission denied") as caught:
            save_image(flat(), path)
        assert "\n" not in str(caught.value)


def test_an_image_too_wide_for_the_format_is_one_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "wide.webp"
    save_image(flat(), path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="20000 x 1") as caught:
        save_image(np.zeros((1, 20000, 3), np.uint8), path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_reading_text_from_what_is_no_image_is_one_line(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    for path in (tmp_path / "a.png", tmp_path / "absent.png", tmp_path):
        with pytest.raises(UserError) as caught:
            read_image_text(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_description_of_another_program_is_no_text(tmp_path):
    for description in ("a holiday in Spain", "[1, 2]", "3", "[" * 50_000, 3):
        exif = Image.Exif()
        exif[0x010E] = description
        Image.fromarray(flat()).save(tmp_path / "a.jpg", exif=exif)
        assert read_image_text(tmp_path / "a.jpg") == {}
