"""scripts/emoji_images.py, with packages that the test makes."""

import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from t2i.data.sources.folders import FolderPairSource

SCRIPT = Path(__file__).parents[2] / "scripts" / "emoji_images.py"
spec = importlib.util.spec_from_file_location("emoji_images", SCRIPT)
emoji_images = importlib.util.module_from_spec(spec)
spec.loader.exec_module(emoji_images)

EMOJI = {
    "1F34E": ("red apple", ["fruit", "ripe", "2x"], (220, 20, 30)),
    "1F697": ("automobile", ["car", "driving"], (30, 60, 220)),
    "2764-FE0F": ("red heart", ["love"], (220, 20, 30)),
    "1F1EE-1F1F9": ("flag: Italy", ["IT"], (20, 160, 60)),
    **{f"1F4{n:02X}": (f"thing {n}", [], (250, 220, 20)) for n in range(40)},
}


def pack(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def bitmaps():
    """A package of bitmaps."""
    files = {}
    for code, (_, _, rgb) in EMOJI.items():
        image = Image.new("RGBA", (72, 72), (0, 0, 0, 0))
        image.paste((*rgb, 255), (10, 10, 60, 60))
        stream = io.BytesIO()
        image.save(stream, "WEBP", lossless=True)
        files[f"package/assets/{code.lower()}.webp"] = stream.getvalue()
    return files | {"package/assets/1f44b-1f3fb.webp": b"another skin tone: not opened"}


def svgs():
    """A package of SVG files."""
    icons, chars = {}, {}
    for code, (label, _, (red, green, blue)) in EMOJI.items():
        name = label.replace(": ", "-").replace(" ", "-").lower()
        body = f'<rect x="10" y="10" width="50" height="50" fill="rgb({red},{green},{blue})"/>'
        icons[name] = {"body": body}
        chars[code.lower().replace("-fe0f", "")] = name
    icons["automobile"] |= {"width": 144, "body": icons["automobile"]["body"].replace('"50"', '"120"', 1)}
    chars["1f44b-1f3fb"] = "another-skin-tone"  # whose icon is missing
    files = {"icons": {"width": 72, "height": 72, "icons": icons}, "chars": chars}
    return {f"package/{name}.json": json.dumps(value).encode() for name, value in files.items()}


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    out = tmp_path_factory.mktemp("emoji")
    packages = out / "packages"
    packages.mkdir()
    data = [{"hexcode": code, "label": label, "tags": tags} for code, (label, tags, _) in EMOJI.items()]
    names = {"package/en/data.json": json.dumps(data).encode(), "package/en/messages.json": b"{}"}
    pack(packages / "emojibase-data-17.0.0.tgz", names)
    for name in emoji_images.STYLES:
        files = svgs() if "iconify" in name else bitmaps()
        plain, _, version = name.lstrip("@").rpartition("@")
        pack(packages / f"{plain.replace('/', '-')}-{version}.tgz", files)
    done = subprocess.run([sys.executable, SCRIPT, out], capture_output=True, text=True, check=True)
    return out, done.stdout


@pytest.fixture(scope="module")
def whole(emoji, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    subprocess.run([sys.executable, SCRIPT, out, "--packages", emoji[0] / "packages", "--whole-emoji"], check=True)
    return out


def read(out, split):
    source = FolderPairSource(out / split / "emoji" / "images", out / split / "emoji" / "captions")
    return {record.key.removesuffix(".png"): record for record in source}


def test_a_tenth_is_held_out_with_captions_that_nothing_in_train_has(emoji):
    out, said = emoji
    train, val = read(out, "train"), read(out, "val")
    assert len(train) + len(val) == 3 * len(EMOJI) and not train.keys() & val.keys()
    assert 0.03 < len(val) / len(train) < 0.3
    assert f"{len(train):,} training images, {len(val):,} held out" in said
    known = {caption for record in train.values() for caption in record.captions}
    assert all(record.captions and not known & set(record.captions) for record in val.values())


def test_whole_emoji_are_in_one_split_in_all_styles(whole):
    train, val = read(whole, "train"), read(whole, "val")
    assert len(train) + len(val) == 3 * len(EMOJI) and val
    concepts = [{key.rpartition("-")[0] for key in split} for split in (train, val)]
    assert not concepts[0] & concepts[1]
    assert all(f"{concept}-{style}" in (train | val) for concept in concepts[0] | concepts[1] for style in range(3))


def test_captions_name_the_thing_its_style_its_tags_and_its_colour(whole):
    records = {**read(whole, "train"), **read(whole, "val")}
    car = records["1f697-0"].captions
    assert {"an automobile", "a Noto style emoji of an automobile", "a blue automobile"} <= set(car)
    assert any("car" in caption for caption in car)
    apple = records["1f34e-2"].captions
    assert "a red apple" in apple and not any("red red" in caption or "2x" in caption for caption in apple)
    assert any("3d" in caption for caption in apple)
    assert "the flag of Italy" in records["1f1ee-1f1f9-1"].captions
    assert records["2764-0"].captions[0] == "a red heart"  # with and without the variation selector


def test_images_lie_on_white(emoji):
    out, _ = emoji
    for style, size in (("0", (128, 64)), ("1", (128, 64)), ("2", (72, 72))):  # two are SVG
        (path,) = out.glob(f"*/emoji/images/1f697-{style}.png")
        with Image.open(path) as image:
            assert image.mode == "RGB" and image.size == size
            assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((36, 36)) == (30, 60, 220)


@pytest.mark.parametrize(
    ("label", "noun"),
    [("owl", "an owl"), ("socks", "socks"), ("cross", "a cross"), ("keycap: 5", "a keycap 5"), ("Tokyo", "Tokyo")],
)
def test_nouns(label, noun):
    assert emoji_images.thing(label) == noun


@pytest.mark.parametrize(
    ("rgb", "name"),
    [((220, 30, 35), "red"), ((250, 125, 10), "orange"), ((255, 225, 20), "yellow"), ((30, 150, 50), "green"),
     ((35, 70, 225), "blue"), ((125, 35, 175), "purple"), ((255, 110, 190), "pink"), ((120, 70, 30), "brown"),
     ((10, 10, 10), "black"), ((128, 128, 128), "grey"), ((250, 250, 250), "white")],
)  # fmt: skip
def test_colour_names(rgb, name):
    assert emoji_images.colour_name(*(value / 255 for value in rgb)) == name


def png(image):
    image.save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("colour", emoji_images.PAINTS)
def test_a_recoloured_image_has_that_colour_where_it_had_its_main_one(colour):
    image = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    image.paste((215, 40, 50, 255), (5, 5, 55, 55))
    image.paste((250, 250, 250, 255), (10, 10, 20, 20))
    image.paste((40, 170, 60, 255), (40, 40, 50, 50))
    found = emoji_images.recoloured(png(image), colour)
    if colour == "red":
        assert found is None
        return
    assert emoji_images.colour_of(found) == colour
    image = Image.open(io.BytesIO(found))
    assert image.getpixel((0, 0))[3] == 0
    assert image.getpixel((15, 15)) == (250, 250, 250, 255) and image.getpixel((45, 45)) == (40, 170, 60, 255)


def test_grey_things_take_colours_and_white_or_many_coloured_ones_do_not():
    grey = Image.new("RGBA", (60, 60), (130, 130, 130, 255))
    assert emoji_images.colour_of(emoji_images.recoloured(png(grey), "blue")) == "blue"
    assert emoji_images.recoloured(png(Image.new("RGBA", (60, 60), "white")), "blue") is None
    stripes = Image.new("RGBA", (60, 60), "white")
    for number, colour in enumerate(("red", "yellow", "lime", "blue")):
        stripes.paste(colour, (15 * number, 0, 15 * number + 15, 60))
    assert emoji_images.recoloured(png(stripes), "purple") is None


@pytest.mark.slow
def test_recoloured_images_are_trained_on_and_their_captions_say_the_colour(emoji, tmp_path):
    command = [sys.executable, SCRIPT, tmp_path, "--packages", emoji[0] / "packages", "--recoloured", "3"]
    subprocess.run(command, check=True)
    train, val, before = read(tmp_path, "train"), read(tmp_path, "val"), read(emoji[0], "train")
    assert val.keys() == read(emoji[0], "val").keys()
    more = train.keys() - before.keys()
    assert 2 * len(before) < len(more) < 3 * len(before)
    for key in more:
        colour = key.rpartition("-")[2]
        assert train[key].captions and all(f" {colour} " in f" {line} " for line in train[key].captions)
    assert not any(key.startswith(("2764-", "1f34e-", "1f1ee-")) for key in more)  # red by name; a flag
    for car in (key for key in more if key.startswith("1f697-")):
        lines = train[car].captions
        assert any(line.endswith(" car") for line in lines) and not any("driving" in line for line in lines)
    assert any(key.startswith("1f697-") for key in more)
