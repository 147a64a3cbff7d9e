"""COCO: the right captions with the right images, one line where something is wrong, nothing outside opened."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_checks import ROWS, imagefolder, refused, walk, write

from t2i.data.sources import (
    CocoSource,
)
from t2i.errors import UserError


def document(count=3, captions=2):
    """A small COCO captions document."""
    return {
        "info": {"year": 2017},
        "images": [
            {"id": n, "file_name": f"{n:012}.png", "height": 16, "width": 16, "license": 4} for n in range(1, count + 1)
        ],
        "annotations": [
            {"id": 10 * n + c, "image_id": n, "caption": f"Caption {c} of image {n}."}
            for n in range(1, count + 1)
            for c in range(captions)
        ],
    }


def coco(root, content=None, split="train2017", file="annotations/captions_train2017.json", count=3):
    for n in range(1, count + 1):
        write(root / split / f"{n:012}.png")
    content = document(count) if content is None else content
    write(root / file, content if isinstance(content, (bytes, str)) else json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("split", "file"),
    [
        ("train2017", "annotations/captions_train2017.json"),
        ("train2017", "annotations/train2017.json"),
        ("images/train2017", "annotations/captions_train2017.json"),
        ("train2014", "annotations/captions_train2014.json"),
        ("images/train2014", "annotations/train2014.json"),
        ("train", "annotations/captions_train.json"),
        ("train2017", "captions_train2017.json"),
    ],
)
def test_coco_is_found_as_users_have_it(tmp_path, split, file, capfd):
    source = CocoSource(coco(tmp_path / "Mini", split=split, file=file))
    records, skips = walk(source)
    assert records["000000000002.png"] == ("Caption 0 of image 2.", "Caption 1 of image 2.")
    assert list(records) == sorted(records) and len(records) == 3 and not skips
    assert source.name == "mini" and source.split == "train" and source.notes == []
    assert str(tmp_path) not in json.dumps(source.describe())
    assert next(iter(source)).image.load(8).shape == (8, 8, 3)
    assert capfd.readouterr() == ("", "")  # pycocotools prints


def test_coco_by_folder_and_file(tmp_path):
    coco(tmp_path, split="pics", file="my.json")
    records, _ = walk(CocoSource(images=tmp_path / "pics", annotations=tmp_path / "my.json", split="val"))
    assert len(records) == 3


def test_coco_of_two_years_is_not_mixed(tmp_path):
    write(tmp_path / "train2017" / "000000000001.png")
    coco(tmp_path, split="train2014", file="annotations/captions_train2014.json")
    assert CocoSource(tmp_path).images.name == "train2014"
    (tmp_path / "annotations/captions_train2014.json").rename(tmp_path / "annotations/captions_train.json")
    refused(lambda: CocoSource(tmp_path), "different years", "--annotations")


def test_coco_says_what_it_looked_for(tmp_path):
    refused(lambda: CocoSource(tmp_path / "no"), tmp_path / "no", "no such folder")
    refused(lambda: CocoSource(tmp_path), "train2017/", "--images")
    (tmp_path / "val2017").mkdir()
    refused(lambda: CocoSource(tmp_path), "--split val")
    (tmp_path / "train2017").mkdir()
    refused(lambda: CocoSource(tmp_path), "captions_train2017.json")
    refused(lambda: CocoSource(), "--images and --annotations")
    refused(lambda: CocoSource(tmp_path, split="../x"), "--split")
    coco(tmp_path, split="elsewhere")
    refused(lambda: CocoSource(tmp_path), "none of the 3 images", "000000000001.png")


def test_coco_counts_what_does_not_match(tmp_path):
    content = document(4)
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 3]
    content["annotations"] += [{"id": 1, "image_id": 77, "caption": "x"}, {"image_id": 1, "caption": "no id"}]
    content["images"].append({"id": 9, "file_name": "./000000000001.png"})
    content["annotations"].append({"id": 5, "image_id": 9, "caption": "under its other id"})
    source = CocoSource(coco(tmp_path, content))
    records, skips = walk(source)
    assert set(records) == {"000000000001.png", "000000000002.png"}
    assert records["000000000001.png"][-2:] == ("no id", "under its other id")
    assert skips == {"000000000003.png": "no caption", "000000000004.png": "missing file"}
    assert any("1 image with a file that another names too" in note for note in source.notes)
    assert any("1 caption of images that the file does not list" in note for note in source.notes)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "NaN",
        "{}",
        b"\xff\xfe{}",
        "[" * 100_000,
        '{"images": ' + "[" * 900 + "]" * 900 + ', "annotations": []}',
        '{"images": [], "annotations": []}',
        '{"images": {}, "annotations": []}',
        '{"images": [1], "annotations": []}',
        '{"images": [{"id": 1}], "annotations": []}',
        '{"images": [{"id": NaN, "file_name": "a"}], "annotations": []}',
        '{"images": [{"id": true, "file_name": "a"}], "annotations": []}',
        '{"images": [{"id": 1e400, "file_name": "a"}], "annotations": []}',
        '{"images": [{"id": ' + "9" * 4000 + ', "file_name": "a"}], "annotations": []}',
        '{"images": [{"id": ' + "9" * 9000 + ', "file_name": "a"}], "annotations": []}',
        '{"images": [{"id": 1, "file_name": ["a"]}], "annotations": []}',
        '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}',
        '{"images": [{"id": 1, "file_name": "a"}], "annotations": [0]}',
        '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1}]}',
        '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "caption": 5}]}',
        '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": [], "caption": "x"}]}',
        '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"caption": "x"}]}',
        '{"images": [{"id": 1, "file_name": "nowhere.png"}], "annotations": []}',
    ],
)
def test_malformed_coco_is_refused_in_one_line(tmp_path, content):
    coco(tmp_path, content)
    refused(lambda: CocoSource(tmp_path), tmp_path)


HOSTILE = ["../out.png", "x/../../out.png", "/etc/passwd", "file:///etc/passwd", "https://x.org/a.png", "a\0.png"]
HOSTILE += ["..\\out.png", "C:\\x.png", "c:x.png", "\ud800.png", "\udcff.png", "..", ".", "", " ", "link.png"]
HOSTILE += ["up/out.png", "up/../out.png", "loop/x/../../../out.png"]


def test_hostile_file_names_are_refused_and_nothing_outside_is_opened(tmp_path):
    """An audit hook in a process of its own sees every open() and every folder listing."""
    root = coco(tmp_path / "root")
    write(tmp_path / "out.png")
    (root / "train2017/link.png").symlink_to(tmp_path / "out.png")
    (root / "train2017/up").symlink_to(tmp_path)
    imagefolder(root / "good", "jsonl", ROWS[:2])
    for number, name in enumerate(HOSTILE):
        content = document()
        content["images"][1] = {"id": 4711, "file_name": name}
        write(root / f"{number}.json", json.dumps(content))
        lines = [{"file_name": "000000000001.png", "text": "x"}, {"file_name": name, "text": "x"}]
        (root / f"m{number}").mkdir()
        write(root / f"m{number}/000000000001.png")
        (root / f"m{number}/link.png").symlink_to(tmp_path / "out.png")
        (root / f"m{number}/up").symlink_to(tmp_path)
        write(root / f"m{number}/metadata.jsonl", "\n".join(map(json.dumps, lines)))
    script = """
