"""Captioned icons and clip art beside the emoji: the training data of the built-in model.

    pip install resvg-py
    python scripts/icon_images.py OUT [--packages FOLDER] [--recoloured 2]

Writes OUT/{train,val}/{emoji,icons}, each with images/ (PNG on white, 128 px) and captions/ (one a line). The emoji are
those of emoji_images.py, with its held-out images: OUT/val/emoji is what the model has always been scored on. Icons
come from further sets, all permissive (SOURCES); one in twenty is held out in OUT/val/icons. Emoji of these sets that
are held out in any style, and images that look like a held-out one, are left out.

Packages are fetched with `npm pack` and `apt-get download`, or taken from FOLDER if they are there.
"""

import argparse
import hashlib
import io
import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import emoji_images as emoji
import numpy as np
from PIL import Image

HELD_OUT = 20  # one icon in twenty
NEAR = 0.055  # root mean square difference of 16 px thumbnails, in [0, 1], below which two images are alike
NOTO = "@iconify-json/noto@1.2.9"  # whose names others use too
OPENCLIPART = "openclipart-svg"
LARGEST = 400_000  # bytes of an SVG


@dataclass(frozen=True)
class Source:
    """A set of icons. styles: words for its style. by: credit, licence. only: a suffix that its names must have, which
    is cut off. two_tone: drawn in one hue, which says nothing of the thing: it is always recoloured."""

    styles: tuple[str, ...]
    by: str
    only: str = ""
    two_tone: bool = False


EMOJI_SOURCES = {  # drawn emoji, named by their code points
    "@iconify-json/noto-v1@1.2.5": Source(("old Noto style",), "Noto Emoji (blobs): Google, Apache-2.0"),
    "@iconify-json/fxemoji@1.2.2": Source(("Firefox OS style", "flat"), "FxEmojis: Mozilla, Apache-2.0"),
    "@iconify-json/emojione@1.2.3": Source(("EmojiOne style", "flat"), "EmojiOne 2: Emoji One, CC BY 4.0"),
}
ICON_SOURCES = {
    "@iconify-json/streamline-emojis@1.2.4": Source(("outlined cartoon",), "Streamline Emojis: CC BY 4.0"),
    "@iconify-json/streamline-kameleon-color@1.2.2": Source(
        ("round badge",), "Streamline Kameleon: CC BY 4.0"
    ),
    "@iconify-json/streamline-stickies-color@1.2.2": Source(("sticker",), "Streamline Stickies: CC BY 4.0"),
    "@iconify-json/flat-color-icons@1.2.3": Source(("flat",), "Flat Color Icons: Icons8, MIT"),
    "@iconify-json/fluent-color@1.2.21": Source(("gradient",), "Fluent UI System Color Icons: Microsoft, MIT"),
    "@iconify-json/meteocons@1.2.4": Source(("weather icon",), "Meteocons: Bas Milius, MIT"),
    "@iconify-json/streamline-color@1.2.2": Source(("two-tone",), "Streamline Core: CC BY 4.0", "-flat", True),
    "@iconify-json/streamline-flex-color@1.2.2": Source(("two-tone",), "Streamline Flex: CC BY 4.0", "-flat", True),
    "@iconify-json/streamline-plump-color@1.2.2": Source(("two-tone",), "Streamline Plump: CC BY 4.0", "-flat", True),
    "@iconify-json/streamline-sharp-color@1.2.2": Source(("two-tone",), "Streamline Sharp: CC BY 4.0", "-flat", True),
}  # fmt: skip
CLIP_ART = Source(("clip art",), "Open Clip Art Library, public domain")
FOLDERS = (  # of the clip art, those of things
    "animals", "buildings", "containers", "decorations", "education", "electronics", "food", "office", "plants",
    "recreation/games", "recreation/holiday", "recreation/music", "recreation/party", "recreation/sports",
    "recreation/toys", "recreation/art", "science", "tools", "transportation/boating", "transportation/vehicles",
)  # fmt: skip
DROPPED = set(  # words of names: brands, cards, screens and other things that a caption does not show
    """
    logo facebook twitter google amazon github gitlab slack skype whatsapp instagram linkedin youtube paypal visa
    mastercard bitcoin ethereum dropbox windows android linux firefox chrome safari opera pinterest tumblr reddit
    vimeo vk telegram discord tiktok icons8 trello steam spotify netflix snapchat wechat line ebay adobe microsoft
    playing poker clubs diamonds spades jack queen king ace domino flag flags map banner advert ad code database
    server align text font paragraph layout grid sort filter cursor zoom crop margin padding layer layers path
    vector anchor html css php api sql json file folder document page tab window browser app application screen
    button input form download upload sync refresh login logout password signin add remove delete edit copy paste
    cut undo redo print save export import settings config setting workflow organization chart graph diagram
    hierarchy network data analytics dashboard ai ipad gif ppt pdf doc xls rss url link hyperlink interface user
    users account contact person people man woman boy girl male female human gender subscript superscript version vr
    3d 2d off disabled circle square arrow arrows chevron expand collapse align left right up down next previous
    skip extreme beaufort uv index time not available pressure late celsius fahrenheit white cliparts various
    """.split()  # noqa: SIM905
)
CATEGORIES = {  # words of sets that write them as one; other long ones are left out
    "fooddrink": "food", "natureecology": "nature", "moneyshopping": "shopping", "computerdevices": "computer",
    "schoolscience": "science", "workeducation": "school", "buildingconstruction": "building", "musicstuff": "music",
    "entertainment": "entertainment", "moneybusiness": "business",
}  # fmt: skip
SIZES = ("16", "20", "24", "28", "32", "48")
STYLE_SUFFIXES = ("flat", "duo", "fill")


