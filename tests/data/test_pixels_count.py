"""Pixels count, metadata does not; profiles become sRGB; transparent and oblong images are framed as asked."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from t2i.data.images import load_framed, load_image, load_whole
from t2i.data.records import Framing, ImageError


def scene(width=48, height=32):
    y, x = np.mgrid[0:height, 0:width]
    blue = 127 + 100 * np.sin(x / width * 5) * np.cos(y / height * 4)
    return np.stack([255 * x / (width - 1), 255 * y / (height - 1), blue], axis=2).astype(np.uint8)


def encode(image, format="PNG", **options):
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, format, **options)
    return stream.getvalue()


GOOD = encode(scene())
EXPECTED = load_image(GOOD, 16)
FIRST, LAST = 33, len(GOOD) - 12  # after IHDR, before IEND
# Not those that say what the pixels are: tRNS (see-through colours), iCCP (colours), eXIf (turned).
NAMES = st.sampled_from(
    [b"tEXt", b"zTXt", b"iTXt", b"pHYs", b"tIME", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"hIST"]
)
ANY = st.builds(lambda a, b, c, d: bytes([a | 32, b | 32, c & ~32, d | 32]), *[st.integers(65, 90)] * 4).filter(
    lambda name: name not in (b"tRNs", b"tRNS")
)
CONTENT = st.binary(max_size=60) | st.sampled_from(
    [b"key\0" + b"x" * 2**21, b"key\0\0" + zlib.compress(b"y" * 2**21), b"key\0\1\0\0\0" + zlib.compress(b"z" * 2**21)]
)


@given(NAMES | ANY, CONTENT, st.booleans(), st.sampled_from([FIRST, LAST]))
@settings(max_examples=150)
def test_no_ancillary_chunk_costs_a_png(name, content, sound, place):
    checksum = zlib.crc32(name + content) ^ (not sound)
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
    assert np.array_equal(load_image(GOOD[:place] + chunk + GOOD[place:], 16), EXPECTED)


@given(
    st.integers(0xE1, 0xEF).filter(lambda marker: marker != 0xEE) | st.just(0xFE), st.binary(max_size=80), st.booleans()
)
@settings(max_examples=100)
def test_no_application_segment_costs_a_jpeg(marker, content, known):
    heads = {0xE1: b"Exif\0\0II*\0", 0xE2: b"MPF\0MM\0*", 0xED: b"Photoshop 3.0\0008BIM"}
    content = heads.get(marker, b"") * known + content
    good = encode(scene(), "JPEG", quality=95)
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
    found = load_image(good[:2] + segment + good[2:], 16)
    assert np.abs(found.astype(int) - load_image(good, 16)).max() <= 0 or marker == 0xE1  # an orientation, by chance


def test_damaged_pixels_are_still_refused():
    for data in (GOOD[:-40], GOOD[:60] + b"\xff" * 8 + GOOD[68:]):
        with pytest.raises(ImageError):
            load_image(data, 16)


# ---- colour profiles ---------------------------------------------------------------------------------------------


def wide_profile():
    """A display whose primaries are far from sRGB's: sRGB with red and green swapped shows at once."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = {bytes(data[p : p + 4]): p for p in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12)}
    red, green = at[b"rXYZ"], at[b"gXYZ"]
    data[red : red + 4], data[green : green + 4] = data[green : green + 4], data[red : red + 4]
    return bytes(data)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_profiles_become_srgb(format):
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    data = encode(scene(), format, icc_profile=wide_profile(), **options)
    swapped = EXPECTED[..., [1, 0, 2]].astype(int)
    assert np.abs(load_image(data, 16) - swapped).max() <= 12
    assert np.abs(np.asarray(load_whole(data)).astype(int) - scene()[..., [1, 0, 2]]).max() <= 12


def test_transparent_pixels_are_converted_too():
    rgba = np.dstack([scene(), np.full((32, 48), 255, np.uint8)])
    rgba[:, :24, 3] = 0
    pixels = load_image(encode(rgba, icc_profile=wide_profile()), 16).astype(int)
    assert (pixels[:, 0] == 255).all() and np.abs(pixels[:, 12:] - EXPECTED[:, 12:, [1, 0, 2]]).max() <= 3


