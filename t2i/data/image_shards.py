"""The images of a data set that is being prepared: decoded shard by shard, by one process or by several.

Shard k holds a fixed run of the source's entries, so any process can write any shard, and the bytes are the same.
Each shard's description holds digests of the entries it was made from: a shard is done again where the source has
changed since, and shards of machines that see different sources are never mixed.
"""

import collections
import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from t2i.data.arrays import json_line, save_array
from t2i.data.decoding import TASK, Decoded, Decoders, decode
from t2i.data.image_checks import check_image, save_checks
from t2i.data.records import PLAIN, Framing, Record, Skip, Source
from t2i.errors import UserError
from t2i.files import atomic_write, brief, read_json, write_json

RETRIED = ("unreadable file", "out of memory")  # the machine's fault, not the image's: it may be gone

Progress = Callable[[str, int, int | None], None]  # stage, done, total (None: not known)


@dataclass(frozen=True)
class PrepareOptions:
    """resolution in px; fraction and val_fraction in [0, 1]; max_skipped: refuse above this share; part: which side
    of the train/validation split to keep ("all" where there is none); shard: (2, 4) writes the second of four parts
    of the images, for another call without `shard` to join; framing: how images become squares; groups: keys of
    near-duplicates, with one key for each group of them, which stays in one part (near_duplicates.py)."""

    resolution: int = 64
    fraction: float = 1.0
    limit: int | None = None
    val_fraction: float = 0.0
    part: str = "all"
    workers: int = 0
    strict: bool = False
    max_skipped: float = 0.05
    shard: tuple[int, int] | None = None
    framing: Framing = PLAIN
    groups: Mapping[str, str] = field(default_factory=dict)


