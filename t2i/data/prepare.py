"""From a source of captioned pictures to a prepared data set on disk.

Stages: decode the pictures shard by shard in worker processes; index the captions; encode them chunk by chunk;
finish. All is written in `<out>.partial`, which takes the name `<out>` at the end: a data set is whole or absent.
Killed anywhere and run again, it goes on after the last finished shard or chunk, and the bytes are the same.
"""

import collections
import functools
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from t2i.data.arrays import json_line, save_array
from t2i.data.captions import Encoder, encode_captions, index_captions
from t2i.data.decoding import TASK, decode, decoders
from t2i.data.prepared import FORMAT, PreparedDataset
from t2i.data.records import Record, Skip, Source
from t2i.errors import UserError
from t2i.files import atomic_write, describe_os_error, make_folder, read_json, sync_folder, write_json

PREVIEW = 32  # pictures on the contact sheet


Progress = Callable[[str, int, int | None], None]  # stage, done, total (None: not known)


@dataclass(frozen=True)
class PrepareOptions:
    """resolution in px; fraction and val_fraction in [0, 1]; max_skipped: refuse above this share; part: which side
    of the train/validation split to keep ("all" where there is none)."""

    resolution: int = 64
    fraction: float = 1.0
    limit: int | None = None
    val_fraction: float = 0.0
    part: str = "all"
    workers: int = 0
    strict: bool = False
    max_skipped: float = 0.05


@dataclass
class Summary:
    """What prepare did. skipped: reason -> count; first_skipped: reason -> one file, for the reader."""

    out: Path
    pictures: int = 0
    captions: int = 0
    caption_uses: int = 0
    truncated: int = 0
    skipped: collections.Counter = field(default_factory=collections.Counter)
    first_skipped: dict[str, str] = field(default_factory=dict)
    resumed_at: int = 0
    notes: list[str] = field(default_factory=list)


def prepare(
    source: Source,
    out: Path | str,
    encoder: Encoder | Callable[[], Encoder],
    options: PrepareOptions,
    progress: Progress = lambda stage, done, total: None,
) -> Summary:
    """Write the data set `out` from `source`. Raises UserError, one line, and leaves no half-written `out`.

    encoder: an Encoder, or a function that loads one when the pictures are done.
    """
    out = Path(out)
    partial = out.with_name(out.name + ".partial")
    try:
        return _prepare(source, out, partial, encoder, options, progress)
    except OSError as error:
        raise describe_os_error(error, error.filename or partial) from error


def _prepare(
    source: Source,
    out: Path,
    partial: Path,
    encoder: Encoder | Callable[[], Encoder],
    options: PrepareOptions,
    progress: Progress,
) -> Summary:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} is there already; remove it, or choose another place")
    plan = {
        "format": FORMAT,
        "name": source.name,
        "split": source.split if options.part == "all" else options.part,
        "source": source.describe(),
        "resolution": options.resolution,
        "fraction": options.fraction,
        "limit": options.limit,
        "val_fraction": options.val_fraction,
    }
    plan = json.loads(json.dumps(plan))
    summary = Summary(out)
    make_folder(partial)
    for stray in partial.glob(".*.tmp"):  # killed while it wrote a file
        stray.unlink()
    if _is_finished(partial, plan):
        encoder = encoder() if not hasattr(encoder, "encode") else encoder
        if _take_finished(partial, encoder, summary):
            _check_skipped(summary, options, partial)
            _publish(partial, out)
            return summary
    if not (partial / "plan.json").is_file() or read_json(partial / "plan.json") != plan:
        shutil.rmtree(partial)
        make_folder(partial)
        write_json(partial / "plan.json", plan)

    shards = _write_pictures(source, partial, options, summary, progress)
    _check_skipped(summary, options, partial)
    summary.captions, summary.caption_uses = index_captions(partial, len(shards))
    encoder = encoder() if not hasattr(encoder, "encode") else encoder
    text = encode_captions(
        partial, encoder, summary.captions, lambda done: progress("captions", done, summary.captions)
    )
    summary.truncated = text["truncated"]
    summary.notes += source.notes
    _finish(partial, out, plan, shards, text, summary)
    return summary


