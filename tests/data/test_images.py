"""Whatever the bytes are: a right image, or a ImageError with one of the fixed reasons."""

import io
import os
import struct
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from t2i.data import images
from t2i.data.images import REASONS, load_image, load_whole
from t2i.data.located import FileImage, TarImage
from t2i.data.records import ImageError


def scene(width=96, height=64):
    """Smooth, with four different corners: any flip, turn or swapped channel shows. uint8 [H, W, 3]"""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / (width - 1), 255 * y / (height - 1)
    blue = 127 + 100 * np.sin(x / width * 5) * np.cos(y / height * 4)
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


def encode(image, format="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def centre(pixels, resolution):
    """The plain way: cut the centre square, one Lanczos resize."""
    height, width = pixels.shape[:2]
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(np.ascontiguousarray(pixels[top : top + side, left : left + side]))
    return np.asarray(square.convert("RGB").resize((resolution, resolution), Image.Resampling.LANCZOS))


def assert_close(pixels, expected, mean=1.0, most=12):
    assert pixels.shape == expected.shape and pixels.dtype == np.uint8
    difference = np.abs(pixels.astype(int) - expected)
    assert difference.mean() <= mean and difference.max() <= most, (difference.mean(), difference.max())


def refused(source, resolution=32):
    with pytest.raises(ImageError) as caught:
        load_image(source, resolution)
    assert caught.value.reason in REASONS
    assert "\n" not in str(caught.value)
    return caught.value.reason


# ---------------------------------------------------------------- good images


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (64, 64), (65, 32), (640, 427), (20, 11)])
@pytest.mark.parametrize("resolution", [8, 32, 100])
def test_the_centre_square_is_what_is_left(size, resolution):
    pixels = scene(*size)
    assert_close(load_image(encode(pixels), resolution), centre(pixels, resolution))


def test_a_image_of_the_asked_size_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(load_image(encode(pixels), 32), pixels)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG"])
def test_every_format_gives_the_same_image(format):
    pixels = scene()
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(format, {})
    mean, most = {"GIF": (8, 60), "JPEG": (2, 20)}.get(format, (0.5, 4))
    assert_close(load_image(encode(pixels, format, **options), 32), centre(pixels, 32), mean, most)


def test_scaled_jpeg_decode_is_close_to_a_full_decode():
    data = encode(scene(800, 600), "JPEG", quality=92, progressive=True)
    full = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for resolution in (16, 64, 200):
        assert_close(load_image(data, resolution), centre(full, resolution), mean=1.0, most=10)


def test_result_is_writable_and_contiguous():
    pixels = load_image(encode(scene()), 16)
    assert pixels.flags.writeable and pixels.flags.c_contiguous and pixels.flags.owndata


def test_path_stream_and_bytes_are_the_same(tmp_path):
    data = encode(scene())
    (tmp_path / "x").write_bytes(data)
    expected = load_image(data, 16)
    assert np.array_equal(load_image(tmp_path / "x", 16), expected)
    assert np.array_equal(load_image(io.BytesIO(data), 16), expected)


