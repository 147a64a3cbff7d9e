"""Damaged COCO documents, metadata and captions: prepared, or refused in one line with exit code 1 or 2."""

import csv
import io
import json
import random
import tarfile

import pytest
from hash_encoder import HashEncoder
from mutations import HOSTILE_NAMES, JUNK, ODD_VALUES, encode, mutate, scene, written
from processes import hurry

from t2i.data.sources import CocoSource, ImageFolderSource
from t2i.errors import UserError

IMAGE = encode(scene(16, 16), "PNG")
MISSING = ("missing file", "no file name")
NAMES = ("000001.png", "000002.png", "sub/000003.png")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Hundreds of data sets are written here; and no torch."""
    hurry(monkeypatch)
    monkeypatch.setattr("t2i.text.encoders.load_encoder", lambda name, *rest: HashEncoder())


def folder(root):
    """The images that the documents are about, and something outside."""
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(IMAGE)
    (root.parent / "out.png").write_bytes(IMAGE)
    (root / "link.png").symlink_to(root.parent / "out.png")
    (root / "up").symlink_to(root.parent)
    return root


def coco_document():
    return {
        "info": {"year": 2017},
        "images": [{"id": n, "file_name": name, "height": 16, "width": 16} for n, name in enumerate(NAMES, 1)],
        "annotations": [
            {"id": 10 * n + c, "image_id": n, "caption": f"Caption {c} of image {n}."}
            for n in range(1, 4)
            for c in range(2)
        ],
    }


# ---- COCO ------------------------------------------------------------------------------------------------------


def check_coco(root, prepared, count, seed):
    folder(root / "coco" / "train2017")
    (root / "coco" / "annotations").mkdir()
    chance = random.Random(seed)
    good = 0
    for _ in range(count):
        document = written(mutate(coco_document(), chance), chance)
        (root / "coco" / "annotations" / "captions_train2017.json").write_bytes(document)
        good += prepared("--coco", root / "coco")
    assert 0 < good < count
    print(f"{good} of {count} were prepared")


def test_damaged_coco_documents(tmp_path, prepared):
    check_coco(tmp_path, prepared, 40, seed=0)


@pytest.mark.slow
def test_1_000_damaged_coco_documents(tmp_path, prepared):
    check_coco(tmp_path, prepared, 1000, seed=1)


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: ascii(name)[:30])
def test_a_hostile_file_name_is_refused_or_nothing_but_a_missing_file(tmp_path, name):
    """Through the sources themselves: which of the two, and that it is one line."""
    root = folder(tmp_path / "root")
    document = coco_document()
    document["images"][1]["file_name"] = name
    (tmp_path / "document.json").write_text(json.dumps(document))
    rows = [{"file_name": NAMES[0], "text": "x"}, {"file_name": name, "text": "x"}]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for source in (
        lambda: CocoSource(images=root, annotations=tmp_path / "document.json"),
        lambda: ImageFolderSource(root),
    ):
        try:
            missing = [entry for entry in source() if getattr(entry, "reason", "") in MISSING]
            assert len(missing) == 1  # a harmless name of no file
            assert "/" not in name[:1] and ".." not in name.split("/")
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 800
            str(error).encode()


# ---- imagefolder -----------------------------------------------------------------------------------------------


def jsonl(chance):
    rows = [{"file_name": name, "text": f"caption of {name}"} for name in NAMES] * chance.choice((1, 2))
    lines = [written(mutate([row], chance)[:1] or [{}], chance) if chance.random() < 0.4 else json.dumps([row]).encode()
             for row in rows]  # fmt: skip
    # written() makes a list of one row; a line holds the row alone, most of the time
    return b"\n".join(line[1:-1] if chance.random() < 0.9 else line for line in lines)


def comma_separated(chance):
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(chance.choice((["file_name", "text"], ["text", "file_name"], ["file_name", "text", "text"])))
    for name in NAMES:
        row = [name, f"caption, of {name}"]
        if chance.random() < 0.4:
            odd = chance.choice((*HOSTILE_NAMES, *map(str, ODD_VALUES[:8]), *JUNK))
            row[chance.randrange(2)] = odd.encode("utf-8", "replace").decode().replace("\0", "")
        writer.writerow(row * chance.choice((1, 1, 1, 2)))
    text = stream.getvalue()
    if chance.random() < 0.5:
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice(JUNK) + text[at + chance.randrange(5) :]
    data = text.encode("utf-8", "surrogatepass")
    return data if chance.random() < 0.9 else data[: chance.randrange(len(data))] + b"\xff"


def check_imagefolder(root, prepared, count, seed):
    folder(root / "set")
    chance = random.Random(seed)
    good = 0
    for number in range(count):
        kind, make = (("jsonl", jsonl), ("csv", comma_separated))[number % 2]
        metadata = root / "set" / f"metadata.{kind}"
        metadata.write_bytes(make(chance))
        good += prepared("--imagefolder", root / "set")
        metadata.unlink()
    assert 0 < good < count
    print(f"{good} of {count} were prepared")


def test_damaged_imagefolder_metadata(tmp_path, prepared):
    check_imagefolder(tmp_path, prepared, 40, seed=0)


@pytest.mark.slow
def test_1_000_damaged_imagefolder_metadata(tmp_path, prepared):
    check_imagefolder(tmp_path, prepared, 1000, seed=1)


def check_parquet(root, prepared, count, seed):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    folder(root / "set")
    table = pyarrow.table({"file_name": list(NAMES), "text": ["one", "two", "three"]})
    parquet.write_table(table, root / "set" / "metadata.parquet")
    data = (root / "set" / "metadata.parquet").read_bytes()
    chance = random.Random(seed)
    good = 0
    for _ in range(count):
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 1, 3))):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.2:
            del damaged[chance.randrange(len(damaged)) :]
        (root / "set" / "metadata.parquet").write_bytes(damaged)
        good += prepared("--imagefolder", root / "set")
    assert 0 < good < count
    print(f"{good} of {count} were prepared")


def test_damaged_parquet_metadata(tmp_path, prepared):
    check_parquet(tmp_path, prepared, 20, seed=0)


@pytest.mark.slow
def test_500_damaged_parquet_metadata(tmp_path, prepared):
    check_parquet(tmp_path, prepared, 500, seed=1)


# ---- caption files ---------------------------------------------------------------------------------------------


def caption_bytes(chance):
    text = "a first caption\n\n  a second one \n"
    match chance.randrange(6):
        case 0:
            return b""
        case 1:
            return chance.randbytes(chance.randrange(1, 60))
        case 2:
            return text.encode(chance.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32")))
        case 3:
            return (text + chance.choice(JUNK)).encode("utf-8", "surrogatepass")
        case 4:
            return chance.choice((b"\n" * 3000, b"\0" * 50, b"x" * (2**20 + 1), b" \t\r\n", b"\xed\xa0\x80 x"))
    return text.encode()


def check_captions(root, prepared, count, seed):
    """Caption files beside images, and the same in tars with JSON: each costs its image only."""
    chance = random.Random(seed)
    pairs, tars = root / "pairs", root / "tars"
    pairs.mkdir()
    tars.mkdir()
    with tarfile.open(tars / "0.tar", "w") as tar:
        for number in range(count):
            data = caption_bytes(chance)
            (pairs / f"{number:04d}.png").write_bytes(IMAGE)
            (pairs / f"{number:04d}.txt").write_bytes(data)
            document = {"caption": "a caption", "key": number, "text": ["x"], "width": 3}
            members = [("png", IMAGE), ("txt", data), ("json", written(mutate(document, chance), chance))]
            for extension, content in chance.sample(members, chance.choice((2, 3, 3, 3))):
                member = tarfile.TarInfo(f"{number:04d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    assert prepared("--images", pairs, "--captions", pairs)
    assert prepared("--shards", tars / "0.tar")
    skipped = (root / "out" / "skipped.jsonl").read_text().splitlines()
    assert skipped and all(json.loads(line)["reason"] for line in skipped)


def test_damaged_captions_cost_their_image_only(tmp_path, prepared):
    check_captions(tmp_path, prepared, 100, seed=0)


@pytest.mark.slow
def test_1_000_damaged_captions_cost_their_image_only(tmp_path, prepared):
    check_captions(tmp_path, prepared, 1000, seed=1)


# ---- tars ------------------------------------------------------------------------------------------------------


def check_tars(root, prepared, count, seed):
    chance = random.Random(seed)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(4):
            for extension, content in (("png", IMAGE), ("txt", b"a caption"), ("json", b'{"caption": "x"}')):
                member = tarfile.TarInfo(f"{number}{'é' * (number % 2)}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    data = stream.getvalue()
    good = 0
    for _ in range(count):
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 2, 5))):
            at = chance.randrange(len(damaged))
            damaged[at : at + chance.choice((1, 12))] = chance.randbytes(chance.choice((1, 12)))
        if chance.random() < 0.2:
            del damaged[chance.randrange(len(damaged)) :]
        (root / "0.tar").write_bytes(damaged)
        good += prepared("--shards", root / "0.tar")
    assert 0 < good < count
    print(f"{good} of {count} were prepared")


def test_damaged_tars(tmp_path, prepared):
    check_tars(tmp_path, prepared, 24, seed=0)


@pytest.mark.slow
def test_400_damaged_tars(tmp_path, prepared):
    check_tars(tmp_path, prepared, 400, seed=1)
