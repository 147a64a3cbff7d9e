"""The rules that hold for every source, by kind: nothing is passed over, a flaw costs its entry, names are as seen."""

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
import unicodedata
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_checks import IMAGE, refused, walk, write

from t2i.data.records import Record, Skip
from t2i.data.sources import CocoSource, FolderPairSource, ImageFolderSource, ShardSource, annotations_source
from t2i.data.sources.captions import raw_captions
from t2i.data.sources.coco import read_id
from t2i.data.sources.names import Names, TwoFit, folded
from t2i.files import write_json

EXAMPLES = settings(max_examples=25)
WORDS = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8)
CAPTIONS = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="[]"), min_size=1, max_size=20)


# ---- 1: nothing that looks like an entry is passed over ----------------------------------------------------------

EXTENSIONS = st.sampled_from(
    ["heic", "HEIC", "jxl", "jp2", "svg", "ico", "tga", "pcx", "psd", "", "jpg_large", "xyz"]
) | st.text("abcdefghijklmnopqrstuvwxyz0123456789", max_size=5)


def reserved(extension):
    """Endings that are captions', or that t2i and WebDataset give a meaning."""
    return extension.lower() in (
        "txt", "json", "caption", "cls", "cls2", "index", "inx", "id", "npy", "npz", "pth", "pt", "pkl", "pickle",
        "pyd", "msgpack", "mp", "ten", "tb", "cbor",
    )  # fmt: skip


@given(
    st.lists(EXTENSIONS.filter(lambda e: not reserved(e)), min_size=1, max_size=6),
    st.sampled_from(["folder", "zip", "tar"]),
)
@EXAMPLES
def test_whatever_has_a_caption_is_an_entry(tmp_path_factory, extensions, where):
    root = tmp_path_factory.mktemp("any")
    files = {f"{number:03d}": f".{extension}" if extension else "" for number, extension in enumerate(extensions)}
    members = [(f"{name}{ending}", b"no image's bytes") for name, ending in files.items()]
    members += [(f"{name}.txt", b"a caption") for name in files] + [("good.png", IMAGE), ("good.txt", b"good")]
    if where == "folder":
        for name, data in members:
            write(root / "set" / name, data)
        source = FolderPairSource(root / "set")
    elif where == "zip":
        with zipfile.ZipFile(root / "set.zip", "w") as archive:
            for name, data in members:
                archive.writestr(name, data)
        source = FolderPairSource(root / "set.zip")
    else:
        with tarfile.open(root / "set.tar", "w") as tar:
            for name, data in members:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        source = ShardSource(root / "set.tar")
    walk(source)
    assert len(list(source)) == len(files) + 1


def test_undecodable_formats_count_against_strict_and_max_skipped(tmp_path, capfd, monkeypatch):
    from hash_encoder import HashEncoder

    from t2i.cli import run

    monkeypatch.setattr("t2i.text.encoders.load_encoder", lambda name, *rest: HashEncoder())
    for number in range(4):
        write(tmp_path / f"set/{number}.png")
        write(tmp_path / f"set/{number}.txt", "good")
        write(tmp_path / f"set/h{number}.HEIC", b"\0\0\0\x18ftypheic" + bytes(40))
        write(tmp_path / f"set/h{number}.txt", "lost")
    call = [
        "prepare",
        "--images",
        str(tmp_path / "set"),
        "--resolution",
        "8",
        "--workers",
        "1",
        "--out",
        str(tmp_path / "o"),
    ]
    assert run([*call, "--strict", "--max-skipped", "0"]) == 1
    assert run([*call, "--max-skipped", "0.4"]) == 1
    assert "4 of 8 entries cannot be used (50%" in capfd.readouterr().err
    assert run([*call, "--max-skipped", "0.5"]) == 0


