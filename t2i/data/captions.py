"""The captions of a data set that is being prepared: numbered once each, encoded once each."""

import array
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from t2i.data import prepared
from t2i.data.arrays import json_line, save_array, save_parts
from t2i.files import atomic_write, read_json, write_json

SLICE = 512  # captions whose tokens are in memory at once: a chunk of long ones is large
WIDER = 4  # times as many in bf16, whose products pay from larger groups of one length on


@runtime_checkable
class Encoder(Protocol):
    """What prepare needs of a text encoder; see t2i.text.frozen.FrozenEncoder."""

    width: int
    truncated: int
    unknown: int

    def encode(self, texts: list[str]) -> list[np.ndarray]: ...

    def describe(self) -> dict[str, Any]: ...


def index_captions(partial: Path, shards: int) -> tuple[int, int]:
    """Number the different captions in order of appearance; write captions.jsonl and the index arrays.

    Returns how many different captions there are, and how many in all.
    """
    # A digest for each text: about 150 bytes a caption however long it is. 15 of them fit Python's 48-byte blocks.
    ids: dict[bytes, int] = {}
    offsets, uses, starts = array.array("q", [0]), array.array("i"), array.array("q", [0])
    with atomic_write(partial / "captions.jsonl") as stream:
        for shard in range(shards):
            with open(partial / f"records-{shard:05d}.jsonl", "rb") as records:
                for line in records:
                    for caption in json.loads(line)["captions"]:
                        digest = hashlib.blake2b(caption.encode("utf-8", "surrogatepass"), digest_size=15).digest()
                        if digest not in ids:
                            ids[digest] = len(ids)
                            offsets.append(offsets[-1] + stream.write(json_line(caption)))
                        uses.append(ids[digest])
                    starts.append(len(uses))
    save_array(partial / "caption-offsets.npy", np.frombuffer(offsets, np.int64))
    save_array(partial / "picture-captions.npy", np.frombuffer(uses, np.int32))
    save_array(partial / "picture-offsets.npy", np.frombuffer(starts, np.int64))
    return len(ids), len(uses)


def encode_captions(partial: Path, encoder: Encoder, count: int, progress: Callable[[int], None]) -> dict[str, Any]:
    """Token embeddings of the `count` different captions, chunk by chunk, and their statistics.

    Finished chunks of an earlier run are kept where they are of the same texts. progress: takes the number of
    captions done. Returns the "text" part of dataset.json.
    """
    described = encoder.describe()
    marker = partial / "text.json"
    if not marker.is_file() or read_json(marker) != described:
        for old in (*partial.glob("chunk-*.json"), *partial.glob("tokens-*.npy")):
            old.unlink()
        write_json(marker, described)
    lengths: list[np.ndarray] = []
    truncated = unknown = 0
    for chunk, texts in enumerate(_chunks(partial / "captions.jsonl")):
        before_chunk = chunk * prepared.CAPTIONS_PER_CHUNK
        progress(before_chunk)
        done = partial / f"chunk-{chunk:05d}.json"
        digest = hashlib.sha256(b"".join(map(json_line, texts))).hexdigest()
        tokens = partial / f"tokens-{chunk:05d}.npy"
        if not (done.is_file() and tokens.is_file() and read_json(done).get("texts_sha256") == digest):
            before = encoder.truncated, encoder.unknown
            rows: list[int] = []
            parts = _encoded(encoder, texts, rows, progress, before_chunk, slice_size(described))
            done.unlink(missing_ok=True)  # it speaks of other tokens, should this be killed after the next line
            save_parts(tokens, parts)
            counts = {"truncated": encoder.truncated - before[0], "unknown": encoder.unknown - before[1]}
            write_json(done, {"texts_sha256": digest, "lengths": rows, **counts})
        facts = read_json(done)
        lengths.append(np.array(facts["lengths"], np.int64))
        truncated, unknown = truncated + facts["truncated"], unknown + facts.get("unknown", 0)
    for old in partial.glob("tokens-*.npy"):
        if int(old.stem.removeprefix("tokens-")) >= len(lengths):  # the source has fewer captions now
            old.unlink()
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    save_array(partial / "token-offsets.npy", offsets.astype(np.int64))
    save_array(partial / "text-statistics.npy", _text_statistics(partial, lengths, encoder.width))
    return {**described, "tokens": int(offsets[-1]), "truncated": truncated, "unknown": unknown}


def slice_size(described: dict[str, Any]) -> int:
    """How many captions an encoder, as it describes itself, is given at once."""
    return SLICE * (WIDER if described.get("precision") == "bf16" else 1)


def _encoded(
    encoder: Encoder, texts: list[str], lengths: list[int], progress: Callable[[int], None], before: int, size: int
) -> Iterator[np.ndarray]:
    """The texts' tokens, float16 [n, T], `size` of the texts at a time; `lengths` grows by each text's count.

    before: captions done before these.
    """
    for start in range(0, len(texts), size):
        rows = encoder.encode(texts[start : start + size])
        lengths.extend(len(row) for row in rows)
        yield np.concatenate(rows).astype(np.float16, copy=False)
        progress(before + len(lengths))


def _text_statistics(partial: Path, lengths: list[np.ndarray], width: int) -> np.ndarray:
    """float32 [4, T]: mean and std of the tokens, then of the sentence vectors (masked mean, length 1).

    A dimension that hardly varies (MiniLM has one) must not be blown up to unit variance: a std is at least a tenth
    of the mean std.
    """
    sums = np.zeros((4, width))
    counts = np.zeros(2)
    for chunk, chunk_lengths in enumerate(lengths):
        tokens = np.load(partial / f"tokens-{chunk:05d}.npy", mmap_mode="r", allow_pickle=False)
        borders = np.concatenate([[0], np.cumsum(chunk_lengths)])
        for first in range(0, len(chunk_lengths), SLICE):
            last = min(first + SLICE, len(chunk_lengths))
            part = tokens[borders[first] : borders[last]].astype(np.float64)
            starts = borders[first:last] - borders[first]
            sentences = np.add.reduceat(part, starts) / chunk_lengths[first:last, None]
            sentences /= np.linalg.norm(sentences, axis=1, keepdims=True).clip(1e-12)
            for row, values in ((0, part), (2, sentences)):
                sums[row] += values.sum(0)
                sums[row + 1] += (values**2).sum(0)
                counts[row // 2] += len(values)
    mean = sums[::2] / counts[:, None]
    std = np.sqrt((sums[1::2] / counts[:, None] - mean**2).clip(0))
    std = std.clip(0.1 * std.mean(1, keepdims=True) + 1e-6)
    return np.stack([mean[0], std[0], mean[1], std[1]]).astype(np.float32)


def _chunks(path: Path) -> Iterator[list[str]]:
    with open(path, "rb") as stream:
        while lines := list(itertools.islice(stream, prepared.CAPTIONS_PER_CHUNK)):
            yield [json.loads(line) for line in lines]