TO_STORED = {  # how an upright image is stored under each EXIF orientation
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("size", [(97, 64), (64, 97)])
def test_exif_orientations_all_equal_the_upright_image(orientation, format, size):
    upright = scene(*size)
    stored = Image.fromarray(np.ascontiguousarray(TO_STORED[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    data = encode(stored, format, exif=exif, **options)
    mean, most = (1.5, 12) if format == "JPEG" else (0.5, 3)
    assert_close(load_image(data, 32), centre(upright, 32), mean, most)
    assert_close(np.asarray(load_whole(data)), upright, mean, most)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b""])
def test_damaged_exif_does_not_spoil_a_good_image(exif):
    assert_close(load_image(encode(scene(), "JPEG", exif=exif, quality=95), 32), centre(scene(), 32), 2, 20)


def test_cmyk_jpeg_is_not_inverted():
    pixels = scene()
    data = encode(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data  # stored inverted, as Photoshop does
    assert_close(load_image(data, 32), centre(pixels, 32), 4, 30)


def test_cmyk_tiff_has_the_right_colours():
    data = encode(Image.fromarray(scene()).convert("CMYK"), "TIFF")
    assert_close(load_image(data, 32), centre(scene(), 32), 2, 10)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(format):
    grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = load_image(encode(grey, format), 64)
    assert_close(pixels, np.repeat((grey / 257).round().astype(np.uint8)[..., None], 3, axis=2), 1, 1)


def test_16_bit_colour_png_is_scaled():
    pixels = scene(32, 32)
    rows = b"".join(b"\0" + (row.astype(np.uint16) * 257).astype(">u2").tobytes() for row in pixels)
    data = png_with(struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0), zlib.compress(rows))
    assert np.array_equal(load_image(data, 32), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_mode_becomes_rgb(mode):
    pixels = load_image(encode(Image.fromarray(scene()).convert(mode)), 32)
    if mode in ("L", "LA", "RGBA"):
        expected = centre(np.asarray(Image.fromarray(scene()).convert(mode).convert("RGB")), 32)
        assert_close(pixels, expected, 1, 3)
    assert pixels.shape == (32, 32, 3)


def test_alpha_is_put_on_white_without_dark_fringes():
    rgba = np.zeros((64, 64, 4), np.uint8)  # a red disc; what is transparent is black underneath
    y, x = np.mgrid[-32:32, -32:32]
    rgba[x**2 + y**2 < 20**2] = (255, 0, 0, 255)
    for data in (encode(rgba), encode(rgba, "WEBP", lossless=True)):
        pixels = load_image(data, 16)
        assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[8, 8].tolist() == [255, 0, 0]
        assert pixels[..., 0].min() >= 250  # on the rim, red to white: never darker


def test_half_transparent_grey_is_half_way_to_white():
    la = np.full((16, 16, 2), (100, 128), np.uint8)
    pixels = load_image(encode(Image.fromarray(la, "LA")), 16)
    assert abs(int(pixels[5, 5, 0]) - 177) <= 2 and (pixels == pixels[0, 0]).all()


def test_palette_with_transparency_is_put_on_white():
    image = Image.new("P", (32, 32), 0)
    image.putpalette([0, 0, 0, 0, 0, 255] + [0] * 762)
    image.paste(1, (8, 8, 24, 24))
    for options in ({"transparency": 0}, {"transparency": bytes([0, 255])}):
        pixels = load_image(encode(image, **options), 32)
        assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[16, 16].tolist() == [0, 0, 255]


def test_colour_key_transparency_is_put_on_white():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[8:24, 8:24] = (0, 200, 0)
    result = load_image(encode(pixels, transparency=(0, 0, 0)), 32)
    assert result[0, 0].tolist() == [255, 255, 255] and result[16, 16].tolist() == [0, 200, 0]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(format):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert load_image(data, 16)[3, 3].tolist() == [255, 0, 0]


# ---------------------------------------------------------------- refused


def png_with(header, body, kind=b"IDAT"):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(kind, body) + chunk(b"IEND", b"")


def test_empty_file_is_named_so(tmp_path):
    (tmp_path / "x.jpg").touch()
    assert refused(b"") == "empty file" == refused(tmp_path / "x.jpg")


@pytest.mark.parametrize("data", [b"hello, I am text", b"<html>404</html>", b"\0" * 4096, b"\xff\xd8"])
def test_text_under_a_image_name_is_not_a_image(tmp_path, data):
    (tmp_path / "x.jpg").write_bytes(data)
    assert refused(tmp_path / "x.jpg") == "not an image"


@pytest.mark.parametrize(
    ("format", "name"),
    [("EPS", "PostScript"), ("ICO", "icon"), ("PCX", "PCX"), ("DDS", "DDS"), ("JPEG2000", "JPEG 2000")],
)
def test_formats_off_the_list_are_not_opened_and_named(format, name):
    with pytest.raises(ImageError, match=f"format is not read: .*{name}.*: convert it"):
        load_image(encode(scene(), format), 16)
    assert refused(encode(scene(), "TGA")) == "not an image"  # nothing in it says what it is
    assert refused(b"<?xml version='1.0'?>\n<svg width='9'></svg>") == "format is not read"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("kept", [0.4, 0.7, 0.9])
def test_truncated_files_are_refused(format, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(noise, format)
    assert refused(data[: int(len(data) * kept)]) in ("truncated", "damaged", "not an image")


def test_truncated_jpeg_that_verify_lets_pass_is_refused():
    data = encode(scene(400, 300), "JPEG")
    data = data[: len(data) * 2 // 3]
    Image.open(io.BytesIO(data)).verify()
    assert refused(data) == "truncated"


@pytest.mark.parametrize("size", [(60_000, 60_000), (12_000, 12_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bomb_is_refused_from_its_header(size):
    data = png_with(struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0), zlib.compress(b"\0" * 10**6))
    assert refused(data) == "too many pixels"


def test_pixels_are_counted_as_decoded(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100_000)
    pixels = scene(800, 600)
    assert load_image(encode(pixels, "JPEG"), 16).shape == (16, 16, 3)  # at an eighth: 100 x 75
    assert refused(encode(pixels, "JPEG", progressive=True), 16) == "too many pixels"
    assert refused(encode(pixels), 16) == "too many pixels"
    with pytest.raises(ImageError, match="too many pixels"):
        load_whole(encode(pixels, "JPEG"))


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (1, 1), (7, 300)])
def test_narrow_images_are_too_small(size):
    assert refused(encode(Image.new("RGB", size))) == "too small"


def test_a_long_strip_is_still_a_image():
    assert load_image(encode(scene(4000, 8)), 16).shape == (16, 16, 3)


def test_floats_have_no_white(tmp_path):
    assert refused(encode(np.zeros((16, 16), np.float32), "TIFF")) == "unsupported pixels"
    assert refused(encode(np.zeros((16, 16), np.int32), "TIFF")) == "unsupported pixels"


def test_nothing_is_printed_about_strange_images():
    """Pillow warns about large images and damaged metadata; libtiff writes to stderr itself."""
    script = (
        "import io, struct, sys, zlib\n"
        "from PIL import Image\n"
        "from t2i.data.images import load_image\n"
        "from t2i.data.records import ImageError\n"
        "Image.MAX_IMAGE_PIXELS = 1000\n"
        "s = io.BytesIO(); Image.new('RGB', (40, 40)).save(s, 'TIFF', compression='tiff_lzw')\n"
        "d = s.getvalue()\n"
        "for i in range(0, len(d), 3):\n"
        "    try: load_image(d[:i] + bytes([d[i] ^ 255]) + d[i + 1:], 16)\n"
        "    except ImageError: pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_refusals_are_the_same_on_every_run():
    with pytest.raises(ImageError) as first:
        load_image(io.BytesIO(b"not an image"), 16)
    with pytest.raises(ImageError) as second:
        load_image(io.BytesIO(b"not an image"), 16)
    assert str(first.value) == str(second.value) and " at 0x" not in str(first.value)


# ---------------------------------------------------------------- where images are


def test_missing_folder_pipe_and_forbidden_files_have_their_reasons(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("link.png")
    cases = {"no.png": "missing file", "pipe.png": "not a file", "folder.png": "not a file"}
    cases |= {"pipe.png/x": "missing file", "link.png": "unreadable file", "x" * 300: "unreadable file"}
    for trusted in (True, False):
        for name, reason in cases.items():
            with pytest.raises(ImageError) as caught:
                FileImage(str(tmp_path), name, trusted).load(8)
            assert caught.value.reason == reason, name
            assert str(tmp_path) not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_unreadable(tmp_path):
    (tmp_path / "x.png").write_bytes(encode(scene()))
    (tmp_path / "x.png").chmod(0)
    with pytest.raises(ImageError) as caught:
        FileImage(str(tmp_path), "x.png").load(8)
    assert caught.value.reason == "unreadable file"


def test_names_that_leave_the_folder_are_not_opened(tmp_path):
    (tmp_path / "secret.png").write_bytes(encode(scene()))
    root = tmp_path / "root"
    root.mkdir()
    (root / "in.png").write_bytes(encode(scene()))
    (root / "good.png").symlink_to("in.png")
    (root / "bad.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path)
    names = [
        "../secret.png",
        str(tmp_path / "secret.png"),
        "x/../../secret.png",
        "file://secret.png",
        "a\0.png",
    ]
    names += ["bad.png", "up/secret.png", "..\\secret.png", "C:/x.png", "\ud800.png", "", ".", "./"]
    for name in names:
        with pytest.raises(ImageError) as caught:
            FileImage(str(root), name).load(8)
        assert caught.value.reason == "file name leaves the folder", name
    for name in ("in.png", "good.png", "./in.png"):
        assert FileImage(str(root), name).load(8).shape == (8, 8, 3)
    assert FileImage(str(root), "bad.png", trusted=True).load(8).shape == (8, 8, 3)


def test_a_tar_member_is_read_in_place(tmp_path):
    data = encode(scene())
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("x.png")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    with tarfile.open(tmp_path / "a.tar") as tar:
        member = tar.next()
    path = str(tmp_path / "a.tar")
    assert np.array_equal(TarImage(path, member.offset_data, member.size).load(16), load_image(data, 16))
    for offset, size, reason in ((0, 512, "not an image"), (10**9, 10, "truncated"), (0, 0, "empty file")):
        with pytest.raises(ImageError) as caught:
            TarImage(path, offset, size).load(16)
        assert caught.value.reason == reason
