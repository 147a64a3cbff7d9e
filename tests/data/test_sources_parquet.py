"""Parquet with the images inside, here and on the hub: the right captions, flat memory, nothing else opened."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hub_stand_in import hub
from source_checks import IMAGE, refused, walk, write

from t2i.data.images import load_image
from t2i.data.records import ImageError, Record
from t2i.data.sources import ParquetSource

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
IMAGE_TYPE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def table(path, images, texts, column="text", kind=IMAGE_TYPE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": pyarrow.array(images, kind), column: texts, "label": [0] * len(texts)}
    parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def inside(count):
    return [{"bytes": IMAGE, "path": f"{number}.png"} for number in range(count)]


@pytest.mark.parametrize("kind", [IMAGE_TYPE, pyarrow.binary(), pyarrow.large_binary()])
@pytest.mark.parametrize("column", ["text", "caption", "Prompt"])
def test_rows_are_read(tmp_path, kind, column):
    images = [each if kind == IMAGE_TYPE else each["bytes"] for each in inside(5)]
    texts = ["one", " two ", "", None, "five"]
    table(tmp_path / "My set/b.parquet", images, texts, column, kind, row_group_size=2)
    table(tmp_path / "My set/a.parquet", images[:1], ["first"], column, kind)
    for pattern in (tmp_path / "My set", tmp_path / "My set/*.parquet"):
        source = ParquetSource(str(pattern))
        records, skips = walk(source)
        assert records == {
            "a.parquet/000000": ("first",), "b.parquet/000000": ("one",), "b.parquet/000001": ("two",),
            "b.parquet/000004": ("five",),
        }  # fmt: skip
        assert skips == {"b.parquet/000002": "no caption", "b.parquet/000003": "no caption"}
        assert source.name == "my-set"
        expected = load_image(IMAGE, 8)
        for entry in (*source, *reversed([*source])):  # in any order
            if isinstance(entry, Record):
                assert np.array_equal(entry.image.load(8), expected)


def test_lists_of_captions_and_of_texts(tmp_path):
    texts = [["one", "two"], [], ["three"]]
    records, skips = walk(ParquetSource(str(table(tmp_path / "a.parquet", inside(3), texts))))
    assert list(records.values()) == [("one", "two"), ("three",)] and list(skips.values()) == ["no caption"]
    texts = [[{"raw": "one", "tokens": ["one"]}], [{"raw": "two", "tokens": ["two"]}]]
    records, _ = walk(ParquetSource(str(table(tmp_path / "b.parquet", inside(2), texts, "sentences"))))
    assert list(records.values()) == [("one",), ("two",)]


def test_a_path_is_never_opened(tmp_path):
    secret = write(tmp_path / "secret.png")
    images = [{"bytes": None, "path": str(secret)}, {"bytes": IMAGE, "path": "../secret.png"}, None]
    source = ParquetSource(str(table(tmp_path / "a.parquet", images, ["x", "y", "z"])))
    told = []
    for entry in source:
        try:
            told.append(entry.image.load(8).shape)
        except ImageError as error:
            told.append(str(error))
    assert told == [
        "no image bytes: the row names a file, which is not opened", (8, 8, 3), "no image bytes: the cell is empty",
    ]  # fmt: skip


def test_splits_go_by_the_files_names(tmp_path):
    for name in ("train-00000-of-00001", "test-00000-of-00001", "validation-00000-of-00001"):
        table(tmp_path / f"data/{name}.parquet", inside(1), [name.partition("-")[0]])
    for split, caption in (("train", "train"), ("val", "validation"), ("test", "test")):
        source = ParquetSource(str(tmp_path), split)
        records, _ = walk(source)
        assert list(records.values()) == [(caption,)]
        assert source.notes[0].startswith("2 files of other splits left out (--split)")
    refused(lambda: ParquetSource(str(tmp_path), "dev"), "no parquet file of the split dev", "--split test")
    assert len(ParquetSource(str(tmp_path / "data/*.parquet"))) == 3


def test_what_was_expected_is_said(tmp_path, monkeypatch):
    refused(lambda: ParquetSource(str(tmp_path / "*.parquet")), "no such parquet files")
    parquet.write_table(pyarrow.table({"file_name": ["a.png"], "text": ["x"]}), tmp_path / "a.parquet")
    refused(lambda: ParquetSource(str(tmp_path / "a.parquet")), "no column with images inside", "'file_name, text'")
    parquet.write_table(pyarrow.table({"image": [IMAGE], "label": [3]}), tmp_path / "b.parquet")
    refused(lambda: ParquetSource(str(tmp_path / "b.parquet")), "none of the caption columns", "'image, label'")
    table(tmp_path / "c.parquet", [], [])
    refused(lambda: ParquetSource(str(tmp_path / "c.parquet")), "without a row")
    refused(lambda: ParquetSource(str(write(tmp_path / "d.parquet", b"PAR1 no"))), "not a readable parquet file")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(lambda: ParquetSource(str(tmp_path / "c.parquet")), 'pip install "t2i[parquet]"')


MEMORY = """
import resource, sys, threading, time
from t2i.data.decoding import Decoders, decode
from t2i.data.sources import ParquetSource