def emoji_by_name(packages: Path) -> dict[str, dict]:
    """emojibase's entry of an emoji by the names that sets give it, without hyphens: Noto's, and its label."""
    data = dict(emoji.members(emoji.package(emoji.NAMES, packages), "package/en/"))["data.json"]
    entries = {emoji.code(entry["hexcode"]): entry for entry in json.loads(data)}
    found = {re.sub(r"[^a-z0-9]", "", entry["label"].lower()): entry for entry in entries.values()}
    chars = json.loads(dict(emoji.members(emoji.package(NOTO, packages), "package/"))["chars.json"])
    for point, name in chars.items():
        if entry := entries.get(emoji.code(point)):
            found[name.replace("-", "")] = entry
    return found


def iconify(path: Path) -> tuple[dict[str, bytes], dict[str, list[str]]]:
    """A package: SVG by name, categories by name."""
    files = dict(emoji.members(path, "package/"))
    icons = json.loads(files["icons.json"])
    categories: dict[str, list[str]] = {}
    for category, names in json.loads(files.get("metadata.json", b"{}")).get("categories", {}).items():
        for name in names:
            if word := CATEGORIES.get(category.lower(), category.lower() if len(category) <= 9 else ""):
                categories.setdefault(name, []).append(word)
    svgs = {}
    for name, icon in icons["icons"].items():
        box = [icon.get(key, icons.get(key, default)) for key, default in
               (("left", 0), ("top", 0), ("width", 16), ("height", 16))]  # fmt: skip
        view = " ".join(map(str, box))
        svgs[name] = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}">{icon["body"]}</svg>'.encode()
    return svgs, categories


def render(svg: bytes) -> bytes | None:
    """PNG with transparency, at most 128 px a side; None where it is empty, or nothing that resvg renders."""
    import resvg_py

    try:
        data = bytes(
            resvg_py.svg_to_bytes(svg_string=svg.decode("utf-8", "replace"), width=256, skip_system_fonts=True)
        )
        image = Image.open(io.BytesIO(data)).convert("RGBA")
    except Exception:  # resvg raises its own of whatever kind
        return None
    box = image.getchannel("A").getbbox()
    if box is None:
        return None
    image = image.crop(box)
    side = round(1.06 * max(image.size))  # a thin margin, as emoji have
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    square = square.resize((emoji.SIDE, emoji.SIDE), Image.Resampling.LANCZOS)
    if np.asarray(square.getchannel("A")).mean() < 8:
        return None
    stream = io.BytesIO()
    square.save(stream, "PNG")
    return stream.getvalue()


