"""What a user of `prepare` can get wrong ends in one line on stderr, the right exit code, and nothing written."""

import json
import shutil
from pathlib import Path

import pytest
from folders import listing
from PIL import Image

from t2i.cli import run


def images(folder: Path, count: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (20, 20), (number * 7 % 256, 90, 200)).save(folder / f"{number:03d}.png")
    return folder


def texts(folder: Path, count: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:03d}.txt").write_text(f"image {number}\n")
    return folder


def coco(root: Path, document: bytes) -> Path:
    images(root / "train2017")
    (root / "annotations").mkdir()
    (root / "annotations" / "captions_train2017.json").write_bytes(document)
    return root


@pytest.mark.parametrize(
    "options",
    [
        ("--coco", "missing"),
        ("--imagefolder", "missing"),
        ("--images", "missing", "--captions", "missing"),
        ("--shards", "missing/*.tar"),
    ],
    ids=lambda options: options[0],
)
def test_a_source_that_is_missing(refused, options):
    refused(1, "missing", "prepare", *options)


@pytest.mark.parametrize("kind", ["--coco", "--imagefolder", "--shards", "--images"])
def test_an_empty_folder_as_source(refused, here, kind):
    (here / "empty").mkdir()
    source = {"--shards": ["empty/*.tar"], "--images": ["empty", "--captions", "empty"]}.get(kind, ["empty"])
    refused(1, "empty", "prepare", kind, *source)


@pytest.mark.parametrize(
    "document",
    [b"\x00\xff{", b"[1, 2]", b'{"images": [{"id": 1, "fi', b"", b"{}", b"3", b"[" * 100_000],
    ids=["garbage", "a list", "truncated", "empty", "an empty object", "a number", "deep"],
)
def test_coco_annotations_that_are_none(refused, here, document):
    refused(1, "captions_train2017.json", "prepare", "--coco", coco(here / "coco", document))


def test_captions_without_images(refused, here):
    texts(here / "captions")
    (here / "images").mkdir()
    refused(1, "no images here", "prepare", "--images", "images", "--captions", "captions")


def test_images_without_captions(refused, here):
    images(here / "images")
    (here / "captions").mkdir()
    refused(1, "no caption files here", "prepare", "--images", "images", "--captions", "captions")
    (here / "captions" / "other.txt").write_text("another one")
    refused(1, "000.txt", "prepare", "--images", "images", "--captions", "captions")


@pytest.mark.parametrize("data", [b"this is a text\n", b""], ids=["a text file named .jpg", "0 bytes"])
def test_above_5_percent_unusable_images_are_refused_with_the_reason(refused, here, data):
    images(here / "images", 4)
    texts(here / "captions", 5)
    (here / "images" / "004.jpg").write_bytes(data)
    source = ("--images", "images", "--captions", "captions", "--workers", "1")
    line = refused(1, "1 of 5", "prepare", *source, "--out", "data", leaves="data.partial")
    assert "--max-skipped" in line and "004.jpg" in line and line.endswith("listed in data.partial/skipped.jsonl")
    assert run(["prepare", *source, "--out", "data", "--strict", "--max-skipped", "1"]) == 1
    assert not (here / "data").exists()


def test_a_few_unusable_images_are_counted_and_listed(here, capfd):
    images(here / "images", 38)
    texts(here / "captions", 40)
    (here / "images" / "038.jpg").write_bytes(b"this is a text\n")
    (here / "images" / "039.png").write_bytes(b"")
    source = ("--images", "images", "--captions", "captions", "--resolution", "16", "--workers", "1")
    assert run(["prepare", *source, "--out", "data", "--json"]) == 0
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert (err, report["images"], sum(report["skipped"].values())) == ("", 38, 2)
    skipped = [json.loads(line) for line in (here / "data" / "skipped.jsonl").read_text().splitlines()]
    assert [skip["file"] for skip in skipped] == ["038.jpg", "039.png"]
    assert all(skip["reason"] for skip in skipped)


