"""Which source of images and captions the options of `t2i prepare` name."""

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from t2i.cli.options import parse_colour
from t2i.errors import UsageError

if TYPE_CHECKING:
    from t2i.data.records import Framing, Source
    from t2i.pixels import PixelFormat


@dataclass(frozen=True)
class Named:
    """What the options say; None where one is left out."""

    coco: Path | None
    images: Path | None
    captions: Path | None
    annotations: Path | None
    caption_from: str | None
    caption_template: str | None
    imagefolder: Path | None
    metadata: Path | None
    parquet: str | None
    shards: str | None
    shapes: int | None
    split: str
    follow_links: bool

    def at_home(self) -> "Named":
        """The same, ~ in paths meaning the user's home: a shell leaves it alone in --images=~/x."""
        changed = {}
        for name in ("coco", "images", "captions", "annotations", "imagefolder", "metadata", "shards"):
            path = getattr(self, name)
            if path is not None:
                changed[name] = type(path)(os.path.expanduser(path))
        return replace(self, **changed)


def find_sources(named: Named, val_share: float, resolution: int, form: "PixelFormat") -> "list[tuple[Source, str]]":
    """The source, once for each data set to write; beside it which part of it to keep. Raises UserError, one line."""
    from t2i.data.shapes import check_resolution
    from t2i.data.sources import shapes

    _check(named)
    if named.shapes is not None:
        check_resolution(resolution)
        source_of = partial(shapes.ShapesSource, transparent=form.transparent)
        if val_share and named.split == "train":
            held_out = max(1, round(named.shapes * val_share))
            rest = named.shapes - held_out if named.shapes > held_out else named.shapes
            return [(source_of(rest, "train"), "all"), (source_of(held_out, "val"), "all")]
        return [(source_of(named.shapes, named.split), "all")]
    source = _read(named)
    return [(source, "train"), (source, "val")] if val_share else [(source, "all")]


def _read(named: Named) -> "Source":
    from t2i.data import sources

    split, follow = named.split, named.follow_links
    if named.coco is not None:
        return sources.CocoSource(named.coco, split, named.images, named.annotations, follow)
    if named.images is not None and named.annotations is not None:
        return sources.annotations_source(named.images, named.annotations, split, follow)
    if named.images is not None and named.caption_from is not None:
        return sources.NamedSource(named.images, named.caption_from, named.caption_template or "{}", split)
    if named.images is not None:
        return sources.FolderPairSource(named.images, named.captions, split)
    if named.imagefolder is not None:
        return sources.ImageFolderSource(named.imagefolder, split, named.metadata, follow)
    if named.parquet is not None:
        return sources.ParquetSource(named.parquet, split)
    assert named.shards is not None
    return sources.ShardSource(named.shards, split)


def _check(named: Named) -> None:
    """Raises UsageError where options exclude each other, or one lacks another."""
    pair = named.images is not None and named.coco is None
    given = {
        "--coco": named.coco is not None, "--images": pair, "--imagefolder": named.imagefolder is not None,
        "--parquet": named.parquet is not None, "--shards": named.shards is not None,
        "--shapes": named.shapes is not None,
    }  # fmt: skip
    chosen = [name for name, there in given.items() if there]
    if len(chosen) != 1:
        said = f"{' and '.join(chosen)} exclude each other" if chosen else "no source was named"
        raise UsageError(f"{said}: give one of {', '.join(given)}")
    ways = {
        "--captions": named.captions is not None, "--annotations": named.annotations is not None,
        "--caption-from": named.caption_from is not None,
    }  # fmt: skip
    ways_given = [name for name, there in ways.items() if there]
    if len(ways_given) > 1:
        raise UsageError(f"{' and '.join(ways_given)} exclude each other: captions come from one place")
    for name in ways_given:
        if not pair and not (name == "--annotations" and named.coco is not None):
            raise UsageError(f"{name} goes with --images" + (" or --coco" if name == "--annotations" else ""))
    if named.metadata is not None and named.imagefolder is None:
        raise UsageError("--metadata goes with --imagefolder")
    if named.caption_template is not None and named.caption_from is None:
        raise UsageError("--caption-template goes with --caption-from")
    if named.caption_from not in (None, "folder", "name"):
        raise UsageError(f"--caption-from {named.caption_from!r:.40}: folder or name")


def parse_framing(fit: str, background: str, min_size: int, channels: str, aspect: str) -> "Framing":
    """Raises UsageError, one line."""
    from t2i.data.records import Framing
    from t2i.pixels import CHANNELS, PixelFormat, parse_aspect

    if channels not in CHANNELS:
        raise UsageError(f"--channels {channels!r:.40}: {', '.join(CHANNELS)}")
    try:
        form = PixelFormat(channels, parse_aspect(aspect))
    except ValueError:
        raise UsageError(f"--aspect {aspect!r:.40}: width to height, such as 3:2 or 9:16, up to 4:1") from None
    if form.transparent and background != "white":
        raise UsageError("--background lies under transparent images, which --channels rgba keeps transparent")
    if fit not in ("crop", "pad"):
        raise UsageError(f"--fit {fit!r:.40}: crop or pad")
    way: Literal["crop", "pad"] = "pad" if fit == "pad" else "crop"
    if min_size < 0:
        raise UsageError(f"--min-size {min_size}: pixels, not negative")
    return Framing(way, parse_colour(background), min_size, form)
