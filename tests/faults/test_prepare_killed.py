"""`prepare` killed with kill -9, anywhere, and run again: the same bytes, and no process left over."""

import json
import os
import random
import signal

import pytest
from hash_encoder import HashEncoder
from PIL import Image
from prepare_driver import CHUNK, SHARD, start
from processes import hurry, left_after

from t2i.data import image_shards, prepared
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import PreparedDataset
from t2i.data.sources import FolderPairSource
from t2i.data.sources.shapes import ShapesSource
from t2i.errors import UserError

SMALL = PrepareOptions(resolution=16, workers=1, max_skipped=0.2)
PARTS = [PrepareOptions(resolution=16, workers=1, max_skipped=0.2, shard=(number, 3)) for number in (1, 2, 3)]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(image_shards, "shard_entries", lambda resolution: SHARD)
    monkeypatch.setattr(prepared, "CAPTIONS_PER_CHUNK", CHUNK)
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """36 images with two or three captions each; three of them are damaged."""
    root = tmp_path_factory.mktemp("source") / "small"
    root.mkdir()
    return fill(root)


def fill(root):
    for number, record in zip(range(36), ShapesSource(36)):
        Image.fromarray(record.image.load(20 + number % 3)).save(root / f"{number:02d}.png")
        (root / f"{number:02d}.txt").write_text("\n".join(record.captions[: 2 + number % 2]))
    for number, data in ((3, b""), (20, b"text"), (21, b"text")):
        (root / f"{number:02d}.png").write_bytes(data)
    return root


def pairs(folder):
    return FolderPairSource(folder, folder)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def drive(folder, out, at=-1, **options):
    return start("killed", folder, out, at, json.dumps(options))


def ends(process):
    """The exit code, 0 or that of a kill, and what was printed."""
    said, errors = process.communicate(timeout=600)
    assert process.returncode in (0, -signal.SIGKILL) and errors == "", errors
    return process.returncode, said


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    """The files of a run that nobody killed, and how many calls it made that change the disk."""
    out = tmp_path_factory.mktemp("whole") / "out"
    code, said = ends(drive(folder, out))
    assert code == 0
    return files(out), int(said)