@pytest.mark.parametrize("profile", [SRGB, b"", b"icc" * 40, SRGB[:300], b"\0" * 500, SRGB[:128] + b"\xff" * 400])
def test_srgb_and_damaged_profiles_change_no_byte(profile):
    assert np.array_equal(load_image(encode(scene(), icc_profile=profile), 16), EXPECTED)


def test_a_profile_of_another_kind_changes_nothing():
    grey = encode(scene()[..., 0], icc_profile=wide_profile())
    assert np.array_equal(load_image(grey, 16), load_image(encode(scene()[..., 0]), 16))


# ---- framing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (40, 40), (200, 9)])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_pad_keeps_all_of_an_image(size, format):
    data = encode(Image.new("RGB", size, (200, 30, 30)), format)
    pixels, own = load_framed(data, 32, Framing("pad", (0, 0, 255)))
    assert own == size and pixels.shape == (32, 32, 3)
    inside = np.abs(pixels.astype(int) - (200, 30, 30)).max(axis=2) < 12
    blue = (pixels == (0, 0, 255)).all(axis=2)
    assert (inside | blue).all()
    wide, high = (max(1, round(32 * length / max(size))) for length in size)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert (len(columns), len(rows)) == (wide, high)
    assert abs(rows[0] - (31 - rows[-1])) <= 1 and abs(columns[0] - (31 - columns[-1])) <= 1


def test_pad_of_a_turned_image_is_that_of_the_upright_one():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(Image.fromarray(np.ascontiguousarray(np.rot90(scene(), 1))), exif=exif)
    pixels, own = load_framed(turned, 32, Framing("pad"))
    upright = load_framed(GOOD, 32, Framing("pad"))[0].astype(int)
    assert own == (48, 32) and np.abs(pixels - upright).max() <= 3


def test_the_background_is_under_what_is_transparent():
    white = np.zeros((32, 32, 4), np.uint8)
    white[8:24, 8:24] = 255
    grey = np.zeros((16, 16), np.uint16)
    key = Image.fromarray(grey)
    for colour in ((0, 0, 0), (128, 128, 128), (10, 200, 30)):
        pixels, _ = load_framed(encode(white), 32, Framing(background=colour))
        assert pixels[0, 0].tolist() == list(colour) and pixels[16, 16].tolist() == [255] * 3
        assert load_framed(encode(key, transparency=0), 16, Framing(background=colour))[0][3, 3].tolist() == list(
            colour
        )


def test_small_images_are_refused_where_asked():
    assert load_framed(GOOD, 8, Framing(min_size=32))[1] == (48, 32)
    with pytest.raises(ImageError, match="smaller than --min-size: 48 x 32 pixels"):
        load_framed(GOOD, 8, Framing(min_size=33))


# ---- the formats of the extra ------------------------------------------------------------------------------------


def test_heic_and_jpeg_xl_are_read_with_the_extra_and_named_without(monkeypatch):
    from t2i.data import foreign_formats

    heif, jxl = pytest.importorskip("pillow_heif"), pytest.importorskip("pillow_jxl")
    assert jxl and heif
    heif.register_heif_opener()
    for format, name, there in (("HEIF", "HEIC", "_has_heif"), ("JXL", "JPEG XL", "_has_jxl")):
        for turned in (1, 6):
            exif = Image.Exif()
            exif[0x0112] = turned
            stored = scene() if turned == 1 else np.ascontiguousarray(np.rot90(scene(), 1))
            data = encode(stored, format, quality=95, exif=exif.tobytes())
            assert np.abs(load_image(data, 16).astype(int) - EXPECTED).max() < 40, (format, turned)
        with pytest.raises(ImageError):
            load_image(data[: len(data) // 2], 16)
        with monkeypatch.context() as patch:
            patch.setattr(foreign_formats, there, lambda: False)
            with pytest.raises(ImageError, match=rf"needs t2i\[formats\]: {name}: pip install"):
                load_image(data, 16)