@pytest.mark.parametrize("follow", [True, False])
def test_linked_folders_are_followed_once_and_circles_end(tmp_path, follow):
    for number in range(3):
        write(tmp_path / f"set/own/{number}.png")
        write(tmp_path / f"disk/{number}.png")
    write(tmp_path / "set/deep/er/1.png")
    (tmp_path / "set/link").symlink_to(tmp_path / "disk")
    (tmp_path / "set/again").symlink_to(tmp_path / "disk")
    (tmp_path / "set/deep/up").symlink_to(tmp_path / "set")
    (tmp_path / "disk/back").symlink_to(tmp_path / "set")
    (tmp_path / "set/inner").symlink_to("deep/er")
    rows = [{"file_name": f"own/{number}.png", "text": "x"} for number in range(3)]
    write(tmp_path / "set/metadata.jsonl", "\n".join(map(json.dumps, rows)))
    source = ImageFolderSource(tmp_path / "set", follow=follow)
    files = source.tree.files()
    images = [file for file in files if file.endswith(".png")]
    assert [file for file in images if file.startswith("own/")] == ["own/0.png", "own/1.png", "own/2.png"]
    assert "deep/er/1.png" in images and not any(file.startswith("inner/") for file in files)
    linked = [file for file in images if file.startswith(("link/", "again/"))]
    assert len(linked) == (3 if follow else 0)
    notes = "\n".join(source.notes)
    assert "inner" in notes and ("2 linked folders that leads out" in notes or follow)
    assert ("--follow-links" in notes) is not follow


def test_images_that_no_list_names_are_said(tmp_path):
    write(tmp_path / "i/a.png")
    write(tmp_path / "i/b.png")
    write(tmp_path / "l.csv", "image,caption\na.png,x\n")
    assert "1 image that no list names: b.png" in annotations_source(tmp_path / "i", tmp_path / "l.csv").notes


# ---- 2: a flaw costs its entry -----------------------------------------------------------------------------------


@given(st.lists(st.lists(WORDS, min_size=1, max_size=6), min_size=1, max_size=8), st.integers(2, 4))
@EXAMPLES
def test_rows_of_any_width_cost_no_other_row_and_name_the_cause(tmp_path_factory, tails, columns):
    root = tmp_path_factory.mktemp("rows")
    write(root / "good.png")
    lines = [["file_name", "text", "a", "b"][:columns], ["good.png", "good", *["x"] * (columns - 2)]]
    for number, tail in enumerate(tails):
        write(root / f"{number}.png")
        lines.append([f"{number}.png", *tail])
    write(root / "metadata.csv", "\n".join(",".join(line) for line in lines) + "\n")
    entries = {entry.key: entry for entry in ImageFolderSource(root)}
    assert entries["good.png"].captions == ("good",)
    for number, tail in enumerate(tails):
        entry = entries[f"{number}.png"]
        if len(tail) + 1 > columns:
            assert isinstance(entry, Skip) and entry.reason == "more cells than columns"
            assert entry.detail == (
                f"line {number + 3} has {len(tail) + 1} cells, the header {columns}: quote captions that contain commas"
            )
        else:
            assert entry.captions == (tail[0],)


NUMBERS = st.integers(-(2**40), 2**40)
KINDS = st.sampled_from([lambda n: n, str, float, lambda n: f"{n}.0", lambda n: f" {n} ", lambda n: f"{n:06d}"])


@given(st.lists(NUMBERS, min_size=1, max_size=6, unique=True), st.data())
@EXAMPLES
def test_ids_of_any_number_type_are_one(tmp_path_factory, ids, data):
    root = tmp_path_factory.mktemp("ids")
    document = {"images": [], "annotations": []}
    for number, identity in enumerate(ids):
        write(root / f"{number}.png")
        document["images"].append({"id": data.draw(KINDS)(identity), "file_name": f"{number}.png"})
        document["annotations"].append({"image_id": data.draw(KINDS)(identity), "caption": f"caption {number}"})
    write(root / "c.json", json.dumps(document))
    source = CocoSource(images=root, annotations=root / "c.json")
    records, skips = walk(source)
    assert records == {f"{number}.png": (f"caption {number}",) for number in range(len(ids))} and not skips
    assert not source.notes


