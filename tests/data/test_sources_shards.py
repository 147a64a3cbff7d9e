"""Tar shards: read in place, links and devices are no images, damage costs what it touches."""

import io
import json
import random
import tarfile

import pytest
from source_checks import IMAGE, refused, walk, write

from t2i.data.records import Record
from t2i.data.sources import (
    ShardSource,
)
from t2i.errors import UserError


def shard(path, members, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            member = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(data, tarfile.TarInfo) else data
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def sample(key, caption="an image", extension="png", document=True, text=True):
    parts = [(f"{key}.{extension}", IMAGE)]
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
        + [("000004.png", IMAGE), ("000005.txt", b"alone"), ("README", b"x"), ("a/.hidden", b"x")],
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
            "00001.tar/000010": ("an image",),
        }
        assert list(records) == sorted(records) and source.name == "laion"
        assert skips == {"00000.tar/000004": "no caption file"}
        assert source.notes == [
            "1 caption without an image",
            "3 images with .json and .txt: .json is used where it holds a caption",
        ]
        assert str(tmp_path) not in json.dumps(source.describe())
        for entry in source:
            if isinstance(entry, Record):
                assert entry.image.load(8).shape == (8, 8, 3)


def test_links_and_devices_in_shards_are_no_images(tmp_path):
    members = []
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)):
        member = tarfile.TarInfo(f"{number}.png")
        member.type, member.linkname = kind, "/etc/passwd"
        members += [(member.name, member), (f"{number}.txt", b"x")]
    path = shard(tmp_path / "s/0.tar", [*members, *sample("../../up"), *sample("/abs")])
    records, skips = walk(ShardSource(path))
    assert set(records) == {"0.tar/../../up", "0.tar/abs"}
    assert skips == {f"0.tar/{number}": "not a file" for number in range(4)}
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["0.tar", "s"], "something was extracted"


def test_bad_caption_members_cost_their_image_only(tmp_path):
    members = [("a.png", IMAGE), ("a.txt", b"\xff"), ("b.png", IMAGE), ("b.json", b"{" * 5000)]
    members += [("c.png", IMAGE), ("c.json", b" " * 2**21), ("d.png", IMAGE), ("d.json", b"{}")]
    members += [("e.png", IMAGE), ("e.json", b'{"caption": 5}'), ("e.txt", b"the text"), ("e.jpg", IMAGE)]
    records, skips = walk(ShardSource(shard(tmp_path / "0.tar", members)))
    assert records == {"0.tar/e": ("the text",)}
    assert skips == {
        "0.tar/a": "caption file is not UTF-8",
        "0.tar/b": "caption file is not valid JSON",
        "0.tar/c": "caption file is too big",
        "0.tar/d": "no caption",
        "0.tar/e.jpg": "second image of the same name",
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
    refused(lambda: ShardSource(shard(tmp_path / "e.tar", [("x.txt", b"x")])), "no images")
    refused(lambda: ShardSource(write(tmp_path / "junk.tar", b"x" * 4096)), "damaged")
    refused(lambda: ShardSource(write(tmp_path / "null.tar", b"")), "damaged")
    with tarfile.open(tmp_path / "z.tar.gz", "w:gz"):
        pass
    refused(lambda: ShardSource(tmp_path / "z.tar.gz"), "compressed")
