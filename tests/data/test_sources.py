"""Folder pairs and imagefolders: the right captions with the right images, one line where something is wrong."""

import contextlib
import json
import os
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_checks import IMAGE, imagefolder, refused, walk, write

from t2i.data.sources import (
    FolderPairSource,
    ImageFolderSource,
    clean_captions,
    source_name,
)
from t2i.errors import UserError


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        (["  a  dog\t\n on grass "], ("a dog on grass",)),
        (["a\0b\x1b[31m", "", "   ", "\ufeff"], ("a b [31m",)),
        (["one", "two", "one ", "ONE"], ("one", "two", "ONE")),
        (["bad \ud800 surrogate", "\udfff"], ("bad surrogate",)),
        (["a\u2028b\xa0c\x85d"], ("a b c d",)),
        (["\U0001f469\u200d\U0001f52c at work"], ("\U0001f469\u200d\U0001f52c at work",)),  # joined emoji stay
        ([], ()),
    ],
)
def test_captions_are_cleaned(raw, cleaned):
    assert clean_captions(raw) == cleaned


@given(st.lists(st.text(st.characters(exclude_categories=()))))
def test_clean_captions_are_clean_for_any_text(raw):
    cleaned = clean_captions(raw)
    assert clean_captions(cleaned) == cleaned and len(set(cleaned)) == len(cleaned) <= len(raw)
    for caption in cleaned:
        caption.encode()
        assert caption == " ".join(caption.split()) and caption


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/x/COCO mini", "coco-mini"),
        ("/x/birds/images", "birds"),
        ("/x/birds/images/train2017", "birds"),
        ("/x/Fotos (alt)/", "fotos-alt"),
        ("/", "data"),
        ("/images", "data"),
        ("/x/\u00e9\u00e8", "x"),
    ],
)
def test_sources_are_named_after_their_folder(path, name):
    assert source_name(path) == name


def test_folder_pair_matches_by_stem_not_by_position(tmp_path):
    for name in ("b.png", "a.JPG", "sub/a.webp", "z.png", "empty.png", ".hidden.png", "notes.md"):
        write(tmp_path / "birds/images" / name)
    texts = {"a.txt": "an a\n\n second a ", "b.TXT": "\ufeffa b\r\nanother b", "sub/a.txt": "nested", "empty.txt": " "}
    for name, text in {**texts, "left.txt": "over", "over.txt": "left"}.items():
        write(tmp_path / "birds/captions" / name, text)
    source = FolderPairSource(tmp_path / "birds/images", tmp_path / "birds/captions")
    records, skips = walk(source)
    assert records == {
        "a.JPG": ("an a", "second a"),
        "b.png": ("a b", "another b"),
        "sub/a.webp": ("nested",),
    }
    assert skips == {"z.png": "no caption file", "empty.png": "no caption"}
    assert list(records) == sorted(records) and source.name == "birds"
    assert any("1 image without a caption file: z.png" in note for note in source.notes)
    assert any("2 caption files without an image: left.txt, over.txt" in note for note in source.notes)
    assert str(tmp_path) not in json.dumps(source.describe())


def test_folder_pair_may_be_one_folder(tmp_path):
    write(tmp_path / "set/a.png")
    write(tmp_path / "set/a.txt", "a")
    assert walk(FolderPairSource(tmp_path / "set", tmp_path / "set")) == ({"a.png": ("a",)}, {})


def test_bad_caption_files_cost_their_image_only(tmp_path):
    bad = {"a": "é".encode("latin-1"), "b": "text".encode("utf-16"), "c": b"x" * 2**21, "d": b"good"}
    for stem, data in bad.items():
        write(tmp_path / "i" / f"{stem}.png")
        write(tmp_path / "c" / f"{stem}.txt", data)
    os.mkfifo(tmp_path / "c/e.txt")
    write(tmp_path / "i/e.png")
    records, skips = walk(FolderPairSource(tmp_path / "i", tmp_path / "c"))
    assert records == {"d.png": ("good",)}
    assert skips.pop("c.png") == "caption file is too big" and skips.pop("e.png") == "caption file is not a file"
    assert set(skips.values()) == {"caption file is not UTF-8"} and len(skips) == 2