@pytest.mark.parametrize("value", [True, None, float("nan"), float("inf"), [], {}, "", "x" * 300, 10**40])
def test_what_is_no_id(value):
    assert read_id(value) is None


def test_flaws_of_a_coco_document_cost_their_entry(tmp_path):
    for number in range(5):
        write(tmp_path / f"i/{number}.png")
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(5)]
    images += [{"id": 0, "file_name": "0.png"}, {"id": 1.5}, "x", {"id": None, "file_name": "7.png"}]
    captions = [{"image_id": number, "caption": f"c{number}"} for number in range(4)]
    captions += [
        {"image_id": 4, "caption": None},
        {"image_id": 3, "caption": None},
        {"image_id": [], "caption": "x"},
        7,
    ]
    write(tmp_path / "c.json", json.dumps({"images": images, "annotations": captions}))
    source = CocoSource(images=tmp_path / "i", annotations=tmp_path / "c.json")
    entries = list(source)
    records = {entry.key: entry.captions for entry in entries if isinstance(entry, Record)}
    assert records == {f"{number}.png": (f"c{number}",) for number in range(4)}
    reasons = sorted((skip.key, skip.reason) for skip in entries if isinstance(skip, Skip))
    assert reasons == [
        ("0.png", "second image of one id"), ("4.png", "caption is no text"), ("7.png", "no usable id"),
        ("c.json annotations[6]", "no usable image_id"), ("c.json annotations[7]", "no usable image_id"),
        ("c.json images[6]", "no file name"), ("c.json images[7]", "no file name"),
    ]  # fmt: skip
    assert any(note.startswith("2 rows with a caption that is no text") for note in source.notes)
    assert len(source) == len(entries)


@given(st.lists(st.sampled_from(["good", "not JSON", "[1]", '{"text": "x"}', b"\xff\xfe", "long"]), min_size=1))
@EXAMPLES
def test_a_line_costs_itself(tmp_path_factory, kinds):
    root = tmp_path_factory.mktemp("lines")
    lines = [json.dumps({"file_name": "a.png", "text": "first"}).encode()]
    write(root / "a.png")
    for number, kind in enumerate(kinds):
        write(root / f"{number}.png")
        good = json.dumps({"file_name": f"{number}.png", "text": "x" * (2**20 if kind == "long" else 1)}).encode()
        lines.append(good if kind in ("good", "long") else kind if isinstance(kind, bytes) else kind.encode())
    write(root / "metadata.jsonl", b"\n".join(lines))
    source = ImageFolderSource(root)
    entries = list(source)
    assert len(source) == len(entries) == len(kinds) + 1
    assert sum(isinstance(entry, Record) for entry in entries) == kinds.count("good") + 1


# ---- 3: captions are put together --------------------------------------------------------------------------------