def label_of(name: str, source: Source) -> tuple[str, list[str]] | None:
    """An icon's name as words, and its style's; None where it is left out: "alarm-clock-2-flat" -> "alarm clock"."""
    if source.only and not name.endswith(source.only):
        return None
    words = re.split(r"[-_ ]+", name.lower())
    styles = [word for word in words if word in STYLE_SUFFIXES]
    words = [
        w for w in words if not w.isdigit() and w not in STYLE_SUFFIXES and not re.fullmatch(r"[a-z]?\d+[a-z]*", w)
    ]
    if not 1 <= len(words) <= 3 or set(words) & DROPPED or not all(word.isalpha() for word in words):
        return None
    if len("".join(words)) < 3:
        return None
    return " ".join(words), styles


def title_of(svg: bytes, path: Path) -> tuple[str, list[str]] | None:
    """A clip art's title and tags; None where nothing says what it is."""
    text = svg[:20_000].decode("utf-8", "replace")
    found = re.search(r"<dc:title>\s*([^<]*)</dc:title>", text)
    title = found[1] if found else ""
    title = re.sub(r"^Clipart by .* - ", "", title)
    title = re.sub(r"[_\-\d.,()#!?]+", " ", title.lower())
    title = " ".join(word for word in title.split() if word.isalpha() and len(word) > 1)
    tags = [tag.strip().lower() for tag in re.findall(r"<rdf:li>([^<]*)</rdf:li>", text)]
    tags = [tag for tag in dict.fromkeys(tags) if tag.replace(" ", "").isalpha() and 2 < len(tag) < 20]
    tags = [tag for tag in tags if tag not in ("hash", "clip art", "clipart", "image", "svg", "unsorted", "open")]
    if not 1 <= len(title.split()) <= 4 or set(title.split()) & DROPPED or len(title) > 32:
        return None
    return title, [*tags, path.parent.name.replace("_", " ")]


def clip_art(folder: Path, packages: Path) -> Iterator[tuple[str, str, list[str], bytes]]:
    """Key, label, tags and SVG of each thing of the Open Clip Art Library."""
    root = unpacked(packages, folder)
    seen: set[bytes] = set()
    for part in FOLDERS:
        for path in sorted((root / part).rglob("*.svg")):
            svg = path.read_bytes()
            digest = hashlib.sha256(svg).digest()
            if len(svg) > LARGEST or digest in seen or not (found := title_of(svg, path)):
                continue
            seen.add(digest)
            yield f"clipart-{path.stem[:60]}", *found, svg


def unpacked(packages: Path, folder: Path) -> Path:
    """The folder of the clip art's SVGs."""
    root = folder / "clip-art"
    if not root.is_dir():
        debs = sorted(packages.glob(f"{OPENCLIPART}_*.deb"))
        if not debs:
            subprocess.run(["apt-get", "download", OPENCLIPART], cwd=packages, check=True, stdout=subprocess.DEVNULL)
            debs = sorted(packages.glob(f"{OPENCLIPART}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", debs[-1], root], check=True)
    return root / "usr/share/openclipart/svg"


def thumbnail(image: Image.Image) -> np.ndarray:
    """[768] in [0, 1]."""
    return np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BOX), np.float32).ravel() / 255


def captions(
    label: str, tags: list[str], styles: tuple[str, ...], colour: str | None, dice: random.Random
) -> list[str]:
    """Ways to ask for an icon. With a colour some name it and some do not: seeds then share out the colours."""
    noun, style = emoji.thing(label), dice.choice(styles)
    words = emoji.useful(tags, label)[:3]
    found = [noun, f"{noun}, {style}", f"an icon of {noun}", ", ".join([label, *words])]
    if colour and emoji.takes_colours(label):
        coloured = emoji.in_colour(label, colour)
        found += [coloured, f"an icon of {coloured}", f"{coloured}, {style}"]
    return list(dict.fromkeys(found))


Entry = tuple[Image.Image, list[str]]


