"""Transparent, grey and not square images: what is kept of them, and what is shown."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from t2i.data.images import load_framed
from t2i.data.records import Framing
from t2i.data.shapes import OUTLINES, SIZES, Item, Scene, draw
from t2i.data.sources.shapes import ShapesSource
from t2i.pixels import PixelFormat, on_background, on_white, parse_aspect, shown

ASPECTS = [(3, 2), (2, 3), (16, 9), (1, 4)]


def encoded(image, **options):
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def as_shown(pixels, form):
    return shown(torch.from_numpy(pixels.copy())[None], form)[0].numpy()


def roundness(mask):
    """Width over height of what a mask shows, by its second moments, which blur hardly changes."""
    y, x = np.nonzero(mask > 0.5)
    return x.std() / y.std()


def disc(width, height, radius, mode="RGBA", background=(0, 0, 0, 0)):
    image = Image.new(mode, (width, height), background)
    x, y = width / 2, height / 2
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=(200, 60, 20, 255))
    return image


@pytest.mark.parametrize("text, aspect", [("1:1", (1, 1)), ("3:2", (3, 2)), ("1920:1080", (16, 9)), (" 2 : 3", (2, 3))])
def test_an_aspect_is_read(text, aspect):
    assert parse_aspect(text) == aspect


@pytest.mark.parametrize("text", ["", "3", "3:0", "0:0", "-3:2", "9:2", "3:2:1", "a:b", "1.5:1"])
def test_what_is_no_aspect_is_refused(text):
    with pytest.raises(ValueError):
        parse_aspect(text)


@pytest.mark.parametrize("facts", [{"channels": "rgbx"}, {"aspect": [3]}, {"aspect": [3, "2"]}, {"aspect": [9, 1]}])
def test_a_damaged_description_is_refused(facts):
    with pytest.raises((ValueError, TypeError)):
        PixelFormat.of(facts)


def test_a_transparent_image_keeps_its_alpha_and_its_colours():
    image = Image.new("RGBA", (64, 64), (10, 200, 30, 0))
    image.paste((200, 100, 50, 128), (0, 0, 32, 64))
    pixels, size = load_framed(encoded(image), 32, Framing(form=PixelFormat("rgba")))
    assert pixels.shape == (32, 32, 4) and size == (64, 64)
    assert np.array_equal(pixels[16, 8], (100, 50, 25, 128)), "colours are multiplied by alpha"
    assert not pixels[16, 24].any()
    seen = as_shown(pixels, PixelFormat("rgba"))
    assert np.abs(seen[16, 8].astype(int) - (200, 100, 50, 128)).max() <= 1 and not seen[16, 24].any()
    plain = load_framed(encoded(image), 32)[0]
    assert np.abs(on_white(pixels).astype(int) - plain).max() <= 1, "on white it is what an opaque set holds"


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_an_opaque_image_is_opaque(mode):
    pixels = load_framed(encoded(Image.new("RGB", (20, 20), (90, 90, 90)).convert(mode)), 16, TRANSPARENT)[0]
    assert (pixels[..., 3] == 255).all()


TRANSPARENT = Framing(form=PixelFormat("rgba"))


def test_a_grey_16_bit_image_may_have_a_transparent_value():
    values = np.full((16, 16), 30_000, np.uint16)
    values[:, :8] = 500
    pixels = load_framed(encoded(Image.fromarray(values), transparency=500), 16, TRANSPARENT)[0]
    assert not pixels[:, 2].any() and np.array_equal(pixels[3, 12], (117, 117, 117, 255))


def test_grey_is_one_channel_and_shown_as_three():
    form = PixelFormat("grey")
    image = Image.new("RGB", (20, 20), (200, 60, 20))
    pixels = load_framed(encoded(image), 16, Framing(form=form))[0]
    assert pixels.shape == (16, 16, 1) and (pixels == image.convert("L").getpixel((0, 0))).all()
    assert as_shown(pixels, form).shape == (16, 16, 3) and on_white(pixels).shape == (16, 16, 3)


@pytest.mark.parametrize("aspect", ASPECTS)
@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("width, height", [(300, 200), (200, 300), (240, 240)])
def test_circles_stay_round_in_every_shape(aspect, fit, width, height):
    form = PixelFormat("rgba", aspect)
    pixels, _ = load_framed(encoded(disc(width, height, 24)), 128, Framing(fit=fit, form=form))
    seen = as_shown(pixels, form)
    assert seen.shape == (*form.size(128)[::-1], 4) and max(seen.shape) == 128
    assert abs(roundness(seen[..., 3] / 255) - 1) < 0.05


@pytest.mark.parametrize("form, background", [(PixelFormat("rgba", (2, 1)), 0), (PixelFormat("rgb", (2, 1)), 255)])
def test_padding_is_nothing_or_the_background(form, background):
    image = Image.new("RGB", (50, 50), (9, 9, 9))
    pixels, _ = load_framed(encoded(image), 32, Framing(fit="pad", form=form))
    seen = as_shown(pixels, form)
    assert seen.shape[:2] == (16, 32)
    assert (seen[:, :7] == background).all() and (seen[:, -7:] == background).all() and (seen[:, 10:22, :3] == 9).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_image_has_the_shape_of_the_upright_one(orientation):
    form = PixelFormat("rgb", (3, 2))
    y, x = np.mgrid[0:80, 0:120]
    image = Image.fromarray(np.stack([2 * x, 3 * y, 0 * x + 99], axis=2).astype(np.uint8))
    turns = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180], 4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE], 6: [Image.Transpose.ROTATE_90], 7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }  # fmt: skip
    stored = image
    for turn in turns.get(orientation, []):
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = load_framed(encoded(image), 32, Framing(form=form))[0]
    turned = load_framed(encoded(stored, exif=exif), 32, Framing(form=form))[0]
    assert np.abs(turned.astype(int) - upright).max() <= 2


@pytest.mark.parametrize("aspect", ASPECTS)
def test_drawn_circles_are_round_and_drawn_alpha_is_the_outline(aspect):
    form = PixelFormat("rgba", aspect)
    scene = Scene((Item("red", "circle", "large", (255, 0, 0), 0.5, 0.5),), "white", (255, 255, 255))
    seen = as_shown(draw(scene, 128, form), form)
    mask = seen[..., 3] / 255
    assert abs(roundness(mask) - 1) < 0.05
    unit = 128 * min(aspect) / max(aspect)
    assert abs(mask.sum() / unit**2 - SIZES["large"]) < 0.02 * SIZES["large"], len(OUTLINES)
    assert (seen[mask > 0.9][:, :3] == (255, 0, 0)).all()


def test_captions_of_transparent_shapes_speak_of_no_background():
    for record in ShapesSource(60, transparent=True):
        assert not any(word in caption for caption in record.captions for word in ("background", "backdrop", "page"))
        assert record.attributes["background"] == "white"


def test_laid_on_a_ground_an_image_is_the_sum_of_both():
    shown_01 = torch.tensor([0.8, 0.4, 0.2])
    alpha = 0.25
    kept = torch.cat([shown_01 * alpha, torch.tensor([alpha])]) * 2 - 1
    background = torch.tensor([[0.0, 1.0, 0.5]])
    seen = on_background(kept[None, :, None, None], background)[0, :, 0, 0]
    torch.testing.assert_close((seen + 1) / 2, shown_01 * alpha + background[0] * (1 - alpha))