@given(st.permutations([(name, number) for name in "abc" for number in range(3)]))
@EXAMPLES
def test_rows_of_one_image_are_put_together_wherever_they_stand(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("order")
    for name in "abc":
        write(root / f"{name}.png")
    lines = [json.dumps({"file_name": f"{name}.png", "text": f"{name} {number}"}) for name, number in rows]
    write(root / "metadata.jsonl", "\n".join(lines))
    records, skips = walk(ImageFolderSource(root))
    expected = {}
    for name, number in rows:
        expected.setdefault(f"{name}.png", []).append(f"{name} {number}")
    assert {key: list(captions) for key, captions in records.items()} == expected and not skips
    assert list(records) == list(expected)


@given(st.lists(CAPTIONS, min_size=1, max_size=5), st.sampled_from([json.dumps, str, repr]))
def test_a_text_that_is_a_list_is_that_list(texts, write_list):
    assert raw_captions(write_list(texts)) == texts


@pytest.mark.parametrize("text", ["[a dog]", "[1, 2]", "[", "[]]", "a [dog]", "['unfinished]", "[" * 5000])
def test_other_texts_with_brackets_stay(text):
    assert raw_captions(text) == [text]


def test_numpys_lists_and_missing_ones_are_lists():
    assert raw_captions("['a dog'\n 'two cats']") == ["a dog", "two cats"]
    assert raw_captions("['a', None, nan]") == ["a"] and raw_captions("[]") == []
    assert raw_captions([{"raw": "one", "tokens": []}, {"text": "two"}]) == ["one", "two"]


def test_the_first_column_that_holds_something_counts_row_by_row(tmp_path):
    rows = [
        {"file_name": "a.png", "text": "", "caption": "good"}, {"file_name": "b.png", "text": "kept", "caption": "not"},
        {"file_name": "c.png", "text": None, "captions": ["x", "y"]},
        {"file_name": "d.png", "text": float("nan"), "prompt": "p"},
        {"file_name": "e.png", "caption_0": "one", "caption_1": "two"},
    ]  # fmt: skip
    for row in rows:
        write(tmp_path / row["file_name"])
    write(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    records, _ = walk(ImageFolderSource(tmp_path))
    assert list(records.values()) == [("good",), ("kept",), ("x", "y"), ("p",), ("one", "two")]


# ---- 4: names as people see them ---------------------------------------------------------------------------------

FORMS = st.sampled_from(["NFC", "NFD"])
SEEN = st.text(st.sampled_from("aeoucnzéöüçñž日本한글"), min_size=1, max_size=6)


@given(st.lists(SEEN, min_size=1, max_size=5, unique_by=lambda name: unicodedata.normalize("NFC", name)), st.data())
@EXAMPLES
def test_names_in_any_normal_form_and_case_of_the_ending_are_found(tmp_path_factory, names, data):
    root = tmp_path_factory.mktemp("names")
    lines, texts = [], {}
    for number, name in enumerate(names):
        on_disk = unicodedata.normalize(data.draw(FORMS), name)
        listed = unicodedata.normalize(data.draw(FORMS), name)
        ending = data.draw(st.sampled_from([".png", ".PNG", ".Png"]))
        write(root / "set" / "sub" / f"{on_disk}.png")
        write(root / "texts" / "sub" / f"{listed}.txt", f"c{number}")
        slash = data.draw(st.sampled_from(["/", "\\", "/./"]))
        lines.append(json.dumps({"file_name": f"sub{slash}{listed}{ending}", "text": f"c{number}"}))
        texts[f"sub/{on_disk}.png"] = (f"c{number}",)
    write(root / "set" / "metadata.jsonl", "\n".join(lines))
    assert walk(ImageFolderSource(root / "set")) == (texts, {})
    assert walk(FolderPairSource(root / "set", root / "texts")) == (dict(sorted(texts.items())), {})


def test_an_exact_name_wins_and_two_that_fit_are_named(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    for name in (nfc, nfd, "x.jpg", "x.JPG"):
        write(tmp_path / name)
    rows = [{"file_name": name, "text": name} for name in (nfc, nfd, "x.Jpg", "x.jpg")]
    write(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    entries = {entry.key: entry for entry in ImageFolderSource(tmp_path)}
    assert set(entries) == {nfc, nfd, "x.Jpg", "x.jpg"}
    assert entries["x.Jpg"] == Skip("x.Jpg", "name fits two files", "line 3: x.JPG and x.jpg")
    with pytest.raises(TwoFit):
        Names(["x.jpg", "x.JPG"]).find("x.jPg")
    assert folded("a\\./b.PNG") == "a/b.png"


def test_good_names_are_good_under_an_ascii_locale(tmp_path):
    write(tmp_path / "set/blåbær.png")
    write(tmp_path / "set/blåbær.txt", "berries")
    write(tmp_path / "set/metadata.jsonl", json.dumps({"file_name": "blåbær.png", "text": "berries"}))
    script = (
        "import sys\nfrom t2i.data.sources import FolderPairSource, ImageFolderSource\n"
        "assert sys.getfilesystemencoding() == 'ascii'\n"
        "for source in (FolderPairSource(sys.argv[1]), ImageFolderSource(sys.argv[1])):\n"
        "    (entry,) = source\n    print(ascii(entry.key), entry.image.load(8).shape)\n"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "set"], env=environment, capture_output=True, text=True
    )
    if "AssertionError" in done.stderr:
        pytest.skip("this system's C locale is UTF-8")
    assert (done.stderr, done.stdout.splitlines()) == ("", [r"'bl\xe5b\xe6r.png' (8, 8, 3)"] * 2)


# ---- 7: t2i never reads what t2i wrote ---------------------------------------------------------------------------


def test_own_folders_and_own_drawings_are_left_out(tmp_path):
    from PIL import Image

    from t2i.image_files import save_image

    for name in ("a", "t2i-data/set/preview", "runs/0/samples/x", "other/b"):
        write(tmp_path / f"{name}.png")
        write(tmp_path / f"{name}.txt", "x")
    write_json(tmp_path / "t2i-data/set/dataset.json", {"format": 1, "name": "x"})
    write_json(tmp_path / "runs/0/config.json", {"t2i_version": "1", "data": {}})
    write(tmp_path / "other/dataset.json", '{"labels": []}')  # StyleGAN's
    save_image(Image.new("RGB", (16, 16)), tmp_path / "out.png", {"prompt": "x" * 3000, "software": "t2i 1.0"})
    write(tmp_path / "out.txt", "drawn")
    source = FolderPairSource(tmp_path)
    records, skips = walk(source)
    assert set(records) == {"a.png", "other/b.png"} and not skips
    notes = "\n".join(source.notes)
    assert "2 folders that t2i wrote left out: runs/0, t2i-data/set" in notes
    assert "1 image that t2i drew left out: out.png" in notes
    refused(lambda: FolderPairSource(tmp_path / "t2i-data/set"), "t2i wrote this folder (dataset.json is in it)")


def test_twice_in_one_folder_gives_the_same_set(here, monkeypatch):
    from hash_encoder import HashEncoder

    from t2i.cli import run

    monkeypatch.setattr("t2i.text.encoders.load_encoder", lambda name, *rest: HashEncoder())
    write(here / "a.png")
    write(here / "a.txt", "x")
    call = ["prepare", "--images", ".", "--captions", ".", "--resolution", "8", "--workers", "1", "--strict"]
    assert run(call) == run([*call, "--overwrite"]) == 0
    (made,) = (here / "t2i-data").iterdir()
    assert (made / "records-00000.jsonl").read_text() == '{"key": "a.png", "captions": ["x"]}\n'


# ---- 8: which of two was taken is said ---------------------------------------------------------------------------


def test_captions_beside_images_in_any_form_and_the_order_is_said(tmp_path):
    forms = {
        "a.txt": "one\ntwo", "b.caption": "three", "c.json": '{"caption": "four", "id": 3}', "d.png.txt": "five",
        "e.json": '["six", "seven"]', "f.txt": " ", "f.json": '{"text": "eight"}',
        "g.txt": "nine", "g.json": '{"text": "not"}',
    }  # fmt: skip
    for name, text in forms.items():
        write(tmp_path / name, text)
        write(tmp_path / f"{name[0]}.png")
    source = FolderPairSource(tmp_path)
    records, skips = walk(source)
    assert list(records.values()) == [
        ("one", "two"), ("three",), ("four",), ("five",), ("six", "seven"), ("eight",), ("nine",),
    ] and not skips  # fmt: skip
    assert source.notes == ["2 images with .txt and .json: .txt is used where it holds a caption (f.png, for one)"]


def test_tables_with_other_marks_and_names(tmp_path):
    write(tmp_path / "i/a b.png")
    for mark in ",;\t|":
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=mark)
        writer.writerows([["Image_Name", " comment "], ["a b.png", "x, y; z| w\tv"]])
        write(tmp_path / "l.csv", stream.getvalue())
        records, skips = walk(annotations_source(tmp_path / "i", tmp_path / "l.csv"))
        assert records == {"a b.png": ("x, y; z| w v",)} and not skips