def test_a_data_set_that_is_replaced_stays_until_the_new_one_is_whole(refused, here, capfd):
    images(here / "images", 4)
    texts(here / "captions", 4)
    source = ("--images", "images", "--captions", "captions", "--resolution", "16", "--workers", "1", "--out", "data")
    assert run(["prepare", *source]) == 0
    refused(1, "--overwrite", "prepare", *source)
    kept = listing(here / "data")
    (here / "images" / "000.png").write_bytes(b"")
    refused(1, "--max-skipped", "prepare", *source, "--overwrite", leaves="data.partial")
    assert listing(here / "data") == kept
    assert run(["prepare", *source, "--overwrite", "--max-skipped", "1"]) == 0
    assert json.loads((here / "data" / "dataset.json").read_text())["pictures"] == 3
    assert sorted(p.name for p in here.iterdir()) == ["captions", "data", "images"]
    texts(here / "mine")
    refused(1, "not replaced", "prepare", *source[:-1], "mine", "--overwrite")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no source was named"),
        (["--shapes", "9", "--coco", "x"], "--coco and --shapes exclude each other"),
        (["--images", "x", "--imagefolder", "y"], "exclude each other"),
        (["--images", "x", "--captions", "y", "--annotations", "z"], "--captions and --annotations exclude each other"),
        (["--shapes", "9", "--captions", "x"], "--captions goes with --images"),
        (["--shapes", "9", "--resolution", "50"], "--resolution 50"),
        (["--shapes", "9", "--resolution", "big"], "--resolution"),
        (["--shapes", "9", "--resolution", "8"], "shapes are drawn at 16 to 256 px, not 8"),
        (["--shapes", "9", "--resolution", "1024"], "shapes are drawn at 16 to 256 px, not 1024"),
        (["--shapes", "9", "--fraction", "0"], "--fraction 0"),
        (["--shapes", "9", "--fraction", "2"], "--fraction 2"),
        (["--shapes", "9", "--fraction", "nan"], "--fraction nan"),
        (["--shapes", "9", "--val-fraction", "1"], "--val-fraction 1"),
        (["--shapes", "9", "--limit", "0"], "--limit 0"),
        (["--shapes", "0"], "--shapes 0"),
        (["--shapes", "9", "--workers", "-1"], "--workers -1"),
        (["--shapes", "9", "--max-skipped", "5"], "--max-skipped 5"),
        (["--shapes", "9", "--split", "test"], "--split test"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_prepare_options_that_make_no_sense(refused, options, words):
    refused(2, words, "prepare", *options)


@pytest.mark.parametrize("left_out", ["config.json", "tokenizer.json", "everything"])
def test_a_text_encoder_that_is_none_is_refused_before_an_image_is_decoded(refused, here, tiny_bert, left_out):
    (here / "encoder").mkdir()
    for path in tiny_bert.iterdir() if left_out != "everything" else ():
        if path.name != left_out:
            shutil.copy(path, here / "encoder")
    source = ("--shapes", "4", "--resolution", "16", "--val-fraction", "0", "--workers", "1")
    line = refused(1, "cannot load the text encoder 'encoder'", "prepare", *source, "--text-encoder", "encoder")
    assert line.endswith("or a name on the Hugging Face hub") and len(line) < 420


def test_the_command_that_comes_next_is_quoted_for_the_shell(here, t2i):
    source = ("--shapes", "4", "--resolution", "16", "--val-fraction", "0", "--workers", "1")
    said = t2i("prepare", *source, "--out", "my $data").splitlines()
    assert said[-1] == "train on it: t2i train 'my $data'"


def test_a_file_name_cannot_write_to_the_terminal(here, capfd):
    """Names come from documents; control characters in them are shown as what they are."""
    images(here / "images", 2)
    texts(here / "images", 2)
    (here / "images" / "\x1b[31mred\r\x07.png").write_bytes(b"no image")
    (here / "images" / "\x1b[31mred\r\x07.txt").write_text("red")
    source = ["prepare", "--images", "images", "--captions", "images", "--resolution", "16", "--workers", "1"]
    for options, code in (([], 1), (["--strict"], 1), (["--max-skipped", "1"], 0)):
        assert run([*source, "--out", "data", *options]) == code
        said = "".join(capfd.readouterr())
        assert r"\x1b[31mred\r\x07.png" in said and not {"\x1b", "\r", "\x07"} & set(said)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["paint"], "paint"),
        (["generate", "a table", "--colour", "red"], "--colour"),
        (["train", "--batch"], "--batch"),
        (["train", "--batch", "many"], "--batch"),
        (["sample-grid", "--interpolate", "a"], "--interpolate"),
        (["info"], "path"),
        (["info", "a", "b"], "argument"),
        (["demo", "--images", "1"], "--images 1"),
        (["demo", "--minutes", "nan"], "--minutes nan"),
    ],
    ids=" ".join,
)
def test_unknown_commands_and_options(refused, arguments, words):
    assert "--help" in refused(2, words, *arguments) or arguments[0] == "demo"


def test_nothing_to_pick_names_the_command_to_run_first(refused):
    refused(1, "t2i prepare", "train")
    refused(1, "t2i train", "evaluate")
    refused(1, "t2i train", "train", "--resume")


@pytest.mark.parametrize("name", ["missing", "folder", "note.txt", "black.png", "note.png"])
def test_info_on_what_is_not_ours(refused, here, name):
    (here / "folder").mkdir()
    (here / "note.txt").write_text("hello")
    (here / "note.png").write_text("hello")
    Image.new("RGB", (4, 4)).save(here / "black.png")
    refused(1, name, "info", name)


@pytest.mark.parametrize("marker", ["dataset.json", "state.json", "model_index.json", "config.json"])
@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"format": 1, "settings": 3}', '{"format": 1, "files": {"a": 1}}'])
def test_info_on_a_damaged_description(refused, here, marker, text):
    (here / "x").mkdir()
    (here / "x" / marker).write_text(text)
    refused(1, "x", "info", "x")
