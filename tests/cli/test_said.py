"""What is said of outputs that cannot be written, and of texts that nobody should print as they are."""

import os

import pytest
from PIL import Image

from t2i.cli import run
from t2i.files import check_writable
from t2i.image_files import save_image


def test_a_device_is_no_image_file(refused):
    refused(2, "a device or a pipe; name a file or a folder, or - for stdout", "generate", "a cat", "-o", "/dev/stdout")


def test_a_images_escape_codes_are_shown_and_not_printed(here, capfd):
    save_image(Image.new("RGB", (8, 8)), here / "x.png", {"software": "t2i 1", "prompt": "\x1b[31mred\x07"})
    assert run(["info", "x.png"]) == 0
    said = capfd.readouterr().out
    assert "\x1b" not in said and "\x07" not in said and "\\x1b[31mred" in said


def test_a_read_only_folder_is_named_in_full(read_only_folder, monkeypatch):
    monkeypatch.chdir(read_only_folder)
    with pytest.raises(ValueError, match=f"^{os.path.realpath(read_only_folder)}: Permission denied"):
        check_writable(".")
