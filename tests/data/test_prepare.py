"""A prepared data set is whole or absent, and its bytes come from the source and the options alone."""

import contextlib
import dataclasses
import io
import json
import subprocess

import numpy as np
import pytest
from hash_encoder import HashEncoder
from listed_source import Listed, OutOfMemory, listed
from PIL import Image

from t2i.data import captions, image_shards, prepared
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import PreparedDataset
from t2i.data.records import Skip
from t2i.data.sources import FolderPairSource
from t2i.data.sources.shapes import ShapesSource
from t2i.errors import UserError

SHARD_ENTRIES = image_shards.shard_entries
SHARD, CHUNK = 8, 16  # instead of 4,096 and 8,192: borders everywhere
SMALL = PrepareOptions(resolution=16, workers=1, max_skipped=0.2)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(image_shards, "shard_entries", lambda resolution: SHARD)
    monkeypatch.setattr(prepared, "CAPTIONS_PER_CHUNK", CHUNK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """36 images with two or three captions each; three of them are damaged."""
    root = tmp_path_factory.mktemp("source") / "small"
    root.mkdir()
    for number, record in zip(range(36), ShapesSource(36)):
        Image.fromarray(record.image.load(20 + number % 3)).save(root / f"{number:02d}.png")
        (root / f"{number:02d}.txt").write_text("\n".join(record.captions[: 2 + number % 2]))
    for number, data in ((3, b""), (20, b"text"), (21, b"text")):
        (root / f"{number:02d}.png").write_bytes(data)
    return root


def pairs(folder):
    return FolderPairSource(folder, folder)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def captions_of(data):
    return [[data.caption(int(i)) for i in data.caption_ids(index)] for index in range(len(data))]


@contextlib.contextmanager
def refused():
    """A UserError in one line; yields a list that holds it afterwards."""
    said = []
    with pytest.raises(UserError) as caught:
        yield said
    said.append(str(caught.value))
    assert "\n" not in said[0]


# ---------------------------------------------------------------- stopped and run again (killed: tests/faults/)


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    """The files of a run in one go."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_shards, "shard_entries", lambda resolution: SHARD)
        patch.setattr(prepared, "CAPTIONS_PER_CHUNK", CHUNK)
        prepare(pairs(folder), out, HashEncoder(), SMALL)
    return files(out)


def test_encoded_chunks_are_kept_and_another_encoder_starts_over(tmp_path):
    class Counting(HashEncoder):
        texts = 0
        stop_after = None

        def encode(self, texts):
            if self.stop_after is not None and self.texts >= self.stop_after:
                raise KeyboardInterrupt
            self.texts += len(texts)
            return super().encode(texts)

    source, out = ShapesSource(24), tmp_path / "out"
    first = Counting()
    first.stop_after = 2 * CHUNK
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, first, SMALL)
    second = Counting()
    summary = prepare(source, out, second, SMALL)
    assert first.texts == 2 * CHUNK and second.texts == summary.captions - 2 * CHUNK

    other = tmp_path / "other"
    first.texts = 0
    with pytest.raises(KeyboardInterrupt):
        prepare(source, other, first, SMALL)
    third = Counting()
    third.sha256 = "1" * 64
    assert prepare(source, other, third, SMALL).resumed_at == 24  # the images are kept
    assert third.texts == summary.captions


def test_another_plan_starts_over(tmp_path):
    stop = iter(range(100))

    def interrupt(stage, done, total):
        if done >= 2 * SHARD and next(stop) == 0:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(ShapesSource(24), out, HashEncoder(), SMALL, interrupt)
    assert list((tmp_path / "out.partial").glob("shard-*.json"))
    options = PrepareOptions(resolution=32, workers=1)
    assert prepare(ShapesSource(24), out, HashEncoder(), options).resumed_at == 0
    assert PreparedDataset(out).resolution == 32
    prepare(ShapesSource(24), tmp_path / "whole", HashEncoder(), options)
    assert files(out) == files(tmp_path / "whole")


def test_workers_do_not_change_the_bytes(folder, uninterrupted, tmp_path):
    options = PrepareOptions(resolution=16, workers=2, max_skipped=0.2)
    prepare(pairs(folder), tmp_path / "out", HashEncoder(), options)
    assert files(tmp_path / "out") == uninterrupted


# ---------------------------------------------------------------- refused


def test_too_many_skipped_is_refused_and_goes_on_with_a_larger_share(folder, uninterrupted, tmp_path):
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    with refused() as said:
        prepare(pairs(folder), out, HashEncoder(), PrepareOptions(resolution=16, workers=1))
    assert "3 of 36 entries cannot be used (8%, above --max-skipped 0.05)" in said[0]
    assert said[0].endswith(
        f": 2 not an image (20.png), 1 empty file (03.png); all are listed in {partial}/skipped.jsonl"
    )
    assert (partial / "skipped.jsonl").read_bytes() == uninterrupted["skipped.jsonl"]
    assert list(tmp_path.iterdir()) == [partial]
    assert prepare(pairs(folder), out, HashEncoder(), SMALL).resumed_at == 33  # none is decoded again
    assert files(out) == uninterrupted and list(tmp_path.iterdir()) == [out]


def test_reasons_beyond_the_first_three_are_counted(tmp_path):
    skips = [Skip(f"{number}", f"reason {number // 2}") for number in range(9)]
    with refused() as said:
        prepare(Listed([*listed(1), *skips]), tmp_path / "out", HashEncoder(), SMALL)
    assert "2 reason 0 (0), 2 reason 1 (2), 2 reason 2 (4), and 3 others; all are listed in" in said[0]


def test_what_the_machine_failed_at_is_tried_again(tmp_path):
    source, out = Listed(listed(20)), tmp_path / "out"
    good = source.entries[9]
    source.entries[9] = dataclasses.replace(good, image=OutOfMemory())
    with refused() as said:
        prepare(source, out, HashEncoder(), PrepareOptions(resolution=16, workers=1, max_skipped=0))
    assert "1 out of memory (key-0009)" in said[0]
    source.entries[9] = good
    summary = prepare(source, out, HashEncoder(), PrepareOptions(resolution=16, workers=1, max_skipped=0))
    assert (summary.images, summary.resumed_at) == (20, 12)  # the other two of the three shards


@pytest.mark.parametrize("entries", [[], [Skip("a", "empty file")]])
def test_a_source_without_a_image_is_refused(tmp_path, entries):
    with refused() as said:
        prepare(Listed(entries), tmp_path / "out", HashEncoder(), PrepareOptions(16, workers=1, max_skipped=1))
    expected = "1 entry: 1 empty file (a)" if entries else "0 entries: the source is empty"
    assert said[0] == f"no usable image among {expected}"
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_gets_none_of_the_source_is_refused(tmp_path):
    options = PrepareOptions(resolution=16, workers=1, val_fraction=0.5, part="train")
    with refused() as said:
        prepare(Listed(listed(1)), tmp_path / "out", HashEncoder(), options)
    assert said[0] == "nothing is left for the train part: --val-fraction 0.5 of 1 entry leaves all to val"
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_error_of_the_data_set(tmp_path):
    def gone(*_):
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        prepare(ShapesSource(4), tmp_path / "out", HashEncoder(), SMALL, gone)


def test_strict_stops_at_the_first_bad_image(folder, tmp_path):
    options = PrepareOptions(resolution=16, workers=1, strict=True)
    with refused() as said:
        prepare(pairs(folder), tmp_path / "out", HashEncoder(), options)
    assert said[0] == "03.png: empty file (--strict)"
    assert not (tmp_path / "out").exists()


def test_what_was_left_out_is_listed(uninterrupted):
    lines = [json.loads(line) for line in uninterrupted["skipped.jsonl"].splitlines()]
    assert [(line["file"], line["reason"]) for line in lines] == [
        ("03.png", "empty file"),
        ("20.png", "not an image"),
        ("21.png", "not an image"),
    ]
    assert "b'text'" in lines[1]["detail"]
    facts = json.loads(uninterrupted["dataset.json"])
    assert facts["skipped"] == {"empty file": 1, "not an image": 2} and facts["pictures"] == 33


def test_a_data_set_that_is_there_is_not_touched(tmp_path):
    prepare(ShapesSource(4), tmp_path / "out", HashEncoder(), SMALL)
    before = files(tmp_path / "out")
    with refused() as said:
        prepare(ShapesSource(5), tmp_path / "out", HashEncoder(), SMALL)
    assert "is there already; train on it, replace it with --overwrite" in said[0]
    assert files(tmp_path / "out") == before and not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_and_no_data_set_is_not_called_one(tmp_path, kind, overwrite):
    out = tmp_path / "out"
    mine = out if kind == "file" else out / "mine.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with refused() as said:
        prepare(ShapesSource(4), out, HashEncoder(), SMALL, overwrite=overwrite)
    assert said[0] == f"{out} is there, and no prepared data set: not replaced; choose another --out"
    assert mine.read_text() == "mine" and list(tmp_path.iterdir()) == [out]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("cannot mount a small tmpfs here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("shard", [SHARD, 4096])
def test_a_full_disk_is_said_with_path_and_free_space(small_disk, monkeypatch, shard):
    monkeypatch.setattr(image_shards, "shard_entries", lambda resolution: shard)
    out = small_disk / "out"
    with refused() as said:
        prepare(ShapesSource(240), out, HashEncoder(), PrepareOptions(resolution=64, workers=1))
    assert str(small_disk) in said[0] and "no space left" in said[0] and "MiB free" in said[0]
    assert not out.exists()
    assert not list(small_disk.rglob("*.tmp"))


def test_a_read_only_folder_is_refused_before_the_work(read_only_folder):
    with refused() as said:
        prepare(ShapesSource(4), read_only_folder / "out", HashEncoder(), SMALL)
    assert said[0].startswith(str(read_only_folder)) and "Permission denied" in said[0]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out.partial").write_text("mine")
    with refused():
        prepare(ShapesSource(4), tmp_path / "out", HashEncoder(), SMALL)
    assert (tmp_path / "out.partial").read_text() == "mine"


# ---------------------------------------------------------------- captions


def test_a_caption_is_stored_once(tmp_path):
    entries = [("a", ["same", "other"]), ("b", ["same"]), ("c", ["new", "same", "same"])]
    summary = prepare(Listed(entries), tmp_path / "out", HashEncoder(), SMALL)
    assert (summary.captions, summary.caption_uses) == (3, 6)
    data = PreparedDataset(tmp_path / "out")
    assert data.caption_count == 3 and [data.caption(i) for i in range(3)] == ["same", "other", "new"]
    assert captions_of(data) == [captions for _, captions in entries]
    assert data.caption_counts(np.arange(3)).tolist() == [2, 1, 3]


def test_any_text_survives(tmp_path):
    texts = ["naïve — “quoted”", "日本語 🐶", 'a "b" \\ c', "x" * 5000, "\u2028 line \x85 break"]
    entries = [(f"k{number}", [text]) for number, text in enumerate(texts)]
    entries.append(("a file's name that is not UTF-8: \udcff", ["last"]))
    prepare(Listed(entries), tmp_path / "out", HashEncoder(), SMALL)
    data = PreparedDataset(tmp_path / "out")
    assert [data.caption(i) for i in range(len(texts))] == texts
    assert [record["key"] for record in data.records()] == [key for key, _ in entries]


@pytest.fixture(scope="module")
def many_chunks(tmp_path_factory):
    """40 images whose captions fill several chunks and a part of one."""
    patch = pytest.MonkeyPatch()
    patch.setattr(image_shards, "shard_entries", lambda resolution: SHARD)
    patch.setattr(prepared, "CAPTIONS_PER_CHUNK", CHUNK)
    patch.setattr(captions, "SLICE", 5)
    out = tmp_path_factory.mktemp("chunks") / "out"
    encoder = HashEncoder()
    encoder.max_tokens = 7
    summary = prepare(ShapesSource(40), out, encoder, SMALL)
    patch.undo()
    return out, summary


def test_tokens_are_the_encoders_across_chunk_borders(many_chunks):
    out, summary = many_chunks
    data = PreparedDataset(out)
    assert len(list(out.glob("tokens-*.npy"))) == -(-summary.captions // CHUNK) >= 5
    texts = [data.caption(i) for i in range(data.caption_count)]
    encoder = HashEncoder()
    encoder.max_tokens = 7
    expected = encoder.encode(texts)
    order = np.random.default_rng(0).permutation(len(texts))
    for caption_id, tokens in zip(order, data.tokens(order)):
        assert tokens.dtype == np.float16 and np.array_equal(tokens, expected[caption_id])
    assert data.info["text"]["tokens"] == sum(map(len, expected))
    assert summary.truncated == encoder.truncated == data.info["text"]["truncated"] > 0


def test_text_statistics_are_those_of_all_tokens_and_sentences(many_chunks):
    data = PreparedDataset(many_chunks[0])
    rows = [row.astype(np.float64) for row in data.tokens(range(data.caption_count))]
    tokens = np.concatenate(rows)
    sentences = np.stack([row.mean(0) for row in rows])
    sentences /= np.linalg.norm(sentences, axis=1, keepdims=True)
    expected = [tokens.mean(0), tokens.std(0), sentences.mean(0), sentences.std(0)]
    for row in (1, 3):
        expected[row] = np.maximum(expected[row], 0.1 * expected[row].mean())
    found = data.text_statistics()
    assert found.dtype == np.float32 and np.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_token_files_are_plain_npy(many_chunks):
    """Written piece by piece; NumPy itself would have written the same bytes."""
    for path in many_chunks[0].glob("*.npy"):
        again = io.BytesIO()
        np.save(again, np.load(path))
        assert again.getvalue() == path.read_bytes(), path.name


# ---------------------------------------------------------------- the folder


def test_the_images_are_the_sources_in_its_order(many_chunks):
    data = PreparedDataset(many_chunks[0])
    records = list(ShapesSource(40))
    assert np.array_equal(data.images(np.arange(40)), [record.image.load(16) for record in records])
    assert [record["key"] for record in data.records()] == [record.key for record in records]
    assert [record["attributes"] for record in data.records()] == [record.attributes for record in records]
    assert captions_of(data) == [list(record.captions) for record in records]


def test_the_folder_holds_what_the_format_says_and_no_path(uninterrupted, folder):
    names = set(uninterrupted)
    singles = {
        "dataset.json", "picture-captions.npy", "picture-offsets.npy", "captions.jsonl", "caption-offsets.npy",
        "token-offsets.npy", "text-statistics.npy", "skipped.jsonl", "preview.png",
    }  # fmt: skip
    shards = {f"{kind}-{i:05d}.{end}" for i in range(5) for kind, end in (("images", "npy"), ("records", "jsonl"))}
    assert names == singles | shards | {name for name in names if name.startswith("tokens-")}
    assert not any(str(folder.parent).encode() in data for data in uninterrupted.values())


def test_the_fingerprint_is_that_of_images_captions_and_encoder(tmp_path):
    def fingerprint(name, source, encoder=None, **options):
        encoder = encoder or HashEncoder()
        prepare(source, tmp_path / name, encoder, PrepareOptions(**{"resolution": 16, "workers": 1, **options}))
        return PreparedDataset(tmp_path / name).fingerprint

    other = HashEncoder()
    other.sha256 = "1" * 64
    entries = listed(4)
    prints = [
        fingerprint("a", Listed(entries)),
        fingerprint("b", Listed(entries[:3])),
        fingerprint("c", Listed([*entries[:3], ("key-0003", ["another caption"])])),
        fingerprint("d", Listed(entries), resolution=32),
        fingerprint("e", Listed(entries), other),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint("f", Listed(entries)) == prints[0]


def test_shards_keep_to_64_mib():
    for resolution in (8, 16, 32, 64, 128, 256, 512, 1024):
        count = SHARD_ENTRIES(resolution)
        assert count & (count - 1) == 0
        assert count * 3 * resolution**2 <= 64 * 2**20 or count == 64
    assert SHARD_ENTRIES(64) == 4096 and SHARD_ENTRIES(8) == 16_384


def test_progress_counts_up_to_the_total(tmp_path):
    seen = []
    summary = prepare(ShapesSource(20), tmp_path / "out", HashEncoder(), SMALL, lambda *step: seen.append(step))
    for stage, total in (("images", 20), ("captions", summary.captions)):
        steps = [done for name, done, of in seen if name == stage and of == total]
        assert steps == sorted(steps) and steps[-1] == total
    assert {stage for stage, _, _ in seen} == {"images", "captions"}
