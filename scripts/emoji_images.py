"""Captioned emoji of three styles, from public npm packages: the training data of the built-in model.

    pip install resvg-py
    python scripts/emoji_images.py OUT [--packages FOLDER] [--whole-emoji] [--recoloured 2]

Writes OUT/train/emoji and OUT/val/emoji, each with images/ (PNG on white, 128 px) and captions/ (one a line), for
`t2i prepare --images ... --captions ...`. One image in ten, by a hash of its code points and its style, is held out in
val, with those of its captions that no training image has. The emoji itself may be in train in another style. With
--whole-emoji an emoji is in val in all its styles or in none. With --recoloured N training images are added in up to N
other colours, which their captions name: if all cars are red, no word can make one blue.

Packages are fetched with `npm pack`, or taken from FOLDER if they are there. Noto and Twemoji are SVG, which resvg
renders; Fluent 3D has bitmaps.
Noto Emoji: Google, Apache-2.0. Twemoji: Twitter and contributors, CC BY 4.0. Fluent Emoji 3D: Microsoft, MIT. Names and
tags: emojibase, MIT.
"""

import argparse
import colorsys
import hashlib
import io
import json
import random
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = "emojibase-data@17.0.0"
STYLES = {  # package: style words
    "@iconify-json/noto@1.2.9": ("Noto style",),
    "@iconify-json/twemoji@1.2.5": ("flat Twemoji style", "flat"),
    "@lobehub/fluent-emoji-3d@1.1.0": ("glossy 3d", "3d"),
}
HELD_OUT = 10  # one image in ten
SIDE = 128
COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "grey", "white",
)  # fmt: skip
PAINTS = {  # hue in degrees, saturation and value of recoloured images
    "red": (2, 0.80, 0.87), "orange": (28, 0.85, 0.97), "yellow": (48, 0.75, 0.99), "green": (110, 0.60, 0.68),
    "blue": (210, 0.70, 0.88), "purple": (270, 0.55, 0.75), "pink": (335, 0.45, 0.95), "brown": (20, 0.55, 0.50),
    "black": (0, 0.05, 0.20), "grey": (0, 0.02, 0.62),
}  # fmt: skip
PLAIN = 0.6  # least share of the foreground pixels that a named colour has
OWN = {"a", "an", "the"}