class Collection:
    """Images to train on and held out, by their keys; near-duplicates of held-out emoji stay out."""

    def __init__(self, held_out: list[Image.Image], recoloured: int):
        self.away = np.stack([thumbnail(image) for image in held_out])
        self.recoloured = recoloured
        self.splits: dict[str, dict[str, Entry]] = {"train": {}, "val": {}}
        self.near = 0

    def add(self, key: str, png: bytes, label: str, tags: list[str], source: Source) -> None:
        image = emoji.on_white(png)
        if np.sqrt(np.square(self.away - thumbnail(image)).mean(1)).min() < NEAR:
            self.near += 1
            return
        dice = random.Random(key)
        split = "val" if hashlib.sha256(key.encode()).digest()[0] * HELD_OUT < 256 else "train"
        takes = emoji.takes_colours(label)
        if not source.two_tone:
            self.splits[split][key] = image, captions(label, tags, source.styles, emoji.colour_of(png), dice)
        if split == "val" and not source.two_tone:
            return
        for colour in dice.sample(sorted(emoji.PAINTS), self.recoloured) if takes else ():
            if painted := emoji.recoloured(png, colour):
                lines = captions(label, tags, source.styles, colour, dice)
                if not source.two_tone:  # the colour is not the thing's own
                    lines = [line for line in lines if colour in line]
                self.splits[split][f"{key}-{colour}"] = emoji.on_white(painted), lines


def write(splits: dict[str, dict[str, Entry]], out: Path, known: set[str]) -> None:
    """known: captions of training images, which held-out images do without."""
    for split, found in splits.items():
        images, texts = (out / split / "icons" / kind for kind in ("images", "captions"))
        images.mkdir(parents=True, exist_ok=True)
        texts.mkdir(exist_ok=True)
        for key, (image, lines) in found.items():
            if split == "val" and not (lines := [line for line in lines if line not in known]):
                continue
            image.save(images / f"{key}.png")
            (texts / f"{key}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def held_out_codes(out: Path) -> set[str]:
    return {path.stem.rpartition("-")[0] for path in (out / "val" / "emoji" / "images").glob("*.png")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", type=Path, help="Folder of the packages' files; OUT/packages.")
    parser.add_argument("--recoloured", type=int, default=2, help="Further colours of an image.")
    options = parser.parse_args()
    packages = options.packages or options.out / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    if not (options.out / "val" / "emoji").is_dir():
        emoji.write(options.out, packages, options.recoloured)
    shutil.rmtree(options.out / "train" / "icons", ignore_errors=True)
    shutil.rmtree(options.out / "val" / "icons", ignore_errors=True)
    held_out = [Image.open(path) for path in sorted((options.out / "val" / "emoji" / "images").glob("*.png"))]
    collection, codes = Collection(held_out, options.recoloured), held_out_codes(options.out)

    entries = emoji_by_name(packages)
    for name, source in EMOJI_SOURCES.items():
        svgs, _ = iconify(emoji.package(name, packages))
        for icon, svg in svgs.items():
            entry = entries.get(icon.replace("-", ""))
            if entry is None or emoji.code(entry["hexcode"]) in codes or "skin-tone" in icon:
                continue
            if not entry["label"].startswith("flag") and (png := render(svg)):
                key = f"{name.split('/')[1].split('@')[0]}-{emoji.code(entry['hexcode'])}"
                collection.add(key, png, entry["label"], entry.get("tags", []), source)
    for name, source in ICON_SOURCES.items():
        svgs, categories = iconify(emoji.package(name, packages))
        plain = name.split("/")[1].split("@")[0]
        largest: dict[str, str] = {}
        for icon in svgs:  # of several sizes of one icon the largest
            largest[re.sub(rf"-(?:{'|'.join(SIZES)})$", "", icon)] = icon
        for icon in largest.values():
            if (found := label_of(icon, source)) and (png := render(svgs[icon])):
                collection.add(f"{plain}-{icon}", png, found[0], categories.get(icon, []), source)
    for key, label, tags, svg in clip_art(options.out, packages):
        if png := render(svg):
            collection.add(key, png, label, tags, CLIP_ART)

    texts = (options.out / "train" / "emoji" / "captions").glob("*.txt")
    known = {line for path in texts for line in path.read_text(encoding="utf-8").splitlines()}
    known |= {line for _, lines in collection.splits["train"].values() for line in lines}
    write(collection.splits, options.out, known)
    train, val = (f"{len(found):,}" for found in collection.splits.values())
    print(f"{options.out}: {train} icons to train on, {val} held out, {collection.near} like a held-out emoji left out")


if __name__ == "__main__":
    main()
