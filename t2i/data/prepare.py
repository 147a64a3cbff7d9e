"""From a source of captioned images to a prepared data set on disk.

Stages: decode the images shard by shard in worker processes; index the captions; encode them chunk by chunk;
finish. All is written in `<out>.partial`, which takes the name `<out>` at the end: a data set is whole or absent.
Killed anywhere and run again, it goes on after the last finished shard or chunk, and the bytes are the same.

Several machines can share the images: each call with `shard=(2, 4)` writes its part of the shards into the same
`<out>.partial`, and a call without `shard` finds them all there and does the rest. `share-00002-of-00004.json` says
that the part was begun, and whether it is done.
"""

import collections
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from t2i.data.captions import Encoder, encode_captions, index_captions
from t2i.data.image_checks import common_caption, remarks, sum_up
from t2i.data.image_shards import PrepareOptions, Progress, all_digests, write_images
from t2i.data.prepared import FORMAT, PreparedDataset, find_datasets
from t2i.data.records import Source
from t2i.data.shares import check_plan, check_shares, list_shares, shares_missing
from t2i.errors import UserError
from t2i.files import atomic_write, brief, describe_os_error, make_folder, read_json, sweep, sync_folder, write_json
from t2i.locks import lock

__all__ = ["PrepareOptions", "Progress", "Summary", "prepare"]

PREVIEW = 32  # images on the contact sheet


@dataclass
class Summary:
    """What prepare did. skipped: reason -> count; first_skipped: reason -> one file, for the reader.

    missing: of a call with `shard`, the parts that are not done yet; the data set is still to be joined. checks: shares
    of the images that something may be wrong with (image_checks.py); remarks: what to say of them, a line each.
    """

    out: Path
    images: int = 0
    captions: int = 0
    caption_uses: int = 0
    truncated: int = 0
    unknown: int = 0
    skipped: collections.Counter = field(default_factory=collections.Counter)
    first_skipped: dict[str, str] = field(default_factory=dict)
    resumed_at: int = 0
    notes: list[str] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    checks: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def take(self, shards: list[dict[str, Any]]) -> None:
        """Add up what shard-*.json say."""
        for shard in shards:
            self.images += shard["pictures"]
            self.skipped.update(shard["skipped"])
            self.first_skipped = {**shard["first_skipped"], **self.first_skipped}


def prepare(
    source: Source,
    out: Path | str,
    encoder: Encoder | Callable[[], Encoder],
    options: PrepareOptions,
    progress: Progress = lambda stage, done, total: None,
    overwrite: bool = False,
) -> Summary:
    """Write the data set `out` from `source`. Raises UserError, one line, and leaves no half-written `out`.

    encoder: an Encoder, or a function that loads one when the images are done. overwrite: replace a data set that
    is there when the new one is whole.
    """
    try:
        out = _place(Path(out))
        partial = out.with_name(out.name + ".partial")
        with _alone(out, options.shard):
            _restore(out)
            _check_free(out, overwrite)
            if options.shard:
                return _prepare_share(source, out, partial, options, options.shard, progress)
            return _prepare(source, out, partial, encoder, options, progress)
    except BrokenPipeError:  # it is the reader of `progress` who left
        raise
    except OSError as error:
        raise describe_os_error(error, error.filename or out) from error


def _place(out: Path) -> Path:
    """Where a data set called `out` will lie: where a link leads, its folder is replaced and not the link.

    Raises UserError for the folder that this process stands in: it would be taken from under it.
    """
    if out.exists() and os.path.samefile(out, os.curdir):
        raise UserError(f"--out {out}: this is the current folder: name another --out, which is made or replaced whole")
    return Path(os.path.realpath(out)) if out.is_symlink() or out.name in ("", "..") else out


@contextlib.contextmanager
def _alone(out: Path, shard: tuple[int, int] | None) -> Iterator[None]:
    """One process at a time prepares `out`, or one for each part of it."""
    with lock(out, "t2i prepare", shared=shard is not None):
        if shard is None:
            yield
            return
        with lock(out.with_name(f"{out.name}.shard-{shard[0]}-of-{shard[1]}"), "t2i prepare"):
            yield


def _check_free(out: Path, overwrite: bool) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        if not (out / "dataset.json").is_file():
            raise UserError(f"{out} is there, and no prepared data set: not replaced; choose another --out")
        if not overwrite:
            raise UserError(f"{out} is there already; train on it, replace it with --overwrite, or choose --out")