def shard_entries(resolution: int) -> int:
    """Source entries per shard: a power of two that keeps a shard's images within 64 MiB (4,096 at 64 px).

    No more than 16,384: the records of a shard are in memory too.
    """
    return min(16_384, max(64, 1 << ((64 * 2**20) // (3 * resolution**2)).bit_length() - 1))


def write_images(
    source: Source, partial: Path, options: PrepareOptions, progress: Progress, joining: bool = False
) -> tuple[list[dict[str, Any]], int]:
    """Decode every selected entry whose shard is not there yet; of `options.shard` (2, 4), every fourth shard.

    joining: all shards must be there. Returns what shard-*.json say (images, entries, sha256, skipped, ...), in
    order, and how many of those images an earlier run had written. Raises UserError.
    """
    entries, total = select(source, options)
    size = shard_entries(options.resolution)
    first, step = (options.shard[0] - 1, options.shard[1]) if options.shard else (0, 1)
    total = sum(min(size, total - start) for start in range(first * size, total, step * size))
    finished: dict[int, dict[str, Any]] = {}
    waiting: collections.deque[tuple[int, int, dict[str, str]]] = collections.deque()  # number, entries, digests
    count = earlier = 0

    def to_decode() -> Iterator[Record | Skip]:
        nonlocal count, earlier
        iterator = iter(entries)
        while block := list(itertools.islice(iterator, size)):
            number, count = count, count + 1
            if number % step != first:
                continue
            made_of = _digests(block)
            shard = _finished(partial, number, made_of, joining)
            if shard and joining and options.strict and shard["skipped"]:
                reason, file = next(iter(shard["first_skipped"].items()))
                raise UserError(f"{brief(file)}: {reason} (--strict)")
            if shard and not (options.strict and shard["skipped"]):
                finished[number] = shard
                earlier += shard["pictures"]
            elif joining:
                raise UserError(_differs(partial, number))
            else:
                waiting.append((number, len(block), made_of))
                yield from block

    def tick(before: int, done: int) -> None:
        progress("images", before + done, total)

    tick(0, 0)
    with Decoders(options.workers) as pool:
        results = decode(pool, to_decode(), options.resolution, options.framing)
        while (head := next(results, None)) is not None:
            number, length, made_of = waiting.popleft()
            block = itertools.chain([head], itertools.islice(results, length - 1))
            before = sum(shard["entries"] for shard in finished.values())
            finished[number] = _write_shard(
                block, partial, number, length, made_of, options, functools.partial(tick, before)
            )
            tick(before, length)
    tick(total, 0)
    _remove_beyond(partial, count, joining, first, step)
    return [finished[number] for number in sorted(finished)], earlier


def _finished(partial: Path, number: int, made_of: dict[str, str], joining: bool) -> dict[str, Any] | None:
    """The description of a shard that is whole and was made of these very entries, all of which could be read.

    joining: the times of files may differ, as those of another machine's copy do, and what it is is what it stays.
    """
    path = partial / f"shard-{number:05d}.json"
    if not path.is_file() or not (partial / f"checks-{number:05d}.npy").is_file():
        return None
    shard = read_json(path)
    same = all(shard.get(name) == made_of[name] for name in made_of if not (joining and name == "times_sha256"))
    return shard if same and (joining or not any(reason in shard["skipped"] for reason in RETRIED)) else None


def all_digests(source: Source, options: PrepareOptions) -> list[dict[str, str]]:
    """What each shard would be made of now, as their descriptions say it; nothing is decoded."""
    entries, _ = select(source, options)
    iterator = iter(entries)
    size = shard_entries(options.resolution)
    return [_digests(block) for block in iter(lambda: list(itertools.islice(iterator, size)), [])]


def _differs(partial: Path, number: int) -> str:
    return (
        f"{partial}: shard {number} was prepared from other files or captions than this source has now, or by "
        "an older t2i; run the parts again where they see the same source, with the same --shard, and then this"
    )


def _remove_beyond(partial: Path, count: int, joining: bool, first: int, step: int) -> None:
    """Shards that the source, shorter now, no longer fills; only those of this part, where there are several."""
    names = re.compile(r"(shard|images|checks|records|skipped)-(\d+)\.\w+")
    for path in sorted(partial.iterdir(), key=lambda path: path.name, reverse=True):  # the description goes first
        if (match := names.fullmatch(path.name)) and int(match[2]) >= count and int(match[2]) % step == first:
            if joining:
                raise UserError(_differs(partial, int(match[2])))
            path.unlink()


def _digests(block: list[Record | Skip]) -> dict[str, str]:
    """What a shard is made of: the names, captions and sizes of its entries, or what is missing; and their times."""
    entries, times = hashlib.sha256(), hashlib.sha256()
    for entry in block:
        if isinstance(entry, Record):
            size, changed = entry.image.stamp()
            entries.update(json_line([entry.key, entry.captions, size]))
            times.update(b"%d " % changed)
        else:
            entries.update(json_line([entry.key, entry.reason]))
    return {"entries_sha256": entries.hexdigest(), "times_sha256": times.hexdigest()}


def _write_shard(
    results: Iterable[tuple[Record | Skip, Decoded | None]],
    partial: Path,
    number: int,
    length: int,
    made_of: dict[str, str],
    options: PrepareOptions,
    tick: Callable[[int], None],
) -> dict[str, Any]:
    images = np.empty((length, options.resolution, options.resolution, options.framing.form.count), np.uint8)
    records: list[Record] = []
    skips: list[Skip] = []
    checks: list[tuple[int, bool, bool, bool, bool]] = []
    for done, (entry, decoded) in enumerate(results):
        if done % TASK == 0:
            tick(done)
        if isinstance(entry, Skip):
            skips.append(entry)
            if options.strict:
                detail = f": {brief(entry.detail, 200)}" if entry.detail else ""
                raise UserError(f"{brief(entry.key)}: {entry.reason}{detail} (--strict)")
        else:
            assert decoded is not None
            images[len(records)] = decoded.pixels
            checks.append(check_image(decoded, options.resolution, options.framing.form))
            records.append(entry)
    assert len(records) + len(skips) == length
    description = partial / f"shard-{number:05d}.json"
    description.unlink(missing_ok=True)  # of other images, it must not outlive a kill between the next lines
    images = images[: len(records)]
    content = hashlib.sha256(images.reshape(-1).data)
    save_array(partial / f"images-{number:05d}.npy", images)
    save_checks(partial / f"checks-{number:05d}.npy", checks)
    with atomic_write(partial / f"records-{number:05d}.jsonl") as stream:
        for record in records:
            line: dict[str, Any] = {"key": record.key, "captions": list(record.captions)}
            if record.attributes is not None:
                line["attributes"] = record.attributes
            stream.write(text := json_line(line))
            content.update(text)
    with atomic_write(partial / f"skipped-{number:05d}.jsonl") as stream:
        for skip in skips:
            line = {"file": skip.key, "reason": skip.reason}
            stream.write(json_line({**line, "detail": skip.detail} if skip.detail else line))
    shard = {
        "entries": length,
        **made_of,
        "pictures": len(records),
        "sha256": content.hexdigest(),
        "skipped": dict(collections.Counter(skip.reason for skip in skips)),
        "first_skipped": {skip.reason: skip.key for skip in reversed(skips)},
    }
    write_json(description, shard)  # last: it says that the shard is whole
    return shard


def select(source: Source, options: PrepareOptions) -> tuple[Iterable[Record | Skip], int]:
    """The entries to prepare, and how many. Exact shares by the rank of a hash of each key: the same on every run."""
    total = len(source)
    entries: Iterable[Record | Skip] = iter(source)
    if options.part != "all" or options.fraction < 1:
        order = np.fromiter((_key_hash(entry.key) for entry in source), np.uint64)
        mine = np.ones(len(order), bool)
        if options.part != "all":
            # Both sides get something where there are two entries.
            held_out = min(max(1, round(len(order) * options.val_fraction)), max(1, len(order) - 1))
            groups = options.groups
            places = np.fromiter((_key_hash(groups.get(entry.key, entry.key)) for entry in source), np.uint64)
            border = np.sort(places)[:held_out].max(initial=0)
            if groups and (places <= border).all():  # one group is as good as all: the smaller ones are held out
                border = np.sort(places[places < border]).max(initial=0)
            mine = places <= border if options.part == "val" else places > border
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