def has():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
source = ParquetSource(sys.argv[1])
count, start, most = 0, 0, 0
with Decoders(1) as pool:
    for entry, decoded in decode(pool, source, 8):
        count += decoded is not None
        if count == 2000:
            start = has()
        if count % 500 == 0:
            most = max(most, has())
print(count, most - start)
"""


def check_memory(tmp_path, rows, size):
    """`rows` images of `size` bytes each in one row group, as pandas writes it."""
    path = tmp_path / "big.parquet"
    schema = pyarrow.schema([("image", pyarrow.binary()), ("text", pyarrow.string())])
    chance = random.Random(0)
    with parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        padding = chance.randbytes(size)
        image = IMAGE + padding  # what follows a PNG's end is no part of it
        images = [image[:-8] + number.to_bytes(8) for number in range(rows)]
        texts = [f"caption {number}" for number in range(rows)]
        writer.write_table(pyarrow.table([images, texts], schema), row_group_size=rows)
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True, env=environment
    )
    count, more = done.stdout.split()
    assert int(count) == rows
    assert float(more) < 48, f"{more} MiB more than after 2,000 of {rows}"
    print(f"{rows} rows of {path.stat().st_size / 2**20:.0f} MiB: {more} MiB more than after 2,000")


@pytest.mark.slow
def test_memory_is_flat(tmp_path):
    check_memory(tmp_path, 6000, 20_000)


@pytest.mark.slow
def test_memory_is_flat_over_100_000_rows(tmp_path):
    check_memory(tmp_path, 100_000, 4000)


@pytest.mark.slow
def test_a_data_set_on_the_hub_is_read(tmp_path):
    """Through a local stand-in for it, by the command line, in a process of its own: the endpoint is read at import."""
    files = tmp_path / "files"
    for number in range(2):
        table(files / f"data/train-{number:05d}-of-00002.parquet", inside(3), ["a", "b", "c"], row_group_size=2)
    table(files / "data/test-00000-of-00001.parquet", inside(1), ["t"])
    write(files / "README.md", "a data set")
    script = "import sys, prepare_driver\nprepare_driver.use_hash_encoder()\n"
    script += "from t2i.cli import run\nsys.exit(run(sys.argv[1:]))"
    here = os.path.dirname(__file__)
    paths = [os.path.join(here, "..", "faults"), os.path.join(here, ".."), *sys.path]
    with hub(files, "someone/tiny-images") as (endpoint, asked):
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }  # fmt: skip

        def call(pattern, out):
            command = ["prepare", "--parquet", pattern, "--resolution", "8", "--workers", "1", "--json", "--out", out]
            return subprocess.run(
                [sys.executable, "-c", script, *command], env=environment, capture_output=True, text=True, cwd=tmp_path
            )

        done = call("hf://datasets/someone/tiny-images", "whole")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["images"], report["captions"], report["skipped"]) == (6, 3, {})
        facts = json.loads((tmp_path / "whole/dataset.json").read_text())
        assert facts["name"] == "tiny-images" and len(facts["source"]["versions_sha256"]) == 64
        done = call("hf://datasets/someone/tiny-images/data/test-*.parquet", "test")
        assert (done.returncode, json.loads(done.stdout or "{}").get("images")) == (0, 1), done.stderr
        for pattern in ("hf://datasets/someone/none", "hf://datasets/someone/tiny-images/x/*.parquet"):
            done = call(pattern, "none")
            assert done.returncode == 1 and done.stderr.startswith(f"t2i: {pattern}: ") and done.stderr.count("\n") == 1
    assert any("resolve" in line for line in asked)