def _prepare(
    source: Source,
    out: Path,
    partial: Path,
    encoder: Encoder | Callable[[], Encoder],
    options: PrepareOptions,
    progress: Progress,
) -> Summary:
    plan = _plan(source, options)
    summary = Summary(out)
    make_folder(partial)
    sweep(partial)  # killed while it wrote a file
    if _is_finished(partial, plan, source, options):
        encoder = encoder if isinstance(encoder, Encoder) else encoder()
        if _take_finished(partial, encoder, summary):
            _check_skipped(summary, options, partial, source)
            _remark(summary, options)
            _publish(partial, out)
            return summary
    if (partial / "dataset.json").is_file():
        (partial / "dataset.json").unlink()  # of what the source was, it must not outlive a kill from here on
    joining = check_shares(partial, plan)
    if not (partial / "plan.json").is_file() or read_json(partial / "plan.json") != plan:
        shutil.rmtree(partial)
        make_folder(partial)
        write_json(partial / "plan.json", plan)

    shards, summary.resumed_at = write_images(source, partial, options, progress, joining)
    summary.take(shards)
    _list_skipped(partial, len(shards))
    _check_skipped(summary, options, partial, source, keep=joining)
    summary.captions, summary.caption_uses = index_captions(partial, len(shards))
    if shares := sum_up(partial, range(len(shards))):
        summary.checks = {**shares, "common_caption": common_caption(partial)}
    _remark(summary, options)
    encoder = encoder if isinstance(encoder, Encoder) else encoder()
    text = encode_captions(
        partial, encoder, summary.captions, lambda done: progress("captions", done, summary.captions)
    )
    summary.truncated, summary.unknown = text["truncated"], text["unknown"]
    summary.notes += source.notes
    _finish(partial, out, plan, shards, text, summary)
    return summary


def _plan(source: Source, options: PrepareOptions) -> dict[str, Any]:
    """What decides the bytes of the data set, but for the text encoder."""
    plan = {
        "format": FORMAT,
        "name": source.name,
        "split": source.split if options.part == "all" else options.part,
        "source": source.describe(),
        "resolution": options.resolution,
        "fraction": options.fraction,
        "limit": options.limit,
        "val_fraction": options.val_fraction,
        **({"framing": framing} if (framing := options.framing.describe()) else {}),
    }
    return json.loads(json.dumps(plan))


def _prepare_share(
    source: Source, out: Path, partial: Path, options: PrepareOptions, shard: tuple[int, int], progress: Progress
) -> Summary:
    """Write one part of the images. Others may be at work in `partial`: only this part's files are touched."""
    plan = _plan(source, options)
    summary = Summary(out)
    number, of = shard
    make_folder(partial)
    if (partial / "dataset.json").is_file():
        raise UserError(f"{partial}: the parts are being joined; run the same command without --shard to go on")
    begun = list_shares(partial)
    if any(other != of for _, other in begun):
        other = next(other for _, other in begun if other != of)
        raise UserError(f"{partial} was begun with --shard I/{other}; go on with that, or remove the folder")
    if not (partial / "plan.json").is_file():
        write_json(partial / "plan.json", plan)  # by whoever comes first: they all write the same
    check_plan(partial, plan)
    mark = partial / f"share-{number:05d}-of-{of:05d}.json"
    write_json(mark, {"done": False})
    shards, summary.resumed_at = write_images(source, partial, options, progress)
    summary.take(shards)
    write_json(mark, {"done": True})
    summary.missing = shares_missing(partial, of)
    summary.notes += source.notes
    return summary


# ---- the end --------------------------------------------------------------------------------------------------


def _list_skipped(partial: Path, shards: int) -> None:
    with atomic_write(partial / "skipped.jsonl") as stream:
        for number in range(shards):
            stream.write((partial / f"skipped-{number:05d}.jsonl").read_bytes())


def _check_skipped(
    summary: Summary, options: PrepareOptions, partial: Path, source: Source, keep: bool = False
) -> None:
    """Raises UserError where too much was left out: the images stay, for a call with another --max-skipped.

    keep: so does what other machines wrote, where it holds no image.
    """
    skipped = summary.skipped.total()
    entries = summary.images + skipped
    if summary.images and skipped <= options.max_skipped * entries:
        return
    worst = summary.skipped.most_common(3)
    reasons = ", ".join(f"{count} {reason} ({brief(summary.first_skipped[reason])})" for reason, count in worst)
    if others := skipped - sum(count for _, count in worst):
        reasons += f", and {others} other{'s' if others > 1 else ''}"
    if summary.images:
        raise UserError(
            f"{skipped} of {entries} entries cannot be used ({skipped / entries:.0%}, above --max-skipped "
            f"{options.max_skipped:g}): {reasons}; all are listed in {partial / 'skipped.jsonl'}"
        )
    if not keep:
        shutil.rmtree(partial, ignore_errors=True)  # nothing of it can be used: the next run shall read all again
    if not entries and (total := len(source)):
        other = "train" if options.part == "val" else "val"
        raise UserError(
            f"nothing is left for the {options.part} part: --val-fraction {options.val_fraction:g} of "
            f"{_entries(total)} leaves all to {other}"
        )
    raise UserError(f"no usable image among {_entries(entries)}: {reasons or 'the source is empty'}")


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


