"""The data guide's table: each form's own call, run on a small example of it."""

import io
import json
import re
import shlex
import tarfile
import zipfile
from pathlib import Path

import pytest
from hash_encoder import HashEncoder
from source_checks import IMAGE, write

from t2i.cli import run
from t2i.data.prepared import PreparedDataset

GUIDE = Path(__file__).parent.parent.parent / "docs" / "data.md"
ROWS = re.findall(r"^\| ([^|]+?) \| `(t2i prepare [^`]+)` \|", GUIDE.read_text(), flags=re.M)
NAMES = ("a.png", "b.png")


def images(folder="pics"):
    for name in NAMES:
        write(Path(folder) / name)


def texts(folder):
    for name in NAMES:
        write(Path(folder) / f"{name[0]}.txt", f"caption of {name}\nanother")


def listed(file, content):
    images()
    write(Path(file), content if isinstance(content, str) else json.dumps(content))


def coco_document():
    return {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(NAMES)],
        "annotations": [
            {"image_id": number, "caption": text}
            for number, name in enumerate(NAMES)
            for text in (f"caption of {name}", "another")
        ],
    }  # fmt: skip


def coco():
    images("coco/train2017")
    write(Path("coco/annotations/captions_train2017.json"), json.dumps(coco_document()))


def karpathy():
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": f"caption of {name}"}, {"raw": "another"}]}
        for name, split in zip((*NAMES, "c.png"), ("train", "restval", "test"))
    ]
    listed("dataset_flickr8k.json", {"dataset": "flickr8k", "images": images})


def metadata(file):
    images("set")
    rows = ["image,caption", *(f"{name},\"['caption of {name}', 'another']\"" for name in NAMES)]
    write(Path("set") / file, "\n".join(rows))


def parquet():
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    Path("set").mkdir()
    table = {"image": [IMAGE] * 2, "caption": [[f"caption of {name}", "another"] for name in NAMES]}
    parquet.write_table(pyarrow.table(table), "set/train.parquet")


def shards():
    Path("data").mkdir()
    for number, name in enumerate(NAMES):
        with tarfile.open(f"data/{number:05d}.tar", "w") as tar:
            for member, data in ((name, IMAGE), (f"{name[0]}.txt", f"caption of {name}\nanother".encode())):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def zipped():
    with zipfile.ZipFile("pics.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in NAMES:
            archive.writestr(f"my\\pics/{name}", IMAGE)
            archive.writestr(f"my/pics/{name[0]}.txt", f"caption of {name}\nanother")


def named(*files):
    for file in files:
        write(Path("pics") / file)


MADE = {
    "images and texts in one folder": lambda: (images(), texts("pics")),
    "images and texts in two folders": lambda: (images(), texts("texts")),
    "COCO": coco,
    "COCO's parts": lambda: listed("captions.json", coco_document()),
    "Karpathy's splits": karpathy,
    "a JSON list": lambda: listed(
        "list.json", [{"image": name, "captions": [f"caption of {name}", "another"]} for name in NAMES]
    ),
    "JSON lines": lambda: listed(
        "list.jsonl",
        "\n".join(json.dumps({"path": f"./{name}", "text": [f"caption of {name}", "another"]}) for name in NAMES),
    ),
    "Flickr8k's captions.txt": lambda: listed(
        "captions.txt", "image,caption\n" + "".join(f'{name},caption of {name}\n{name},"another"\n' for name in NAMES)
    ),
    "Flickr8k's token file": lambda: listed(
        "Flickr8k.token.txt", "".join(f"{name}#0\tcaption of {name}\n{name}#1\tanother\n" for name in NAMES)
    ),
    "CSV and TSV": lambda: listed(
        "list.tsv", "file\tprompt\n" + "".join(f"{n}\tcaption of {n}\n{n}\tanother\n" for n in NAMES)
    ),
    "imagefolder": lambda: metadata("metadata.csv"),
    "metadata of another name": lambda: metadata("my-list.csv"),
    "parquet with the images inside": parquet,
    "tar shards": shards,
    "a zip": zipped,
    "only folder names": lambda: named("001.Black_cat/x1.png", "002.red-dog/2.png"),
    "only file names": lambda: named("black_cat_0012.png", "red dog (3).jpg"),
    "drawn shapes": lambda: None,
}  # fmt: skip
ELSEWHERE = {"a data set on the hub"}  # test_sources_parquet.py, with a stand-in for the hub


def test_the_table_and_the_examples_name_the_same_forms():
    assert {form for form, _ in ROWS} == MADE.keys() | ELSEWHERE


@pytest.mark.parametrize(("form", "call"), [row for row in ROWS if row[0] in MADE], ids=lambda value: value[:30])
def test_the_call_in_the_guide_reads_an_example_of_the_form(form, call, here, monkeypatch, capfd):
    monkeypatch.setattr("t2i.text.encoders.load_encoder", lambda name, *rest: HashEncoder())
    MADE[form]()
    arguments = shlex.split(call)[1:]
    code = run([*arguments, "--resolution", "16", "--workers", "1", "--strict", "--max-skipped", "0", "--out", "made"])
    said, errors = capfd.readouterr()
    assert code == 0 and not errors, errors
    data = PreparedDataset("made")
    found = [[data.caption(int(i)) for i in data.caption_ids(index)] for index in range(len(data))]
    match form:
        case "drawn shapes":
            assert len(data) == 18
        case "only folder names":
            assert found == [["a photo of a Black cat"], ["a photo of a red dog"]]
            assert '"001.Black_cat" -> "a photo of a Black cat", "002.red-dog"' in said
        case "only file names":
            assert found == [["black cat"], ["red dog"]]
        case _:
            assert found == [[f"caption of {name}", "another"] for name in NAMES]
