"""A prepared data set opens at any size for the same cost, and a damaged one is refused in one line."""

import gc
import json
import os
import random
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hash_encoder import HashEncoder

from t2i.data import image_shards
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import CAPTIONS_PER_CHUNK, PreparedDataset, find_datasets, find_validation
from t2i.data.sources.shapes import ShapesSource
from t2i.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """20 images at 16 px in three shards. Read only."""
    patch = pytest.MonkeyPatch()
    patch.setattr(image_shards, "shard_entries", lambda resolution: 8)
    out = tmp_path_factory.mktemp("whole") / "data"
    prepare(ShapesSource(20), out, HashEncoder(), PrepareOptions(resolution=16, workers=1))
    patch.undo()
    return out


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def refused(path):
    """Why the data set is refused, on opening or on reading all of it: one line."""
    with pytest.raises(UserError) as caught:
        read_all(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def read_all(path):
    data = PreparedDataset(path)
    data.images(np.arange(len(data)))
    for index in range(len(data)):
        data.tokens(data.caption_ids(index))
    data.text_statistics()


FEW_FILES = """
import os, resource, sys
import numpy as np
from t2i.data.prepared import PreparedDataset
opened = max(map(int, os.listdir("/proc/self/fd")))
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 7, hard))
data = PreparedDataset(sys.argv[1])
print(len(data.images(np.arange(20))), len(data.tokens(range(data.caption_count))) == data.caption_count)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_more_files_than_a_process_may_open_by_default(whole):
    result = subprocess.run([sys.executable, "-c", FEW_FILES, whole], capture_output=True, text=True)
    assert result.stdout.split() == ["20", "True"], result.stderr


def rewrite(path, **changes):
    facts = json.loads((path / "dataset.json").read_text())
    for name, value in changes.items():
        if value is None:
            del facts[name]
        else:
            facts[name] = value
    (path / "dataset.json").write_text(json.dumps(facts))


ARRAYS = [
    "images-00001.npy", "picture-captions.npy", "picture-offsets.npy", "caption-offsets.npy", "token-offsets.npy",
    "tokens-00000.npy", "text-statistics.npy",
]  # fmt: skip


# ---------------------------------------------------------------- read


def test_images_come_in_any_order_from_any_shard(whole):
    data = PreparedDataset(whole)
    everything = np.concatenate([np.load(whole / f"images-{i:05d}.npy") for i in range(3)])
    assert len(data) == len(everything) == 20
    order = [19, 0, 7, 8, 8, 15, 16]
    images = data.images(order)
    assert images.dtype == np.uint8 and np.array_equal(images, everything[order])
    images[:] = 0  # a copy: nothing is written to the disk
    assert np.array_equal(data.images(order), everything[order])
    assert data.images([]).shape == (0, 16, 16, 3)


def test_what_is_known_of_a_data_set(whole):
    data = PreparedDataset(str(whole))
    assert (data.name, data.split, data.resolution, data.image_shape) == ("shapes", "train", 16, (16, 16, 3))
    assert data.text["name"] == "hash" and len(data.fingerprint) == 64
    assert data.caption_counts(np.arange(20)).tolist() == [3] * 20
    assert data.caption_count == data.info["captions"]


def test_opening_reads_no_images_and_no_captions(whole, tmp_path):
    """A data set whose files are 2 GiB (holes on the disk) opens in the memory of a small one."""
    large = tmp_path / "large"
    large.mkdir()
    for name in ("text-statistics.npy", "captions.jsonl"):
        shutil.copy(whole / name, large)
    images, captions = 2**20, 2**22

    def hole(name, shape, dtype):
        np.lib.format.open_memmap(large / name, "w+", dtype, shape)

    hole("images-00000.npy", (images, 16, 16, 3), np.uint8)
    hole("picture-captions.npy", (0,), np.int32)
    hole("picture-offsets.npy", (images + 1,), np.int64)
    hole("caption-offsets.npy", (captions + 1,), np.int64)
    hole("token-offsets.npy", (captions + 1,), np.int64)
    shutil.copy(whole / "dataset.json", large)
    rewrite(large, shards=[{"pictures": images, "sha256": "0" * 64}])
    tracemalloc.start()
    try:
        data = PreparedDataset(large)
        assert data.images([5, images - 1]).sum() == 0
        assert tracemalloc.get_traced_memory()[1] < 2**19
    finally:
        tracemalloc.stop()
    assert len(data) == images and data.caption_count == captions


# ---------------------------------------------------------------- damaged


def test_a_folder_without_a_data_set_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        assert "no prepared data set here" in refused(path) and "t2i prepare" in refused(path)


@pytest.mark.parametrize("text", ["", "garbage", "[]", "null", '{"format": 1', "[" * 100_000, "\0", '"\ud800"'])
def test_garbage_in_the_description_is_refused(copy, text):
    (copy / "dataset.json").write_text(text, errors="surrogatepass")
    assert "dataset.json" in refused(copy)


def test_another_format_is_refused(copy):
    rewrite(copy, format=2)
    assert "format 2; this t2i reads 1" in refused(copy)
    rewrite(copy, format=None)
    assert "prepare it again" in refused(copy)


@pytest.mark.parametrize("name", ["resolution", "name", "split", "fingerprint", "text", "shards"])
def test_a_missing_fact_is_refused(copy, name):
    rewrite(copy, **{name: None})
    assert "damaged" in refused(copy) and name in refused(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../x"},
        {"split": "a/b"},
        {"split": ""},
        {"resolution": "sixteen"},
        {"resolution": 32},
        {"resolution": -1},
        {"resolution": float("inf")},
        {"text": 5},
        {"text": {"name": "hash"}},
        {"text": {"width": 25}},
        {"shards": 3},
        {"shards": [1, 2]},
        {"shards": [{"pictures": 8}]},
        {"shards": [{"pictures": 8}, {"pictures": 8}, {"pictures": 5}]},
        {"shards": [{"pictures": 8}, {"pictures": 8}, {"pictures": -4}]},
        {"shards": [{"pictures": 8}, {"pictures": 8}, {"pictures": 4}, {"pictures": 8}]},
    ],
)
def test_wrong_facts_are_refused(copy, changes):
    rewrite(copy, **changes)
    refused(copy)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_missing_file_is_refused(copy, name):
    (copy / name).unlink()
    assert f"{name}: No such file or directory" in refused(copy)


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("kept", [0, 5, 60, 128, -1])
def test_a_truncated_file_is_refused(copy, name, kept):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:kept])
    assert f"{name} is damaged" in refused(copy)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_file_of_another_kind_is_refused(copy, name):
    good = np.load(copy / name)
    for bad in (good.astype(np.float64), good[:-1], good[..., None], np.array(["text"])):
        if name == "caption-offsets.npy" and bad.shape != good.shape and bad.dtype == good.dtype:
            continue  # its length is what the other files are measured by
        np.save(copy / name, bad)
        assert "damaged" in refused(copy)
    np.save(copy / name, np.array([{"a": 1}]), allow_pickle=True)  # a pickle is not opened
    assert "damaged" in refused(copy)
    (copy / name).write_bytes(b"PK\x03\x04" + bytes(200))
    assert "damaged" in refused(copy)


def test_flipped_bits_in_a_header_end_in_one_line_or_in_the_data(copy):
    chance = random.Random(0)
    for _ in range(400):
        path = copy / chance.choice(ARRAYS)
        good = path.read_bytes()
        bad = bytearray(good)
        bad[chance.randrange(128)] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        try:
            read_all(copy)
        except UserError as error:
            assert "\n" not in str(error) and path.name in str(error)
        finally:
            path.write_bytes(good)


# ---------------------------------------------------------------- found


def test_data_sets_are_found_newest_last_and_half_written_ones_are_not(whole, tmp_path):
    import os

    for age, name in enumerate(("b", "a", "c.partial", "empty")):
        (tmp_path / name).mkdir()
        if name != "empty":
            shutil.copy(whole / "dataset.json", tmp_path / name)
            os.utime(tmp_path / name / "dataset.json", (1000 - age, 1000 - age))
    assert find_datasets(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert find_datasets(tmp_path / "nothing") == []


@pytest.mark.parametrize("split", ["val", "valid", "validation", "Val2017", "dev", "test", "train", "training"])
def test_splits_to_score_on_are_known_by_their_names(copy, split):
    facts = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps({**facts, "split": split}))
    assert PreparedDataset(copy).held_out == (split not in ("train", "training"))


def test_the_validation_split_is_found_by_its_usual_name_first(whole, tmp_path):
    facts = json.loads((whole / "dataset.json").read_text())
    found = []
    for split in ("train", "test", "dev", "validation", "valid", "val", "other"):
        data = shutil.copytree(whole, tmp_path / split)
        (data / "dataset.json").write_text(json.dumps({**facts, "split": split}))
        validation = find_validation(PreparedDataset(tmp_path / "train"))
        found.append(validation and validation.split)
    assert found == [None, None, None, "validation", "valid", "val", "val"]


def test_chunks_are_as_the_format_says():
    assert CAPTIONS_PER_CHUNK == 8192  # part of format 1: data sets on disk have it


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux lists a process's open files there")
def test_a_data_set_that_is_let_go_closes_its_files(minilm_data):
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    def read() -> None:
        data = PreparedDataset(minilm_data)
        data.check()
        data.tokens(data.caption_ids(0))

    read()
    before = count()
    for _ in range(5):
        read()
    gc.collect()
    assert count() <= before