def _finish(
    partial: Path,
    out: Path,
    plan: dict[str, Any],
    shards: list[dict[str, Any]],
    text: dict[str, Any],
    summary: Summary,
) -> None:
    facts = {
        **plan,
        "pictures": summary.images,
        "captions": summary.captions,
        "caption_uses": summary.caption_uses,
        "skipped": dict(sorted(summary.skipped.items())),
        **({"checks": summary.checks} if summary.checks else {}),
        "text": text,
        "shards": [{name: shard[name] for name in ("pictures", "sha256", "entries_sha256")} for shard in shards],
    }
    content = [{"pictures": shard["pictures"], "sha256": shard["sha256"]} for shard in shards]
    identity = [facts["resolution"], content, text["sha256"], text["max_tokens"]]
    facts["fingerprint"] = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    write_json(partial / "dataset.json", facts)
    _draw_preview(PreparedDataset(partial))
    _publish(partial, out)


def _publish(partial: Path, out: Path) -> None:
    """Remove what only a killed run needs, and give the folder its name. Killed in here, it is done again."""
    for pattern in (
        "share-*.json", "chunk-*.json", "skipped-*.jsonl", "checks-*.npy", "text.json", "shard-*.json", "plan.json",
    ):  # fmt: skip
        for path in partial.glob(pattern):
            path.unlink()
    _make_newest(partial)
    sync_folder(partial)
    old = _replaced(out)
    if out.is_dir():  # an empty folder too: Windows renames onto none
        os.rename(out, old)
    os.rename(partial, out)
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _replaced(out: Path) -> Path:
    """Where a data set is while its successor takes its name."""
    return out.with_name(f".{out.name}.old")


def _restore(out: Path) -> None:
    """Killed between two renames, the replaced data set gets its name back; after them, it goes."""
    if not (old := _replaced(out)).is_dir():
        return
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):  # another part's process was faster
            os.rename(old, out)


def _make_newest(partial: Path) -> None:
    """Training takes the newest data set, by the time of its description: newer than its neighbours, clock or no."""
    description = partial / "dataset.json"
    newest = max(((path / "dataset.json").stat().st_mtime_ns for path in find_datasets(partial.parent)), default=0)
    if newest >= description.stat().st_mtime_ns:  # the clock went backwards
        os.utime(description, ns=(newest + 10**9, newest + 10**9))


def _is_finished(partial: Path, plan: dict[str, Any], source: Source, options: PrepareOptions) -> bool:
    """Whether a run with this plan and these entries was killed when the data set was whole (the preview is last)."""
    if not ((partial / "dataset.json").is_file() and (partial / "preview.png").is_file()):
        return False
    facts = read_json(partial / "dataset.json")
    if options.strict and facts.get("skipped"):
        return False
    if any(facts.get(name) != value for name, value in plan.items()):
        return False
    now = all_digests(source, options)
    if [shard.get("entries_sha256") for shard in facts["shards"]] != [digests["entries_sha256"] for digests in now]:
        return False
    for number, digests in enumerate(now):  # the times are in what _publish removes
        description = partial / f"shard-{number:05d}.json"
        if description.is_file() and read_json(description).get("times_sha256") != digests["times_sha256"]:
            return False
    return True


def _take_finished(partial: Path, encoder: Encoder, summary: Summary) -> bool:
    """Fill the summary from a whole data set; False where its captions were encoded by another encoder."""
    facts = PreparedDataset(partial).info
    text = facts["text"]
    if any(text.get(name) != value for name, value in encoder.describe().items()):
        return False
    summary.images = summary.resumed_at = facts["pictures"]
    summary.captions, summary.caption_uses = facts["captions"], facts["caption_uses"]
    summary.truncated, summary.unknown = text["truncated"], text.get("unknown", 0)
    summary.skipped.update(facts["skipped"])
    summary.checks = facts.get("checks", {})
    with open(partial / "skipped.jsonl", "rb") as stream:
        for skip in map(json.loads, stream):
            summary.first_skipped.setdefault(skip["reason"], skip["file"])
    return True


def _remark(summary: Summary, options: PrepareOptions) -> None:
    summary.remarks = remarks(summary.checks, summary.images, options.resolution, options.framing)


def _draw_preview(dataset: PreparedDataset) -> None:
    import torch

    from t2i.grids import captioned_grid
    from t2i.image_files import save_image
    from t2i.pixels import shown

    indices = np.unique(np.linspace(0, len(dataset) - 1, PREVIEW).astype(np.int64))
    captions = [dataset.caption(int(dataset.caption_ids(int(i))[0])) for i in indices]
    images = shown(torch.from_numpy(dataset.images(indices)), dataset.form).numpy()
    save_image(captioned_grid(list(images), captions, columns=8), dataset.path / "preview.png")