import os, sys
from t2i.data.sources import CocoSource, ImageFolderSource
from t2i.errors import UserError
root, count = sys.argv[1], int(sys.argv[2])
opened = []
def hook(event, args):
    if watching and event in ("open", "os.scandir", "os.listdir", "socket.connect", "urllib.Request"):
        opened.append(os.path.realpath(os.fsdecode(args[0])) if isinstance(args[0], (str, bytes)) else args)
watching = False
sys.addaudithook(hook)
def attempt(make):
    try:
        for entry in make():
            if hasattr(entry, "image"):
                entry.image.load(8)
    except UserError as error:
        print(ascii(str(error)))
    else:
        print("ACCEPTED")
attempt(lambda: CocoSource(root))  # Python's own imports are done after these
attempt(lambda: ImageFolderSource(root + "/good"))
watching = True
for n in range(count):
    attempt(lambda: CocoSource(images=root + "/train2017", annotations=f"{root}/{n}.json"))
    attempt(lambda: ImageFolderSource(f"{root}/m{n}"))
watching = False
assert len(opened) >= 2 * count, opened
for path in opened:
    assert str(path).startswith(root + "/"), path
"""
    root = os.path.realpath(root)
    command = [sys.executable, "-c", script, root, str(len(HOSTILE))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["ACCEPTED", "ACCEPTED"]
    del lines[:2]
    assert len(lines) == 2 * len(HOSTILE)
    for name, one, two in zip(HOSTILE, lines[::2], lines[1::2], strict=True):
        if not name.strip():  # no name leads nowhere: it costs its entry
            assert one == two == "ACCEPTED"
            continue
        assert "4711" in one, (name, one)
        assert "line 2" in two, (name, two)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**63), 10**300, 0, 1, 2])
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=8)
    | st.sampled_from(HOSTILE),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "file_name", "image_id", "caption", "images"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def check_document(root, content):
    """It is walked, or refused in one line; an image of it is loaded, or refused."""
    write(root / "annotations/captions_train2017.json", content)
    try:
        source = CocoSource(root)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 700
        str(error).encode()
        return False
    walk(source)
    return True


def spots(value):
    """Every (container, key) in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from spots(inner)


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_document_is_walked_or_refused_in_one_line(tmp_path, data):
    coco(tmp_path)
    content = document()
    for _ in range(data.draw(st.integers(1, 2))):
        places = list(spots(content))
        if not places:
            break
        container, key = data.draw(st.sampled_from(places))
        if data.draw(st.booleans()):
            container[key] = data.draw(VALUES)
        else:
            del container[key]
    check_document(tmp_path, json.dumps(content))
