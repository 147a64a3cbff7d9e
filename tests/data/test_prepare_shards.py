"""`prepare --shard I/N`: several machines, one folder, and a last call that joins: the bytes of one go."""

import json
import os

import pytest
from hash_encoder import HashEncoder
from PIL import Image

from t2i.cli import run
from t2i.data import image_shards, prepared
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.sources import FolderPairSource
from t2i.data.sources.shapes import ShapesSource
from t2i.errors import UserError
from t2i.locks import lock


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(image_shards, "shard_entries", lambda resolution: 8)
    monkeypatch.setattr(prepared, "CAPTIONS_PER_CHUNK", 16)
    monkeypatch.setattr("t2i.text.encoders.load_encoder", lambda name, *rest: HashEncoder())


def options(shard=None, **changes):
    return PrepareOptions(**{"resolution": 16, "workers": 1, "shard": shard, **changes})


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make(out, shard=None, source=None, **changes):
    return prepare(source or ShapesSource(43), out, HashEncoder(), options(shard, **changes))


def refused(*arguments, **changes):
    with pytest.raises(UserError) as caught:
        make(*arguments, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def whole(tmp_path):
    make(tmp_path / "whole")
    return files(tmp_path / "whole")


@pytest.fixture
def folder(tmp_path):
    """20 images, one of them damaged."""
    root = tmp_path / "source"
    root.mkdir()
    for number in range(20):
        Image.new("RGB", (16, 16), (number * 12, 0, 0)).save(root / f"{number:02d}.png")
        (root / f"{number:02d}.txt").write_text(f"image {number}")
    (root / "13.png").write_bytes(b"")
    return root


@pytest.mark.parametrize("count", [1, 2, 3, 9])  # 9: more machines than shards
def test_parts_in_any_order_join_to_the_bytes_of_one_go(tmp_path, whole, count):
    out = tmp_path / "out"
    images = 0
    for number in range(count, 0, -1):
        part = make(out, (number, count))
        assert part.missing == list(range(1, number)) and part.resumed_at == 0
        images += part.images
    assert images == 43 and not out.exists()
    joined = make(out)
    assert (joined.resumed_at, joined.images, joined.captions) == (43, 43, 129)
    assert files(out) == whole
    assert not (tmp_path / "out.partial").exists()


def test_the_join_names_the_parts_that_are_missing(tmp_path, whole):
    out = tmp_path / "out"
    make(out, (2, 4))
    assert "not done yet: --shard 1/4, 3/4 and 4/4;" in refused(out)
    make(out, (3, 4))
    make(out, (1, 4))
    assert "not done yet: --shard 4/4;" in refused(out)
    make(out, (4, 4))
    make(out)
    assert files(out) == whole
    make(tmp_path / "many", (7, 100))
    assert "--shard 1/100, 2/100, " in (said := refused(tmp_path / "many")) and "and 91 more" in said


def test_a_part_that_is_done_again_does_nothing_again(tmp_path):
    first = make(tmp_path / "out", (1, 2))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.partial").glob("images-*.npy")}
    again = make(tmp_path / "out", (1, 2))
    assert again.resumed_at == again.images == first.images
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out.partial").glob("images-*.npy")}


def test_other_options_are_refused_and_the_work_stays(tmp_path, whole):
    out = tmp_path / "out"
    make(out, (1, 2))
    assert "begun with --shard I/2" in refused(out, (1, 3))
    assert "another resolution (16, not 32)" in refused(out, (2, 2), resolution=32)
    assert "another limit (null, not 5)" in refused(out, limit=5)
    make(out, (2, 2))
    assert "another fraction" in refused(out, fraction=0.5)
    make(out)
    assert files(out) == whole
    assert "is there already" in refused(out, (1, 2))


def test_machines_that_see_different_sources_are_not_mixed(tmp_path, folder):
    out = tmp_path / "out"
    make(out, (1, 2), FolderPairSource(folder, folder))
    (folder / "10.txt").write_text("another caption")  # the second shard's
    make(out, (2, 2), FolderPairSource(folder, folder))
    (folder / "10.txt").write_text("image 10")
    said = refused(out, source=FolderPairSource(folder, folder), max_skipped=1)
    assert "shard 1 was prepared from other files or captions" in said
    assert make(out, (2, 2), FolderPairSource(folder, folder)).resumed_at == 0
    make(out, source=FolderPairSource(folder, folder), max_skipped=1)
    make(tmp_path / "whole", source=FolderPairSource(folder, folder), max_skipped=1)
    assert files(out) == files(tmp_path / "whole")


def test_a_repaired_image_is_seen_and_another_copys_times_are_no_matter(tmp_path, folder):
    out, source = tmp_path / "out", FolderPairSource(folder, folder)
    for number in (1, 2):
        make(out, (number, 2), source)
    Image.new("RGB", (16, 16), "white").save(folder / "13.png")
    said = refused(out, source=source)
    assert "shard 1 was prepared from other files or captions" in said
    assert make(out, (1, 2), source).resumed_at == 12
    part = make(out, (2, 2), source)
    assert (part.images, part.resumed_at) == (8, 0)
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    joined = make(out, source=source)
    assert joined.resumed_at == joined.images == 20


def test_a_part_leaves_the_shards_of_the_others_alone(tmp_path, folder):
    """Also where this machine sees too few images to know of them."""
    out = tmp_path / "out"
    make(out, (2, 2), FolderPairSource(folder, folder), max_skipped=1)
    kept = files(tmp_path / "out.partial")
    seen = tmp_path / "seen"
    seen.mkdir()
    for number in range(8):
        for name in (f"{number:02d}.png", f"{number:02d}.txt"):
            (seen / name).write_bytes((folder / name).read_bytes())
    few = FolderPairSource(seen, seen)
    few.describe = FolderPairSource(folder, folder).describe
    few.name = "source"
    make(out, (1, 2), few)
    assert kept.items() <= files(tmp_path / "out.partial").items()
    assert "shard 1 was prepared from other files or captions" in refused(out, source=few)


def test_a_source_that_shrank_is_said_by_the_join(tmp_path, folder):
    make(tmp_path / "out", (1, 1), FolderPairSource(folder, folder))
    for number in range(16, 20):
        (folder / f"{number}.png").unlink()
    assert "shard 2 was prepared from other files" in refused(tmp_path / "out", source=FolderPairSource(folder, folder))


def test_the_share_of_skipped_images_is_judged_when_all_are_there(tmp_path, folder):
    """Refused, the parts stay: another --max-skipped joins them."""
    out, source = tmp_path / "out", FolderPairSource(folder, folder)
    for number in (1, 2):
        make(out, (number, 2), source, max_skipped=0)
    assert "1 of 20 entries cannot be used (5%, above --max-skipped 0.01)" in refused(
        out, None, source, max_skipped=0.01
    )
    assert "13.png: empty file (--strict)" in refused(out, None, source, strict=True)
    assert "13.png: empty file (--strict)" in refused(tmp_path / "new", (2, 2), source, strict=True)
    joined = make(out, None, source, max_skipped=0.05)
    assert joined.resumed_at == 19 and joined.first_skipped == {"empty file": "13.png"}


def test_two_machines_with_one_number_or_a_join_too_early_are_refused(tmp_path):
    out = tmp_path / "out"
    with lock(out, "t2i prepare", shared=True), lock(tmp_path / "out.shard-1-of-2", "t2i prepare"):
        assert "out.shard-1-of-2: another t2i prepare is at work" in refused(out, (1, 2))
        make(out, (2, 2))
        assert f"{out}: another t2i prepare is at work" in refused(out)
    with lock(out, "t2i prepare"):
        assert f"{out}: another t2i prepare is at work" in refused(out, (1, 2))


def test_parts_of_training_and_validation_from_the_command_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    source = ["prepare", "--shapes", "80", "--resolution", "16", "--workers", "1"]
    assert run([*source, "--out", "whole"]) == 0
    capfd.readouterr()
    for part in ("2/2", "1/2"):
        assert run([*source, "--out", "out", "--shard", part]) == 0
        said, errors = capfd.readouterr()
        assert errors == "" and "t2i train" not in said
        for name in ("out", "out-val"):
            assert f"prepared part {part} of {name}\n" in said
        assert ("not done yet  --shard 1/2" in said) == (part == "2/2")
        assert ("the same command without --shard joins them" in said) == (part == "1/2")
    assert run(["info", "out.partial"]) == 0
    said = capfd.readouterr().out
    assert "unfinished data set" in said and "part 00001-of-00002  done" in said
    assert run([*source, "--out", "out", "--shard", "1/2", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert [(part["path"], part["shard"], part["missing"]) for part in report] == [
        ("out", "1/2", []), ("out-val", "1/2", []),
    ]  # fmt: skip
    assert run([*source, "--out", "out"]) == 0
    assert "train on it: t2i train out" in capfd.readouterr().out
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert files(tmp_path / "out-val") == files(tmp_path / "whole-val")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out-val", "whole", "whole-val"]


def test_parts_can_replace_a_data_set(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    source = ["prepare", "--resolution", "16", "--workers", "1", "--val-fraction", "0", "--out", "out", "--shapes"]
    assert run([*source, "9"]) == 0
    before = files(tmp_path / "out")
    assert run([*source, "20", "--shard", "1/1"]) == 1
    assert "--overwrite" in capfd.readouterr().err
    assert run([*source, "20", "--shard", "1/1", "--overwrite"]) == 0
    assert files(tmp_path / "out") == before
    assert run([*source, "20", "--overwrite"]) == 0
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["pictures"] == 20
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2", "1/99999", "½/2", "1.0/2"])
def test_what_is_no_part_is_a_usage_error(text, capfd):
    assert run(["prepare", "--shapes", "9", "--shard", text]) == 2
    err = capfd.readouterr().err
    assert err.startswith("t2i: --shard ") and err.count("\n") == 1 and "2/4" in err