def package(name: str, folder: Path) -> Path:
    """The package's tarball in the folder, fetched if it is missing."""
    plain, _, version = name.lstrip("@").rpartition("@")
    path = folder / f"{plain.replace('/', '-')}-{version}.tgz"
    if not path.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit(f"{path.name} is not in {folder}, and npm is not installed")
        subprocess.run([npm, "pack", "--silent", name], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return path


def members(path: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Names (without the prefix) and contents of a tarball's files."""
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isfile() and member.name.startswith(prefix):
                yield member.name.removeprefix(prefix), tar.extractfile(member).read()


def images(path: Path) -> Iterator[tuple[str, bytes]]:
    """Code points and an encoded image of each emoji of a style's package."""
    icons = dict(members(path, "package/icons.json"))
    if not icons:
        for file, data in members(path, "package/assets/"):
            yield code(file.rpartition(".")[0]), data
        return
    import resvg_py

    collection = json.loads(icons[""])
    names = json.loads(dict(members(path, "package/chars.json"))[""])
    for emoji, name in names.items():
        if name in collection["icons"]:  # some characters are aliases
            icon = collection["icons"][name]
            box = [icon.get(side, collection[side]) for side in ("width", "height")]
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {box[0]} {box[1]}">{icon["body"]}</svg>'
            yield code(emoji), resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, skip_system_fonts=True)


def code(name: str) -> str:
    """Code points without the variation selector, which only some packages write: "1f3f4-200d-2620"."""
    return name.lower().replace("-fe0f", "")


def on_white(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    background = Image.new("RGBA", image.size, "white")
    background.alpha_composite(image)
    return background.convert("RGB")


def colour_of(data: bytes) -> str | None:
    """The name of the colour of most foreground pixels; None where no colour has enough of them."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA").resize((24, 24))).reshape(-1, 4)
    own = pixels[pixels[:, 3] > 127, :3] / 255
    if len(own) < 30:
        return None
    names = [colour_name(*rgb) for rgb in own]
    best = max(COLOURS, key=names.count)
    return best if names.count(best) >= PLAIN * len(names) else None


def colour_name(red: float, green: float, blue: float) -> str:
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    if value < 0.25:
        return "black"
    if saturation < 0.18:
        return "white" if value > 0.88 else "grey"
    degrees = hue * 360
    if degrees < 14 or degrees >= 345:
        return "pink" if saturation < 0.55 and value > 0.8 else "red"
    if degrees < 42:
        return "brown" if value < 0.72 else "orange"
    for end, name in ((68, "yellow"), (170, "green"), (255, "blue"), (300, "purple")):
        if degrees < end:
            return name
    return "pink"


def recoloured(data: bytes, colour: str) -> bytes | None:
    """The image with its main hue and similar ones turned to a colour of PAINTS, or with its grey pixels coloured.

    None where neither is a third of the foreground, or where the image has that colour already.
    """
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    rgb, alpha = image.convert("RGB"), image.getchannel("A")
    hue, saturation, value = np.moveaxis(np.asarray(rgb.convert("HSV")) / 255.0, 2, 0)
    own = np.asarray(alpha) > 127
    coloured = own & (saturation > 0.25) & (value > 0.2)
    counts, edges = np.histogram(hue[coloured], 24, (0, 1))
    main = edges[(counts + np.roll(counts, 1)).argmax()]  # the edge between the two fullest neighbours
    turn = (hue - main + 0.5) % 1 - 0.5  # hue relative to it
    near = coloured & (abs(turn) < 1 / 12)
    grey = own & (saturation < 0.18) & (value > 0.25) & (value < 0.9)
    if max(near.sum(), grey.sum()) < own.sum() / 3:
        return None

    degrees, vivid, bright = PAINTS[colour]
    if near.sum() >= grey.sum():
        vividness, brightness = np.median(saturation[near]), np.median(value[near])
        before = main, vividness, brightness
        share = ramp(abs(turn), 1 / 8, 1 / 12) * ramp(saturation, 0.1, 0.25)
        paint = degrees / 360 + 0.3 * turn, saturation * vivid / vividness, value * bright / brightness
    else:
        before = 0.0, 0.0, np.median(value[grey])
        share = ramp(saturation, 0.3, 0.18) * ramp(value, 0.2, 0.3) * ramp(value, 0.98, 0.92)  # eyes stay white
        paint = np.full_like(hue, degrees / 360), np.full_like(hue, vivid), value * bright / before[2]
    if colour_name(*colorsys.hsv_to_rgb(*before)) == colour:
        return None
    channels = [paint[0] % 1, *(np.clip(channel, 0, 1) for channel in paint[1:])]
    painted = Image.merge("HSV", [Image.fromarray(np.uint8(255 * channel)) for channel in channels]).convert("RGB")
    result = Image.composite(painted, rgb, Image.fromarray(np.uint8(255 * share)))
    result.putalpha(alpha)
    stream = io.BytesIO()
    result.save(stream, "PNG")
    return stream.getvalue()


def ramp(x: np.ndarray, zero: float, one: float) -> np.ndarray:
    """0 at `zero` and beyond, 1 at `one` and beyond, linear between them."""
    return np.clip((x - zero) / (one - zero), 0, 1)


def thing(label: str) -> str:
    """The label as a noun: "red apple" -> "a red apple", "flag: Italy" -> "the flag of Italy", "socks" -> "socks"."""
    if label.startswith("flag: "):
        return f"the flag of {label.removeprefix('flag: ')}"
    label = label.replace(": ", " ")
    last = label.split()[-1]
    if label[0].isupper() or (last.endswith("s") and not last.endswith(("ss", "us", "is"))):
        return label
    return f"{'an' if label[0] in 'aeiou' else 'a'} {label}"


def captions(
    label: str, tags: list[str], styles: tuple[str, ...], colour: str | None, dice: random.Random
) -> list[str]:
    """Captions of an image: by name, style, tags and colour."""
    noun = thing(label)
    words = useful(tags, label)
    dice.shuffle(words)
    style = dice.choice(styles)
    found = [
        noun,
        *in_style(noun, style, styles),
        f"an icon of {noun}",
        ", ".join([label, *words[:3]]),
    ]
    found += [f"{noun} ({words[0]})"] if words else []
    found += words[1:3]
    if colour and takes_colours(label):
        found.append(in_colour(label, colour))
    return list(dict.fromkeys(found))


def useful(tags: list[str], label: str) -> list[str]:
    """Tags that are words and not part of the label."""
    known = label.lower().split()
    return [tag for tag in tags if len(tag) > 2 and tag.replace(" ", "").isalpha() and tag not in known]


def takes_colours(label: str) -> bool:
    return not set(label.lower().split()) & set(COLOURS) and not label.startswith("flag")


def in_colour(label: str, colour: str) -> str:
    noun = thing(label)
    bare = noun.split(" ", 1)[1] if noun.split(" ")[0] in OWN else noun
    return thing(f"{colour} {bare}")


def captions_in_colour(
    label: str, tags: list[str], styles: tuple[str, ...], colour: str, dice: random.Random
) -> list[str]:
    """Captions of a recoloured image; each names the colour."""
    noun, style = in_colour(label, colour), dice.choice(styles)
    words = [tag for tag in useful(tags, label) if takes_colours(tag) and " " not in tag]
    kinds = [word for word in words if not word.endswith(("ing", "ed"))]  # mostly nouns
    return [
        noun,
        *in_style(noun, style, styles),
        f"an icon of {noun}",
        *(in_colour(kind, colour) for kind in kinds[:2]),
    ]


def in_style(noun: str, style: str, styles: tuple[str, ...]) -> list[str]:
    return [
        f"{'an' if style[0] in 'aeiou' else 'a'} {style} emoji of {noun}",
        f"{noun} in {styles[0]}" + ("" if "style" in styles[0] else " style"),
    ]


def write(out: Path, folder: Path, recoloured_times: int, whole_emoji: bool = False) -> None:
    """Write the emoji to `out`. folder: of the packages' tarballs."""
    data = dict(members(package(NAMES, folder), "package/en/"))["data.json"]
    facts = {code(entry["hexcode"]): entry for entry in json.loads(data)}
    splits: dict[str, dict[str, tuple[Image.Image, list[str]]]] = {"train": {}, "val": {}}
    for number, (name, styles) in enumerate(STYLES.items()):
        for emoji, encoded in images(package(name, folder)):
            if emoji not in facts:  # other skin tones, which have no name
                continue
            digest = hashlib.sha256((emoji if whole_emoji else f"{emoji} {number}").encode()).digest()
            entry = facts[emoji]
            lines = captions(
                entry["label"], entry.get("tags", []), styles, colour_of(encoded), random.Random(f"{name} {emoji}")
            )
            split = "val" if digest[0] % HELD_OUT == 0 else "train"
            splits[split][f"{emoji}-{number}"] = on_white(encoded), lines
            if split == "train" and takes_colours(entry["label"]):
                dice = random.Random(f"{name} {emoji} in colour")
                for colour in dice.sample(sorted(PAINTS), recoloured_times):
                    if changed := recoloured(encoded, colour):
                        lines = captions_in_colour(entry["label"], entry.get("tags", []), styles, colour, dice)
                        splits[split][f"{emoji}-{number}-{colour}"] = on_white(changed), lines
    known = {line for _, lines in splits["train"].values() for line in lines}
    for split, found in splits.items():
        image_folder, caption_folder = (out / split / "emoji" / kind for kind in ("images", "captions"))
        image_folder.mkdir(parents=True, exist_ok=True)
        caption_folder.mkdir(exist_ok=True)
        for key, (image, lines) in found.items():
            if split == "val":
                lines = [line for line in lines if line not in known]
            image.save(image_folder / f"{key}.png")
            (caption_folder / f"{key}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    train, val = (f"{len(found):,}" for found in splits.values())
    print(f"{out}: {train} training images, {val} held out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", type=Path, help="Folder of the packages' tarballs (default: OUT/packages).")
    parser.add_argument("--whole-emoji", action="store_true", help="Hold out emoji in all styles, not single images.")
    parser.add_argument("--recoloured", type=int, default=0, help="Other colours of each training image (default: 0).")
    options = parser.parse_args()
    folder = options.packages or options.out / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    write(options.out, folder, options.recoloured, options.whole_emoji)


if __name__ == "__main__":
    main()