def shard_entries(resolution: int) -> int:
    """Source entries per shard: a power of two that keeps a shard's pictures within 64 MiB (4,096 at 64 px).

    No more than 16,384: the records of a shard are in memory too.
    """
    return min(16_384, max(64, 1 << ((64 * 2**20) // (3 * resolution**2)).bit_length() - 1))


# ---- pictures -------------------------------------------------------------------------------------------------


def _write_pictures(
    source: Source, partial: Path, options: PrepareOptions, summary: Summary, progress: Progress
) -> list[dict[str, Any]]:
    """Decode every selected entry; returns what shard-*.json say: pictures, entries, sha256, skipped."""
    entries, total = _select(source, options)
    size = shard_entries(options.resolution)
    shards: list[dict[str, Any]] = []
    while (done := partial / f"shard-{len(shards):05d}.json").is_file():
        shards.append(read_json(done))
    summary.resumed_at = sum(shard["pictures"] for shard in shards)
    seen = sum(shard["entries"] for shard in shards)
    entries = itertools.islice(entries, seen, None)

    with decoders(options.workers) as pool:
        results = decode(pool, entries, options.resolution, options.workers)
        while True:
            tick = functools.partial(_tick, progress, "pictures", seen, total)
            tick(0)
            shard = _write_shard(results, partial, len(shards), size, options, tick)
            if shard["entries"] == 0:
                break
            shards.append(shard)
            seen += shard["entries"]
    for shard in shards:
        summary.pictures += shard["pictures"]
        summary.skipped.update(shard["skipped"])
        summary.first_skipped = {**shard["first_skipped"], **summary.first_skipped}
    return shards


def _tick(progress: Progress, stage: str, before: int, total: int, done: int) -> None:
    progress(stage, before + done, total)


def _write_shard(
    results: Iterator[tuple[Record | Skip, np.ndarray | None]],
    partial: Path,
    number: int,
    size: int,
    options: PrepareOptions,
    tick: Callable[[int], None],
) -> dict[str, Any]:
    images = np.empty((size, options.resolution, options.resolution, 3), np.uint8)
    records, skips, entries = [], [], 0
    for entry, image in itertools.islice(results, size):
        entries += 1
        if isinstance(entry, Skip):
            skips.append(entry)
            if options.strict:
                raise UserError(f"{entry.key}: {entry.reason}{': ' * bool(entry.detail)}{entry.detail} (--strict)")
        else:
            images[len(records)] = image
            records.append(entry)
        if entries % TASK == 0:
            tick(entries)
    if entries == 0:
        return {"entries": 0}
    images = images[: len(records)]
    digest = hashlib.sha256(images.reshape(-1))
    save_array(partial / f"images-{number:05d}.npy", images)
    with atomic_write(partial / f"records-{number:05d}.jsonl") as stream:
        for record in records:
            line = {"key": record.key, "captions": list(record.captions)}
            if record.attributes is not None:
                line["attributes"] = record.attributes
            stream.write(text := json_line(line))
            digest.update(text)
    with atomic_write(partial / f"skipped-{number:05d}.jsonl") as stream:
        for skip in skips:
            line = {"file": skip.key, "reason": skip.reason}
            stream.write(json_line({**line, "detail": skip.detail} if skip.detail else line))
    shard = {
        "entries": entries,
        "pictures": len(records),
        "sha256": digest.hexdigest(),
        "skipped": dict(collections.Counter(skip.reason for skip in skips)),
        "first_skipped": {skip.reason: skip.key for skip in reversed(skips)},
    }
    write_json(partial / f"shard-{number:05d}.json", shard)  # last: it says that the shard is whole
    return shard


def _select(source: Source, options: PrepareOptions) -> tuple[Iterable[Record | Skip], int]:
    """The entries to prepare, and how many. Exact shares by the rank of a hash of each key: the same on every run."""
    total = len(source)
    entries: Iterable[Record | Skip] = iter(source)
    if options.part != "all" or options.fraction < 1:
        order = np.fromiter((_key_hash(entry.key) for entry in source), np.uint64)
        mine = np.ones(len(order), bool)
        if options.part != "all":
            # Both sides get something where there are two entries.
            held_out = min(max(1, round(len(order) * options.val_fraction)), max(1, len(order) - 1))
            border = np.sort(order)[:held_out].max(initial=0)
            mine = order <= border if options.part == "val" else order > border
        if options.fraction < 1 and mine.any():
            # From the far end, so that a fraction of the training part does not depend on the validation share.
            keep = max(1, round(int(mine.sum()) * options.fraction))
            mine &= order >= np.sort(order[mine])[-keep]
        entries, total = (entry for entry, keep in zip(entries, mine) if keep), int(mine.sum())
    if options.limit is not None and options.limit < total:
        entries, total = itertools.islice(entries, options.limit), options.limit
    return entries, total


def _key_hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _check_skipped(summary: Summary, options: PrepareOptions, partial: Path) -> None:
    skipped = summary.skipped.total()
    entries = summary.pictures + skipped
    worst = summary.skipped.most_common(3)
    reasons = ", ".join(f"{count} {reason} ({summary.first_skipped[reason]})" for reason, count in worst)
    if summary.pictures == 0 or skipped > options.max_skipped * entries:
        shutil.rmtree(partial, ignore_errors=True)  # nothing of it can be used: the next run shall read all again
        if summary.pictures == 0:
            raise UserError(f"no usable picture among {entries} entries: {reasons or 'the source is empty'}")
        raise UserError(
            f"{skipped} of {entries} entries cannot be used ({skipped / entries:.0%}, above --max-skipped "
            f"{options.max_skipped:g}): {reasons}"
        )


# ---- the end --------------------------------------------------------------------------------------------------


def _finish(
    partial: Path,
    out: Path,
    plan: dict[str, Any],
    shards: list[dict[str, Any]],
    text: dict[str, Any],
    summary: Summary,
) -> None:
    with atomic_write(partial / "skipped.jsonl") as stream:
        for number in range(len(shards)):
            stream.write((partial / f"skipped-{number:05d}.jsonl").read_bytes())
    facts = {
        **plan,
        "pictures": summary.pictures,
        "captions": summary.captions,
        "caption_uses": summary.caption_uses,
        "skipped": dict(sorted(summary.skipped.items())),
        "text": text,
        "shards": [{"pictures": shard["pictures"], "sha256": shard["sha256"]} for shard in shards],
    }
    identity = [facts["resolution"], facts["shards"], text["sha256"], text["max_tokens"]]
    facts["fingerprint"] = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    write_json(partial / "dataset.json", facts)
    _draw_preview(PreparedDataset(partial))
    _publish(partial, out)


def _publish(partial: Path, out: Path) -> None:
    """Remove what only a killed run needs, and give the folder its name. Killed in here, it is done again."""
    for pattern in ("plan.json", "text.json", "shard-*.json", "chunk-*.json", "skipped-*.jsonl"):
        for path in partial.glob(pattern):
            path.unlink()
    sync_folder(partial)
    os.rename(partial, out)
    sync_folder(out.parent)


def _is_finished(partial: Path, plan: dict[str, Any]) -> bool:
    """Whether a run with this plan was killed when the data set was whole (the preview comes last)."""
    if not ((partial / "dataset.json").is_file() and (partial / "preview.png").is_file()):
        return False
    facts = read_json(partial / "dataset.json")
    return all(facts.get(name) == value for name, value in plan.items())


def _take_finished(partial: Path, encoder: Encoder, summary: Summary) -> bool:
    """Fill the summary from a whole data set; False where its captions were encoded by another encoder."""
    facts = PreparedDataset(partial).info
    text = facts["text"]
    if any(text.get(name) != value for name, value in encoder.describe().items()):
        return False
    summary.pictures = summary.resumed_at = facts["pictures"]
    summary.captions, summary.caption_uses = facts["captions"], facts["caption_uses"]
    summary.truncated = text["truncated"]
    summary.skipped.update(facts["skipped"])
    with open(partial / "skipped.jsonl", "rb") as stream:
        for skip in map(json.loads, stream):
            summary.first_skipped.setdefault(skip["reason"], skip["file"])
    return True


def _draw_preview(dataset: PreparedDataset) -> None:
    from t2i.grids import captioned_grid, save_png

    indices = np.unique(np.linspace(0, len(dataset) - 1, PREVIEW).astype(np.int64))
    captions = [dataset.caption(int(dataset.caption_ids(int(i))[0])) for i in indices]
    save_png(captioned_grid(list(dataset.images(indices)), captions, columns=8), dataset.path / "preview.png")