@pytest.mark.slow
def test_killed_again_and_again_the_bytes_are_the_same(folder, uninterrupted, tmp_path):
    """One data set, its run killed at seeded points until one gets through."""
    expected, calls = uninterrupted
    chance = random.Random(0)
    out = tmp_path / "out"
    codes = []
    while 0 not in codes and len(codes) < 6:
        codes.append(ends(drive(folder, out, chance.randrange(5, calls // 3)))[0])
        assert out.exists() == (codes[-1] == 0)
    assert codes.count(-signal.SIGKILL) >= 3 and set(codes) <= {0, -signal.SIGKILL}
    if not out.exists():
        prepare(pairs(folder), out, HashEncoder(), SMALL)
    assert files(out) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_killed_at_every_single_call_the_bytes_are_the_same(folder, uninterrupted, tmp_path):
    expected, calls = uninterrupted
    finished = 0
    for at in range(1, calls + 1):
        out = tmp_path / f"out{at}"
        assert ends(drive(folder, out, at))[0] == -signal.SIGKILL
        finished += out.exists()
        if not out.exists():
            prepare(pairs(folder), out, HashEncoder(), SMALL)
        assert files(out) == expected
        assert not out.with_name(f"{out.name}.partial").exists()
    assert finished <= 3  # the last calls: the rename, a sync, the removal of the lock file
    print(f"{calls} kill points")


@pytest.mark.slow
def test_killed_at_the_end_nothing_is_done_again(folder, uninterrupted, tmp_path):
    """From the first removal of a work file to the rename: the data set is whole, only its name is missing."""
    expected, calls = uninterrupted
    rename = calls - 2  # the last calls: the removals, a sync, the rename, a sync, the removal of the lock
    for number, at in enumerate((rename, rename - 3, rename - 15)):
        out = tmp_path / f"out{number}"
        assert ends(drive(folder, out, at))[0] == -signal.SIGKILL
        assert not out.exists()
        seen = []
        summary = prepare(pairs(folder), out, HashEncoder(), SMALL, lambda *progress, seen=seen: seen.append(progress))
        assert seen == [] and summary.resumed_at == summary.images == 33
        assert summary.skipped == {"empty file": 1, "not an image": 2}
        assert summary.first_skipped == {"empty file": "03.png", "not an image": "20.png"}
        assert files(out) == expected


def test_work_done_before_the_kill_is_kept(folder, uninterrupted, tmp_path):
    expected, calls = uninterrupted
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    assert ends(drive(folder, out, calls // 3))[0] == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in partial.glob("images-*.npy")}
    whole = len(list(partial.glob("shard-*.json")))
    assert 0 < whole < 5
    summary = prepare(pairs(folder), out, HashEncoder(), SMALL)
    facts = json.loads((out / "dataset.json").read_text())["shards"]
    assert summary.resumed_at == sum(shard["pictures"] for shard in facts[:whole])
    assert summary.images == 33 and summary.skipped.total() == 3
    untouched = [path for path, time_ns in kept.items() if (out / path.name).stat().st_mtime_ns == time_ns]
    assert len(untouched) >= whole
    assert files(out) == expected


def test_no_process_outlives_a_killed_prepare(folder, uninterrupted, tmp_path):
    process = drive(folder, tmp_path / "out", uninterrupted[1] // 3)
    assert process.wait(100) == -signal.SIGKILL
    assert left_after(process.pid) == []
    process.communicate()


# ---- several machines ------------------------------------------------------------------------------------------


def check_parts(folder, expected, out, chance):
    """Three parts at once, each killed and run again; then the join, killed and run again. Returns the kills."""
    kills = 0
    while True:
        processes = [drive(folder, out, chance.randrange(1, 30), shard=part.shard) for part in PARTS]
        codes = [ends(process)[0] for process in processes]
        kills += codes.count(-signal.SIGKILL)
        if kills >= 3:
            break
    for options in chance.sample(PARTS, 3):
        prepare(pairs(folder), out, HashEncoder(), options)
    code = ends(drive(folder, out, chance.randrange(1, 60)))[0]
    if code:
        prepare(pairs(folder), out, HashEncoder(), SMALL)
    assert files(out) == expected
    return kills + bool(code)


@pytest.mark.slow
def test_parts_and_join_killed_the_bytes_are_those_of_one_go(folder, uninterrupted, tmp_path):
    check_parts(folder, uninterrupted[0], tmp_path / "out", random.Random(0))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_parts_and_join_killed_at_many_points(folder, uninterrupted, tmp_path):
    kills = [check_parts(folder, uninterrupted[0], tmp_path / f"{n}", random.Random(n)) for n in range(1, 13)]
    print(f"{sum(kills)} kills")


# ---- a data set that is replaced -------------------------------------------------------------------------------


def check_replaced(folder, expected, old, out, at):
    """Killed while it replaces: the old data set or the new one is there after any next call, and never neither."""
    prepare(ShapesSource(9), out, HashEncoder(), SMALL)
    assert ends(drive(folder, out, at, overwrite=True))[0] in (0, -signal.SIGKILL)
    if out.exists():
        assert files(out) in (old, expected)
    try:
        prepare(pairs(folder), out, HashEncoder(), SMALL)  # without overwrite
    except UserError as error:
        assert "is there already" in str(error)
    assert files(out) in (old, expected)
    prepare(pairs(folder), out, HashEncoder(), SMALL, overwrite=True)
    assert files(out) == expected
    assert [path.name for path in out.parent.iterdir() if path.name.startswith((".", f"{out.name}."))] == []


@pytest.fixture
def replaceable(tmp_path):
    prepare(ShapesSource(9), tmp_path / "old", HashEncoder(), SMALL)
    return files(tmp_path / "old")


@pytest.mark.slow
def test_killed_while_it_replaces_a_data_set(folder, uninterrupted, replaceable, tmp_path):
    expected, calls = uninterrupted
    for at in (calls - 2, calls - 1, calls + 5):  # before the first rename, before the second, in the removal
        check_replaced(folder, expected, replaceable, tmp_path / f"out{at}", at)


@pytest.mark.slow
def test_killed_anywhere_while_it_replaces_a_data_set(folder, uninterrupted, replaceable, tmp_path):
    expected, calls = uninterrupted
    points = (*range(1, calls - 12, 12), *range(calls - 12, calls + 16))
    for at in points:
        check_replaced(folder, expected, replaceable, tmp_path / f"out{at}", at)
    print(f"{len(points)} kill points")


# ---- a source that changed in between --------------------------------------------------------------------------


def half_done(folder, out, uninterrupted, share):
    assert ends(drive(folder, out, int(uninterrupted[1] * share)))[0] == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.35, 0.8], ids=["in the images", "in the captions"])
def test_a_source_that_changed_after_the_kill_gives_the_bytes_of_a_fresh_run(uninterrupted, tmp_path, share):
    """An image added and a caption changed: what was done of other entries is done again, the rest is kept."""
    (tmp_path / "changed").mkdir()
    changed = fill(tmp_path / "changed")
    half_done(changed, tmp_path / "out", uninterrupted, share)
    (changed / "25.txt").write_text("something else")
    (changed / "11a.png").write_bytes((changed / "11.png").read_bytes())
    (changed / "11a.txt").write_text("one more")
    summary = prepare(pairs(changed), tmp_path / "out", HashEncoder(), SMALL)
    assert summary.resumed_at == 7  # the first shard, with one image skipped
    prepare(pairs(changed), tmp_path / "fresh", HashEncoder(), SMALL)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.35, 0.7, 0.85], ids=["in the images", "in the captions", "at the end"])
def test_images_that_changed_after_the_kill_are_seen_by_size_or_time(uninterrupted, tmp_path, share):
    """Their names and captions are what they were."""
    (tmp_path / "changed").mkdir()
    changed = fill(tmp_path / "changed")
    plain = changed / "05.png"
    Image.new("RGB", (16, 16), "red").save(plain, format="BMP")
    before = plain.stat()
    half_done(changed, tmp_path / "out", uninterrupted, share)
    assert (tmp_path / "out.partial" / "dataset.json").is_file() == (share == 0.85)
    Image.new("RGB", (16, 16), "blue").save(plain, format="BMP")
    os.utime(plain, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))  # where files know whole seconds only
    assert plain.stat().st_size == before.st_size and plain.stat().st_mtime_ns > before.st_mtime_ns
    (changed / "20.png").write_bytes((changed / "19.png").read_bytes())  # was no image
    summary = prepare(pairs(changed), tmp_path / "out", HashEncoder(), SMALL)
    assert summary.images == 34 and summary.skipped == {"empty file": 1, "not an image": 1}
    prepare(pairs(changed), tmp_path / "fresh", HashEncoder(), SMALL)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


@pytest.mark.slow
def test_a_source_that_shrank_after_the_kill_leaves_no_stale_file(uninterrupted, tmp_path):
    (tmp_path / "changed").mkdir()
    changed = fill(tmp_path / "changed")
    half_done(changed, tmp_path / "out", uninterrupted, 0.8)
    for number in range(10, 36):
        (changed / f"{number:02d}.txt").unlink()
        (changed / f"{number:02d}.png").unlink()
    prepare(pairs(changed), tmp_path / "out", HashEncoder(), SMALL)
    prepare(pairs(changed), tmp_path / "fresh", HashEncoder(), SMALL)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")
    assert len(PreparedDataset(tmp_path / "out")) == 9


@pytest.mark.slow
def test_strict_looks_at_what_an_earlier_run_left_out(folder, uninterrupted, tmp_path):
    strict = PrepareOptions(resolution=16, workers=1, strict=True)
    for number, share in enumerate((0.3, 0.99)):
        half_done(folder, tmp_path / f"out{number}", uninterrupted, share)
        with pytest.raises(UserError, match=r"^03.png: empty file \(--strict\)$"):
            prepare(pairs(folder), tmp_path / f"out{number}", HashEncoder(), strict)
