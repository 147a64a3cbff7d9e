"""Damaged and hostile zips, parquet files and lists: prepared, or one line; nothing outside is opened."""

import io
import json
import random
import stat
import zipfile

import pytest
from hash_encoder import HashEncoder
from mutations import HOSTILE_NAMES, JUNK, encode, mutate, scene, written
from processes import hurry

from t2i.data.located import ZipImage
from t2i.data.records import ImageError
from t2i.data.sources import FolderPairSource

IMAGE = encode(scene(16, 16), "PNG")
NAMES = ("000001.png", "000002.png", "sub/000003.png")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    hurry(monkeypatch)
    monkeypatch.setattr("t2i.text.encoders.load_encoder", lambda name, *rest: HashEncoder())


def flipped(data, chance):
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 1, 3, 20))):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    if chance.random() < 0.2:
        del damaged[chance.randrange(len(damaged)) :]
    return bytes(damaged)


# ---- zips ------------------------------------------------------------------------------------------------------


def zipped(method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name in NAMES:
            archive.writestr(f"set/{name}", IMAGE)
            archive.writestr(f"set/{name[:-4]}.txt", f"caption of {name}")
        rows = [{"file_name": name, "text": f"caption of {name}"} for name in NAMES]
        archive.writestr("set/metadata.jsonl", "\n".join(map(json.dumps, rows)))
    return stream.getvalue()


def check_zips(root, prepared, count, seed):
    chance = random.Random(seed)
    good = 0
    whole = [zipped(zipfile.ZIP_DEFLATED), zipped(zipfile.ZIP_STORED)]
    for number in range(count):
        (root / "set.zip").write_bytes(flipped(whole[number % 2], chance))
        good += prepared("--images" if number % 3 else "--imagefolder", root / "set.zip")
    assert 0 < good < count
    print(f"{good} of {count} were prepared")


def test_damaged_zips(tmp_path, prepared):
    check_zips(tmp_path, prepared, 40, seed=0)


@pytest.mark.slow
def test_600_damaged_zips(tmp_path, prepared):
    check_zips(tmp_path, prepared, 600, seed=1)


def test_hostile_members_of_a_zip_lead_nowhere(tmp_path, prepared):
    """Names that leave, links, a bomb, a password, an unknown method: each costs itself, and nothing is unpacked."""
    (tmp_path / "secret.png").write_bytes(IMAGE)
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, name in enumerate(("../../secret.png", "/abs/x.png", f"{tmp_path}/secret.png", "a/../../x.png")):
            archive.writestr(name, IMAGE)
            archive.writestr(name[:-4] + ".txt", f"caption {number}")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(tmp_path / "secret.png"))
        archive.writestr("link.txt", "a link")
        archive.writestr("good.png", IMAGE)
        archive.writestr("good.txt", "good")
        archive.writestr("big.png", b"\0" * 2**21)
        archive.writestr("big.txt", b"x" * 2**21)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert prepared("--images", tmp_path / "set.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "out"])
    skipped = [json.loads(line) for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    reasons = {line["file"]: line["reason"] for line in skipped}
    assert reasons == {"link.png": "not an image", "big.png": "caption file is too big"}
    (entry,) = [entry for entry in FolderPairSource(tmp_path / "set.zip") if entry.key == "good.png"]
    lying = ZipImage(entry.image.path, entry.image.member, 2**40)
    with pytest.raises(ImageError, match="file too big"):
        lying.load(8)


def test_a_member_that_says_less_than_it_holds_is_cut_off(tmp_path, monkeypatch):
    from t2i.data import located

    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", IMAGE + b"\0" * 2**20)
        archive.writestr("a.txt", "x")
    (entry,) = FolderPairSource(tmp_path / "bomb.zip")
    monkeypatch.setattr(located, "MAX_BYTES", 2**19)
    with pytest.raises(ImageError, match="file too big"):
        ZipImage(entry.image.path, "a.png", 10).load(8)


# ---- parquet with the images inside --------------------------------------------------------------------------


def check_parquet(root, prepared, count, seed):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [{"bytes": IMAGE, "path": name} for name in HOSTILE_NAMES[:9]]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.binary())])
    images = [{**image, "path": image["path"].encode("utf-8", "replace")} for image in images]
    table = pyarrow.table({"image": pyarrow.array(images, kind), "text": [f"caption {n}" for n in range(9)]})
    chance = random.Random(seed)
    good = 0
    for number in range(count):
        stream = io.BytesIO()
        parquet.write_table(table, stream, row_group_size=4, compression=("none", "snappy", "zstd")[number % 3])
        (root / "a.parquet").write_bytes(flipped(stream.getvalue(), chance) if number else stream.getvalue())
        good += prepared("--parquet", root / "a.parquet")
    assert 0 < good < count
    print(f"{good} of {count} were prepared")


def test_damaged_parquet(tmp_path, prepared):
    check_parquet(tmp_path, prepared, 40, seed=0)


@pytest.mark.slow
def test_600_damaged_parquet(tmp_path, prepared):
    check_parquet(tmp_path, prepared, 600, seed=1)


# ---- lists -----------------------------------------------------------------------------------------------------


def lists(chance):
    """(file name, its bytes) of a damaged list of one of the forms."""
    rows = [{"image": name, "captions": [f"caption of {name}", "another"]} for name in NAMES]
    karpathy = {"images": [{"filename": n, "split": "train", "sentences": [{"raw": f"c {n}"}]} for n in NAMES]}
    form = chance.randrange(6)
    if form < 3:
        document = (rows, karpathy, {name: [f"c {name}"] for name in NAMES})[form]
        return "list.json", written(mutate(document, chance), chance)
    if form == 3:
        lines = [json.dumps(row).encode() for row in rows]
        lines[chance.randrange(3)] = written(mutate([rows[0]], chance), chance)[1:-1]
        return "list.jsonl", b"\n".join(lines)
    if form == 4:
        lines = [f"{name}#0\tcaption of {name}" for name in NAMES]
    else:
        lines = ["image,caption", *(f"{name},caption of {name}" for name in NAMES)]
    odd = chance.choice((*HOSTILE_NAMES, *JUNK)).encode("utf-8", "replace").decode()
    at = chance.randrange(len(lines))
    lines[at] = chance.choice((odd, odd + lines[at], lines[at] + odd, f"{odd}#0\tx", f"{odd},x,y,z"))
    data = "\n".join(lines).encode()
    return ("list.csv", "captions.txt", "x.tsv")[chance.randrange(3)], data + (
        b"\xff" if chance.random() < 0.2 else b""
    )


def check_lists(root, prepared, count, seed):
    for name in NAMES:
        (root / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "set" / name).write_bytes(IMAGE)
    (root / "out.png").write_bytes(IMAGE)
    (root / "set/link.png").symlink_to(root / "out.png")
    (root / "set/up").symlink_to(root)
    chance = random.Random(seed)
    good = 0
    for _ in range(count):
        name, data = lists(chance)
        (root / name).write_bytes(data)
        good += prepared("--images", root / "set", "--annotations", root / name)
    assert 0 < good < count
    print(f"{good} of {count} were prepared")


def test_damaged_lists(tmp_path, prepared):
    check_lists(tmp_path, prepared, 60, seed=0)


@pytest.mark.slow
def test_1_000_damaged_lists(tmp_path, prepared):
    check_lists(tmp_path, prepared, 1000, seed=1)
