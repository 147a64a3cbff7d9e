"""Every source: the right captions with the right pictures, in one line what is wrong, nothing outside opened."""

import contextlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from t2i.data.records import Record, Skip
from t2i.data.sources import (
    CocoSource,
    FolderPairSource,
    ImageFolderSource,
    ShardSource,
    clean_captions,
    source_name,
)
from t2i.errors import UserError

PICTURE = io.BytesIO()
Image.new("RGB", (16, 16), "red").save(PICTURE, "PNG")
PICTURE = PICTURE.getvalue()


def write(path, data=PICTURE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def walk(source):
    """({key: captions}, {key: reason}), after the checks that hold for every source."""
    entries = list(source)
    assert entries == list(source), "a second walk differs"
    assert len(source) == len(entries)
    records = [entry for entry in entries if isinstance(entry, Record)]
    skips = [entry for entry in entries if isinstance(entry, Skip)]
    assert len({record.key for record in records}) == len(records), "keys are not unique"
    for record in records:
        assert record.captions == clean_captions(record.captions) != ()
    json.dumps(source.describe())
    for text in (*(e.key for e in entries), *(s.detail for s in skips), *source.notes):
        text.encode()
    assert source.name and set(source.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    return {r.key: r.captions for r in records}, {s.key: s.reason for s in skips}


def refused(make, *words):
    with pytest.raises(UserError) as caught:
        list(make())
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600
    for word in words:
        assert str(word) in text, text
    return text


# ---------------------------------------------------------------- captions and names


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


# ---------------------------------------------------------------- COCO


def document(count=3, captions=2):
    """A small COCO captions document."""
    return {
        "info": {"year": 2017},
        "images": [
            {"id": n, "file_name": f"{n:012}.png", "height": 16, "width": 16, "license": 4} for n in range(1, count + 1)
        ],
        "annotations": [
            {"id": 10 * n + c, "image_id": n, "caption": f"Caption {c} of picture {n}."}
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
    assert records["000000000002.png"] == ("Caption 0 of picture 2.", "Caption 1 of picture 2.")
    assert list(records) == sorted(records) and len(records) == 3 and not skips
    assert source.name == "mini" and source.split == "train" and source.notes == []
    assert str(tmp_path) not in json.dumps(source.describe())
    assert next(iter(source)).picture.load(8).shape == (8, 8, 3)
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
    refused(lambda: CocoSource(tmp_path), "none of the 3 pictures", "000000000001.png")


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
    assert any("1 images name a file that another names too" in note for note in source.notes)
    assert any("1 captions" in note for note in source.notes)
    assert any("000000000004.png" in note for note in source.notes)


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
            entry.picture.load(8)
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["ACCEPTED", "ACCEPTED"]
    del lines[:2]
    assert len(lines) == 2 * len(HOSTILE)
    for name, one, two in zip(HOSTILE, lines[::2], lines[1::2], strict=True):
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
    """It is walked, or refused in one line; a picture of it is loaded, or refused."""
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
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


# ---------------------------------------------------------------- a folder pair


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
    assert any("1 pictures without a caption file: z.png" in note for note in source.notes)
    assert any("2 caption files without a picture: left.txt, over.txt" in note for note in source.notes)
    assert str(tmp_path) not in json.dumps(source.describe())


def test_folder_pair_may_be_one_folder(tmp_path):
    write(tmp_path / "set/a.png")
    write(tmp_path / "set/a.txt", "a")
    assert walk(FolderPairSource(tmp_path / "set", tmp_path / "set")) == ({"a.png": ("a",)}, {})


def test_bad_caption_files_cost_their_picture_only(tmp_path):
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


def test_of_two_pictures_of_one_name_the_first_is_taken(tmp_path):
    for name in ("i/a.png", "i/a.jpg", "c/a.txt"):
        write(tmp_path / name)
    write(tmp_path / "c/a.txt", "x")
    records, skips = walk(FolderPairSource(tmp_path / "i", tmp_path / "c"))
    assert list(records) == ["a.jpg"] and skips == {"a.png": "second picture of the same name"}


def test_file_names_that_are_no_utf8_are_skipped(tmp_path):
    write(tmp_path / "i/ok.png")
    write(tmp_path / "c/ok.txt", "ok")
    try:
        (tmp_path / "i" / os.fsdecode(b"bad\xff.png")).write_bytes(PICTURE)
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
    refused(lambda: FolderPairSource(tmp_path / "no", captions), "no such folder", "pictures")
    refused(lambda: FolderPairSource(images / "a.png", captions), "no folder")
    refused(lambda: FolderPairSource(empty, captions), empty, "no pictures")
    refused(lambda: FolderPairSource(images, empty), empty, "x.txt")
    refused(lambda: FolderPairSource(images, captions), "a.png needs a.txt")


def test_linked_pictures_of_the_users_own_folder_are_followed(tmp_path):
    write(tmp_path / "disk/1.png")
    (tmp_path / "i").mkdir()
    (tmp_path / "i/a.png").symlink_to(tmp_path / "disk/1.png")
    write(tmp_path / "c/a.txt", "a")
    (record,) = FolderPairSource(tmp_path / "i", tmp_path / "c")
    assert record.picture.load(8).shape == (8, 8, 3)


# ---------------------------------------------------------------- imagefolder

ROWS = [("a.png", "a picture"), ("sub/b.png", "another, with a comma"), ("gone.png", "not there")]


def imagefolder(root, kind, rows=ROWS, column="text"):
    write(root / "a.png")
    write(root / "sub/b.png")
    match kind:
        case "jsonl":
            lines = [json.dumps({"file_name": name, column: caption}) for name, caption in rows]
            write(root / "metadata.jsonl", "\ufeff" + "\n\n".join(lines) + "\n")
        case "csv":
            body = "".join(f'{name},"{caption}",1\r\n' for name, caption in rows)
            write(root / "metadata.csv", f"file_name,{column},width\r\n{body}")
        case "parquet":
            pyarrow = pytest.importorskip("pyarrow")
            import pyarrow.parquet as parquet

            table = {"file_name": [r[0] for r in rows], column: [r[1] for r in rows], "width": [1] * len(rows)}
            parquet.write_table(pyarrow.table(table), root / "metadata.parquet")
    return root


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_imagefolder_rows_are_read(tmp_path, kind, column):
    source = ImageFolderSource(imagefolder(tmp_path / "Set One", kind, column=column))
    records, skips = walk(source)
    assert records == {"a.png": ("a picture",), "sub/b.png": ("another, with a comma",)}
    assert skips == {"gone.png": "missing file"} and source.name == "set-one"
    assert next(iter(source)).picture.load(8).shape == (8, 8, 3)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_imagefolder_takes_lists_of_captions_and_empty_ones(tmp_path, kind):
    rows = [("a.png", ["one", "two", "one"]), ("a.png", ["three"]), ("sub/b.png", None), ("a.png", ["again"])]
    records, skips = walk(ImageFolderSource(imagefolder(tmp_path, kind, rows, "captions")))
    assert records == {"a.png": ("one", "two", "three")}  # rows of one picture in a row are one
    assert skips == {"sub/b.png": "no caption", "a.png": "second entry of the same file"}


def test_imagefolder_metadata_may_lie_in_the_split(tmp_path):
    imagefolder(tmp_path / "val", "jsonl")
    assert len(ImageFolderSource(tmp_path, "val")) == 3
    refused(lambda: ImageFolderSource(tmp_path, "train"), "metadata.jsonl", "train/")


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("metadata.jsonl", "", "no rows"),
        ("metadata.jsonl", "{", "line 1"),
        ("metadata.jsonl", "[1]", "line 1"),
        ("metadata.jsonl", "[" * 100_000, "line 1"),
        ("metadata.jsonl", "x" * 2**21, "longer"),
        ("metadata.jsonl", b"\xff\xfe", "UTF-8"),
        ("metadata.jsonl", '{"text": "x"}', "file_name"),
        ("metadata.jsonl", '{"file_name": "a.png", "label": 3}', "'file_name, label'"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": 3}', "text"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": [["x"]]}', "text"),
        ("metadata.jsonl", '{"file_name": "../a.png", "text": "x"}', ".."),
        ("metadata.jsonl", '{"file_name": "none.png", "text": "x"}', "none of the 1"),
        ("metadata.csv", "file_name,text\n/etc/passwd,x\n", "absolute"),
        ("metadata.csv", "file_name,text\n", "no rows"),
        ("metadata.csv", 'file_name,text\na.png,"x" y\n', "line 2"),
        ("metadata.csv", "file_name,text\na.png," + "x" * 200_000, "line"),
        ("metadata.csv", b"file_name,text\na.png,\xff\n", "UTF-8"),
        ("metadata.csv", "name,text\na.png,x\n", "file_name"),
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


# ---------------------------------------------------------------- shards


def shard(path, members, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            member = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(data, tarfile.TarInfo) else data
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def sample(key, caption="a picture", extension="png", document=True, text=True):
    parts = [(f"{key}.{extension}", PICTURE)]
    parts += [(f"{key}.txt", caption.encode())] if text else []
    parts += [(f"{key}.json", json.dumps({"caption": caption, "url": "x"}).encode())] if document else []
    return parts


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_are_read_in_place(tmp_path, format):
    long = "k" * 200 if format != tarfile.USTAR_FORMAT else "k"
    shard(tmp_path / "laion/00001.tar", sample("000010"), format=format)
    shard(
        tmp_path / "laion/00000.tar",
        sample("000001", "second")
        + sample(f"000000{long}", "first,\nin two lines")
        + sample("000002", "text only\nand more", "JPG", document=False)
        + sample("000003", "json only", "webp", text=False)
        + [("000004.png", PICTURE), ("000005.txt", b"alone"), ("README", b"x"), ("a/.hidden", b"x")],
        format=format,
    )
    for pattern in ("*.tar", "{00000..00001}.tar", ""):
        source = ShardSource(tmp_path / "laion" / pattern)
        records, skips = walk(source)
        assert records == {
            f"00000.tar/000000{long}": ("first, in two lines",),
            "00000.tar/000001": ("second",),
            "00000.tar/000002": ("text only", "and more"),
            "00000.tar/000003": ("json only",),
            "00001.tar/000010": ("a picture",),
        }
        assert list(records) == sorted(records) and source.name == "laion"
        assert skips == {"00000.tar/000004": "no caption file"}
        assert source.notes == ["1 captions without a picture"]
        assert str(tmp_path) not in json.dumps(source.describe())
        for entry in source:
            if isinstance(entry, Record):
                assert entry.picture.load(8).shape == (8, 8, 3)


def test_links_and_devices_in_shards_are_no_pictures(tmp_path):
    members = []
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)):
        member = tarfile.TarInfo(f"{number}.png")
        member.type, member.linkname = kind, "/etc/passwd"
        members += [(member.name, member), (f"{number}.txt", b"x")]
    path = shard(tmp_path / "s/0.tar", [*members, *sample("../../up"), *sample("/abs")])
    records, skips = walk(ShardSource(path))
    assert set(records) == {"0.tar/../../up", "0.tar/abs"} and not skips
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["0.tar", "s"], "something was extracted"


def test_bad_caption_members_cost_their_picture_only(tmp_path):
    members = [("a.png", PICTURE), ("a.txt", b"\xff"), ("b.png", PICTURE), ("b.json", b"{" * 5000)]
    members += [("c.png", PICTURE), ("c.json", b" " * 2**21), ("d.png", PICTURE), ("d.json", b"{}")]
    members += [("e.png", PICTURE), ("e.json", b'{"caption": 5}'), ("e.txt", b"the text"), ("e.jpg", PICTURE)]
    records, skips = walk(ShardSource(shard(tmp_path / "0.tar", members)))
    assert records == {"0.tar/e": ("the text",)}
    assert skips == {
        "0.tar/a": "caption file is not UTF-8",
        "0.tar/b": "caption file is not valid JSON",
        "0.tar/c": "caption file is too big",
        "0.tar/d": "no caption",
        "0.tar/e.jpg": "second picture of the same name",
    }


def test_damaged_shards_give_what_came_before(tmp_path):
    good = shard(tmp_path / "0.tar", [m for n in range(6) for m in sample(f"{n}")]).read_bytes()
    chance = random.Random(0)
    seen = set()
    for _ in range(150):
        at = chance.randrange(len(good))
        damaged = good[:at] if chance.random() < 0.3 else good[:at] + chance.randbytes(20) + good[at + 20 :]
        write(tmp_path / "0.tar", damaged)
        try:
            records, skips = walk(ShardSource(tmp_path / "0.tar"))
        except UserError as error:
            assert "\n" not in str(error)
            continue
        assert len(records) <= 6
        seen.update(skips.values())
    assert "damaged tar" in seen


def test_a_header_that_leads_back_does_not_loop(tmp_path):
    """A negative size in a base-256 field sends a careless reader round for ever."""
    path = shard(tmp_path / "0.tar", sample("a") + sample("b"), format=tarfile.GNU_FORMAT)
    data = bytearray(path.read_bytes())
    at = data.index(b"b.png\0")
    data[at + 124 : at + 136] = (-4096 & (2**96 - 1)).to_bytes(12, "big")
    header = data[at : at + 512]
    header[148:156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    path.write_bytes(data)
    _, skips = walk(ShardSource(path))
    assert skips == {"0.tar": "damaged tar"}


def test_shards_say_what_they_expected(tmp_path):
    refused(lambda: ShardSource(tmp_path / "*.tar"), "no such tar files")
    refused(lambda: ShardSource(tmp_path / "{0..2}.tar"), "0.tar", "3 of the 3")
    refused(lambda: ShardSource(tmp_path / "{2..0}.tar"), "range")
    refused(lambda: ShardSource(tmp_path / "{0..99999999999}.tar"), "range")
    refused(lambda: ShardSource(shard(tmp_path / "e.tar", [("x.txt", b"x")])), "no pictures")
    refused(lambda: ShardSource(write(tmp_path / "junk.tar", b"x" * 4096)), "damaged")
    refused(lambda: ShardSource(write(tmp_path / "null.tar", b"")), "damaged")
    with tarfile.open(tmp_path / "z.tar.gz", "w:gz"):
        pass
    refused(lambda: ShardSource(tmp_path / "z.tar.gz"), "compressed")
