"""t2i prepare: captioned images in, a prepared data set out."""

import collections
import re
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from t2i.cli import console
from t2i.cli.sources import Named, find_sources, parse_framing
from t2i.data import DATA_ROOT
from t2i.errors import UsageError
from t2i.files import brief, shell_word
from t2i.signals import comes_twice, stop_signals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from t2i.data.prepare import PrepareOptions, Summary
    from t2i.data.records import Framing, Source
    from t2i.text.frozen import FrozenEncoder


def prepare(
    coco: Annotated[
        Path | None, Option(help="COCO's root: train2017/, annotations/captions_train2017.json.", show_default=False)
    ] = None,
    images: Annotated[
        Path | None,
        Option(help="A folder (or zip) of images, their captions beside them: x.txt for x.png.", show_default=False),
    ] = None,
    captions: Annotated[
        Path | None,
        Option(help="With --images, the folder of caption files, where it is another.", show_default=False),
    ] = None,
    annotations: Annotated[
        Path | None,
        Option(help="With --images, a list of captions: COCO's JSON, JSON, JSONL, CSV, TSV.", show_default=False),
    ] = None,
    caption_from: Annotated[
        str | None, Option(help="With --images, captions made of names: folder or name.", show_default=False)
    ] = None,
    caption_template: Annotated[
        str | None, Option(help="With --caption-from: 'a photo of a {}'.", show_default=False)
    ] = None,
    imagefolder: Annotated[
        Path | None, Option(help="A folder (or zip) with metadata.jsonl, .csv or .parquet.", show_default=False)
    ] = None,
    metadata: Annotated[
        Path | None, Option(help="With --imagefolder, the metadata file of another name.", show_default=False)
    ] = None,
    parquet: Annotated[
        str | None,
        Option(help="Parquet with the images inside: a glob, or hf://datasets/ORG/NAME.", show_default=False),
    ] = None,
    shards: Annotated[
        str | None, Option(help="img2dataset tars: a glob or a range, 'data/{00000..00012}.tar'.", show_default=False)
    ] = None,
    shapes: Annotated[
        int | None, Option(help="Draw so many images of coloured shapes (built in).", show_default=False)
    ] = None,
    split: Annotated[str, Option(help="Which part of the source: train, val.")] = "train",
    resolution: Annotated[
        int, Option(help="(Longer) side of the images, px: a power of two from 8 to 1024 (drawn shapes: 16 to 256).")
    ] = 64,
    fit: Annotated[str, Option(help="crop: the centre; pad: all of it, the background at its sides.")] = "crop",
    background: Annotated[
        str, Option(help="Under transparent parts, and at the sides: white, black, grey or #rrggbb.")
    ] = "white",
    channels: Annotated[
        str, Option(help="rgb; rgba: transparent images stay transparent; grey: shades of grey.")
    ] = "rgb",
    aspect: Annotated[str, Option(help="Width to height of the images, such as 3:2 or 9:16.")] = "1:1",
    min_size: Annotated[int, Option(help="Skip images whose shorter side has fewer pixels.")] = 0,
    follow_links: Annotated[
        bool, Option("--follow-links", help="Take linked files and folders outside of the source, too.")
    ] = False,
    text_encoder: Annotated[str, Option(help="minilm, a folder, or the name of a Hugging Face encoder.")] = "minilm",
    fraction: Annotated[float, Option(help="Take this share, the same every time.")] = 1.0,
    limit: Annotated[int | None, Option(help="Take the first so many.", show_default=False)] = None,
    val_fraction: Annotated[
        float | None,
        Option(help="Hold out this share as a second data set (0; for --shapes 0.1).", show_default=False),
    ] = None,
    workers: Annotated[int, Option(help="Decoding processes; 0: one a core.")] = 0,
    out: Annotated[
        Path | None, Option(help="Where to write (t2i-data/<source>-<split>-<px>).", show_default=False)
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a data set that is there.")] = False,
    shard: Annotated[
        str | None,
        Option(help="Of N machines this is number I: 2/4; a last call without it joins them.", show_default=False),
    ] = None,
    strict: Annotated[bool, Option("--strict", help="Stop at the first image that cannot be used.")] = False,
    max_skipped: Annotated[float, Option(help="Refuse where more than this share cannot be used.")] = 0.05,
    json: Annotated[bool, Option("--json", help="Report as JSON on stdout.")] = False,
) -> None:
    """Check, crop and resize captioned images and encode their captions, once.

    Name one source: --coco, --images (with --captions, --annotations or --caption-from), --imagefolder, --parquet,
    --shards or --shapes.
    What cannot be used is counted and listed in skipped.jsonl. Killed and run again, it goes on where it was. Several
    machines share the work with --shard 1/4, --shard 2/4, ... and the same --out.
    """
    from t2i.data.prepare import PrepareOptions
    from t2i.data.prepared import PreparedDataset
    from t2i.data.records import Framing

    _check(resolution, fraction, limit, val_fraction, workers, max_skipped)
    part_of = _parse_shard(shard)
    share = (0.1 if shapes else 0.0) if val_fraction is None else val_fraction
    framing = parse_framing(fit, background, min_size, channels, aspect)
    form = framing.form
    if shapes is not None and (framing != Framing(form=form) or follow_links):
        raise UsageError("--fit, --background, --min-size and --follow-links say nothing of drawn shapes")
    named = Named(
        coco=coco, images=images, captions=captions, annotations=annotations, caption_from=caption_from,
        caption_template=caption_template, imagefolder=imagefolder, metadata=metadata, parquet=parquet, shards=shards,
        shapes=shapes, split=split, follow_links=follow_links,
    ).at_home()  # fmt: skip
    out = out and out.expanduser()
    sources = find_sources(named, share, resolution, form)
    shape = "x".join(map(str, form.aspect))
    suffix = "".join(f"-{part}" for part in (channels, shape) if part not in ("rgb", "1x1"))
    suffix += (f"-f{fraction:g}" if fraction < 1 else "") + (f"-limit{limit}" if limit is not None else "")
    if part_of is None and text_encoder != "minilm":  # that one came with the installation, and torch takes a second
        from t2i.text.encoders import check_encoder

        check_encoder(text_encoder)
    groups = _near_duplicates(sources, share, framing, workers, quiet=json) if share and shapes is None else {}
    reports = []
    for source, part in sources:
        options = PrepareOptions(
            resolution=resolution, fraction=fraction, limit=limit, val_fraction=share, part=part,
            workers=workers, strict=strict, max_skipped=max_skipped, shard=part_of, framing=framing, groups=groups,
        )  # fmt: skip
        label = source.split if part == "all" else part
        if out is None:
            target = DATA_ROOT / f"{source.name}-{label}-{resolution}{suffix}"
        else:
            target = out.with_name(f"{out.name}-val") if len(sources) > 1 and label == "val" else out
        reports.append(_prepare_one(source, target, text_encoder, options, overwrite, quiet=json))
    if json:
        console.print_json(reports if len(reports) > 1 else reports[0])
    elif part_of is None:
        path, held_out = shell_word(str(reports[0]["path"])), PreparedDataset(str(reports[0]["path"])).held_out
        console.say(f"score a model on it: t2i evaluate MODEL {path}" if held_out else f"train on it: t2i train {path}")


def _near_duplicates(
    sources: "list[tuple[Source, str]]", share: float, framing: "Framing", workers: int, quiet: bool
) -> dict[str, str]:
    """Images that must stay in one part, since they show the same: key -> a key for each group. share: to hold out."""
    from t2i.data.near_duplicates import MOST, near_duplicate_groups

    if len(sources[0][0]) > MOST:
        if not quiet:
            console.say(f"near-duplicates are not looked for: more than {MOST:,} images; they may be in both parts")
        return {}
    with console.stages(quiet) as progress, _stoppable():
        groups = near_duplicate_groups(sources[0][0], workers, framing, progress)
    largest = max(collections.Counter(groups.values()).values(), default=0)
    if largest > (1 - share) * len(sources[0][0]):  # nothing would be left for the other part
        if not quiet:
            console.say(f"near-duplicates: {largest:,} images look alike, too many for one part; they may be in both")
        return {}
    if groups and not quiet:
        count = len(set(groups.values()))
        console.say(f"near-duplicates: {len(groups):,} images in {count:,} groups, each of which stays in one part")
    return groups


def _prepare_one(
    source: "Source", target: Path, text_encoder: str, options: "PrepareOptions", overwrite: bool, quiet: bool
) -> dict[str, object]:
    from t2i.data.prepare import prepare as run

    def load() -> "FrozenEncoder":
        from t2i.text.encoders import load_encoder

        return load_encoder(text_encoder, "auto", True)

    try:
        with console.stages(quiet) as progress, _stoppable():
            summary = run(source, target, load, options, progress, overwrite)
    except console.Stopped as stop:
        raise console.Stopped(stop.number, "the same command goes on where it was") from None
    if not quiet:
        _report(summary, options)
    report: dict[str, object] = {"path": str(target), "images": summary.images}
    if options.shard is None:
        report |= {
            "captions": summary.captions, "caption_uses": summary.caption_uses, "truncated": summary.truncated,
            "unknown": summary.unknown,
        }  # fmt: skip
    else:
        report |= {"shard": _shown(options.shard), "missing": _missing(summary, options.shard)}
    checks = {"checks": summary.checks} if summary.checks else {}
    return {**report, "skipped": dict(summary.skipped), "notes": [*summary.notes, *summary.remarks], **checks}


@contextmanager
def _stoppable() -> "Iterator[None]":
    """The first SIGINT, SIGTERM or SIGHUP ends the block at once, and orderly; a second one ends the process."""

    def stop(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN if comes_twice(each) else signal.SIG_DFL)
        caught.append(number)
        console.err.show_cursor()  # a bar hides it, and the second signal leaves no time
        raise console.Stopped(number)

    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may ask for signals
        yield
        return
    numbers = stop_signals()
    before = {number: signal.getsignal(number) for number in numbers}

    def listen() -> None:
        for number in numbers:
            signal.signal(number, stop)

    listen()
    try:
        with console.no_stop_is_lost(listen):
            yield
    finally:
        if not caught:
            for number, handler in before.items():
                signal.signal(number, handler)


def _report(summary: "Summary", options: "PrepareOptions") -> None:
    rows = {
        "images": f"{summary.images:,} at {options.framing.form.in_words(options.resolution)}"
        + (f" ({summary.resumed_at:,} from an earlier run)" if summary.resumed_at else ""),
    }
    if options.shard is None:
        rows["captions"] = f"{summary.caption_uses:,}, {summary.captions:,} different"
    if summary.truncated:
        rows["captions cut"] = f"{summary.truncated:,}, longer than the text encoder reads"
    if summary.unknown:
        rows["captions half read"] = (
            f"{summary.unknown:,} have words or signs that the text encoder does not know, which all read the same to "
            "it; give another --text-encoder, or train with --text-encoder transformer"
        )
    for reason, count in summary.skipped.most_common():
        rows[f"skipped: {reason}"] = f"{count:,}, {brief(summary.first_skipped[reason])} for one"
    if summary.notes:
        rows["note"] = "\n".join(summary.notes)
    if summary.remarks:
        rows["check"] = "\n".join(summary.remarks)
    if options.shard is None:
        console.table(f"prepared {summary.out}", rows)
        return
    if missing := _missing(summary, options.shard):
        rows["not done yet"] = ", ".join(f"--shard {part}" for part in missing)
    else:
        rows["next"] = "all parts are done: the same command without --shard joins them"
    console.table(f"prepared part {_shown(options.shard)} of {summary.out}", rows)


def _shown(shard: tuple[int, int]) -> str:
    return f"{shard[0]}/{shard[1]}"


def _missing(summary: "Summary", shard: tuple[int, int]) -> list[str]:
    return [_shown((number, shard[1])) for number in summary.missing]


def _parse_shard(text: str | None) -> tuple[int, int] | None:
    """ "2/4" -> (2, 4). Raises UsageError, one line."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text!r:.40}: write 2/4 for the second of four machines")
    return int(match[1]), int(match[2])


def _check(
    resolution: int, fraction: float, limit: int | None, val_fraction: float | None, workers: int, max_skipped: float
) -> None:
    if resolution < 8 or resolution > 1024 or resolution & (resolution - 1):
        raise UsageError(f"--resolution {resolution}: a power of two from 8 to 1024, such as 32, 64, 128 or 256")
    if not 0 < fraction <= 1:
        raise UsageError(f"--fraction {fraction:g}: must be above 0 and at most 1")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: must be at least 1")
    if val_fraction is not None and not 0 <= val_fraction < 1:
        raise UsageError(f"--val-fraction {val_fraction:g}: must be at least 0 and below 1")
    if workers < 0:
        raise UsageError(f"--workers {workers}: must not be negative")
    if not 0 <= max_skipped <= 1:
        raise UsageError(f"--max-skipped {max_skipped:g}: a share from 0 to 1")