def test_of_two_images_of_one_name_the_first_is_taken(tmp_path):
    for name in ("i/a.png", "i/a.jpg", "c/a.txt"):
        write(tmp_path / name)
    write(tmp_path / "c/a.txt", "x")
    records, skips = walk(FolderPairSource(tmp_path / "i", tmp_path / "c"))
    assert list(records) == ["a.jpg"] and skips == {"a.png": "second image of the same name"}


def test_file_names_that_are_no_utf8_are_skipped(tmp_path):
    write(tmp_path / "i/ok.png")
    write(tmp_path / "c/ok.txt", "ok")
    try:
        (tmp_path / "i" / os.fsdecode(b"bad\xff.png")).write_bytes(IMAGE)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (tmp_path / "c" / os.fsdecode(b"bad\xff.txt")).write_bytes(b"x")
    records, skips = walk(FolderPairSource(tmp_path / "i", tmp_path / "c"))
    assert list(records) == ["ok.png"] and list(skips.values()) == ["file name is not UTF-8"]


def test_folder_pair_says_what_it_expected(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    images = write(tmp_path / "i/a.png").parent
    captions = write(tmp_path / "c/b.txt", "b").parent
    refused(lambda: FolderPairSource(tmp_path / "no", captions), "no such folder", "images")
    refused(lambda: FolderPairSource(images / "a.png", captions), "no folder")
    refused(lambda: FolderPairSource(empty, captions), empty, "no images")
    refused(lambda: FolderPairSource(images, empty), empty, "x.txt")
    refused(lambda: FolderPairSource(images, captions), "a.png needs a.txt")


def test_linked_images_of_the_users_own_folder_are_followed(tmp_path):
    write(tmp_path / "disk/1.png")
    (tmp_path / "i").mkdir()
    (tmp_path / "i/a.png").symlink_to(tmp_path / "disk/1.png")
    write(tmp_path / "c/a.txt", "a")
    (record,) = FolderPairSource(tmp_path / "i", tmp_path / "c")
    assert record.image.load(8).shape == (8, 8, 3)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_imagefolder_rows_are_read(tmp_path, kind, column):
    source = ImageFolderSource(imagefolder(tmp_path / "Set One", kind, column=column))
    records, skips = walk(source)
    assert records == {"a.png": ("an image",), "sub/b.png": ("another, with a comma",)}
    assert skips == {"gone.png": "missing file"} and source.name == "set-one"
    assert next(iter(source)).image.load(8).shape == (8, 8, 3)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_imagefolder_takes_lists_of_captions_and_empty_ones(tmp_path, kind):
    rows = [("a.png", ["one", "two", "one"]), ("a.png", ["three"]), ("sub/b.png", None), ("a.png", ["again"])]
    records, skips = walk(ImageFolderSource(imagefolder(tmp_path, kind, rows, "captions")))
    assert records == {"a.png": ("one", "two", "three", "again")}  # wherever they stand
    assert skips == {"sub/b.png": "no caption"}


def test_imagefolder_metadata_may_lie_in_the_split(tmp_path):
    imagefolder(tmp_path / "val", "jsonl")
    assert len(ImageFolderSource(tmp_path, "val")) == 3
    imagefolder(tmp_path / "test", "csv")
    refused(lambda: ImageFolderSource(tmp_path, "train"), "metadata.jsonl", "train/; there is test, val: --split test")


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_the_validation_split_goes_by_three_names(tmp_path, name):
    imagefolder(tmp_path / "train", "jsonl")
    imagefolder(tmp_path / name, "jsonl")
    source = ImageFolderSource(tmp_path, "val")
    assert (source.folder.name, source.split, source.notes) == (name, "val", [])
    imagefolder(tmp_path / "val", "jsonl")
    source = ImageFolderSource(tmp_path, "val")
    assert source.folder.name == "val"
    assert source.notes == [f"val/metadata.jsonl is used, {name}/metadata.jsonl is not"]


def test_a_row_without_a_caption_costs_its_image_only(tmp_path):
    rows = [
        {"file_name": "a.png", "text": 7}, {"file_name": "b.png"}, {"file_name": "c.png", "text": [["x"]]},
        {"file_name": "d.png", "text": "good"}, {"file_name": "e.png", "text": ["one", 2]}, {"file_name": "f.png"},
        {"file_name": "f.png", "caption": "good"},
    ]  # fmt: skip
    for row in rows:
        write(tmp_path / row["file_name"])
    write(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    records, skips = walk(ImageFolderSource(tmp_path))
    assert records == {"d.png": ("good",), "e.png": ("one",), "f.png": ("good",)}
    assert skips == {"a.png": "caption is no text", "b.png": "no caption", "c.png": "caption is no text"}


def test_parquet_without_the_columns_says_which_it_has(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    for name, words in (("file_name", "none of the columns text, "), ("name", "no column file_name")):
        table = {name: [write(tmp_path / "a.png").name], "label": [3], "width": [1]}
        parquet.write_table(pyarrow.table(table), tmp_path / "metadata.parquet")
        refused(lambda: ImageFolderSource(tmp_path), f"row 1 has {words}", f"(it has '{name}, label, width')")


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("metadata.jsonl", "", "no rows"),
        ("metadata.jsonl", "{", "line 1"),
        (
            "metadata.jsonl",
            "\n{3}",
            "line 2 is not valid JSON (Expecting property name enclosed in double quotes, column 2)",
        ),
        ("metadata.jsonl", "[1]", "line 1"),
        ("metadata.jsonl", "[" * 100_000, "line 1"),
        ("metadata.jsonl", "x" * 2**21, "longer"),
        ("metadata.jsonl", b"\xff\xfe", "UTF-8"),
        ("metadata.jsonl", '{"text": "x"}', "line 1 has no column file_name (it has 'text')"),
        ("metadata.jsonl", '{"file_name": null, "text": "x"}', "line 1 has no file_name (None)"),
        ("metadata.jsonl", '{"file_name": "a.png", "label": 3}', "'file_name, label'"),
        ("metadata.jsonl", '{"file_name": "../a.png", "text": "x"}', ".."),
        ("metadata.jsonl", '{"file_name": "none.png", "text": "x"}', "none of the 1"),
        ("metadata.csv", "file_name,text\n/etc/passwd,x\n", "absolute"),
        ("metadata.csv", "file_name,text\n", "no rows"),
        ("metadata.csv", 'file_name,text\na.png,"x" y\n', "line 2"),
        ("metadata.csv", "file_name,text\na.png," + "x" * 200_000, "line"),
        ("metadata.csv", b"file_name,text\na.png,\xff\n", "UTF-8"),
        ("metadata.csv", "name,text\na.png,x\n", "line 2 has no column file_name (it has 'name, text')"),
        ("metadata.csv", "a.png,a caption\nb.png,another\n", "its first line names the columns"),
        ("metadata.csv", 'file_name,text\na.png,"x\nb.png,y\nc.png,z\n', "a quotation mark is not closed"),
        ("metadata.parquet", b"PAR1 no PAR1", "parquet"),
        ("metadata.parquet", b"", "parquet"),
    ],
)
def test_malformed_metadata_is_refused_in_one_line(tmp_path, name, content, word):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    write(tmp_path / "a.png")
    write(tmp_path / name, content)
    refused(lambda: ImageFolderSource(tmp_path), word, name if "none" not in word else tmp_path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    write(tmp_path / "metadata.parquet", b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(lambda: ImageFolderSource(tmp_path), 'pip install "t2i[parquet]"')


def test_damaged_parquet_is_refused_in_one_line(tmp_path):
    data = (imagefolder(tmp_path, "parquet") / "metadata.parquet").read_bytes()
    chance = random.Random(0)
    for _ in range(60):
        at = chance.randrange(len(data))
        write(tmp_path / "metadata.parquet", data[:at] + chance.randbytes(3) + data[at + chance.choice((3, 9)) :])
        with contextlib.suppress(UserError):
            list(ImageFolderSource(tmp_path))
