"""Full disks, files that may grow no further, folders that may not be written: one line, and what was there stays."""

import contextlib
import os
import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from damage import generator, same, save, weights
from folders import not_root
from hash_encoder import HashEncoder
from processes import hurry

from t2i.cli import run
from t2i.data import image_shards, prepared
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import PreparedDataset
from t2i.data.sources.shapes import ShapesSource
from t2i.errors import UserError
from t2i.image_files import save_image
from t2i.models.folder import save_model
from t2i.training.checkpoint import newest_checkpoint
from t2i.training.run import Run

OPTIONS = PrepareOptions(resolution=32, workers=1)
SOURCE = ShapesSource(60)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(image_shards, "shard_entries", lambda resolution: 16)
    monkeypatch.setattr(prepared, "CAPTIONS_PER_CHUNK", 64)
    hurry(monkeypatch)


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory):
    """What torch imports late it may not be able to as nobody."""
    start(tmp_path_factory.mktemp("imported"))


class Disk:
    """A mounted file system of a few KiB."""

    def __init__(self, place: Path, kib: int):
        self.place = place
        place.mkdir()
        if not shutil.which("mount"):
            pytest.skip("there is no mount here")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", place], capture_output=True)
        if done.returncode:
            pytest.skip("mounting is not allowed here")

    def resize(self, kib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kib}k", self.place], check=True)

    def fill(self) -> None:
        with open(self.place / "filler", "ab", buffering=0) as stream, contextlib.suppress(OSError):
            while stream.write(bytes(4096)):
                pass


@pytest.fixture
def disks(tmp_path):
    """Makes disks of so many KiB; they go at the end."""
    made = []

    def make(kib: int) -> Disk:
        made.append(Disk(tmp_path / f"disk{len(made)}", kib))
        return made[-1]

    try:
        yield make
    finally:
        for disk in made:
            subprocess.run(["umount", "-l", disk.place], check=True)


@contextlib.contextmanager
def files_of_at_most(size):
    """No file may grow beyond `size` bytes in this process: EFBIG, in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(work, *words):
    with pytest.raises(UserError) as caught:
        work()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert str(word) in text, text
    return text


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def make(out, **options):
    return prepare(SOURCE, out, HashEncoder(), OPTIONS, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_shards, "shard_entries", lambda resolution: 16)
        patch.setattr(prepared, "CAPTIONS_PER_CHUNK", 64)
        out = tmp_path_factory.mktemp("whole") / "out"
        make(out)
    return files(out)


# ---- prepare ---------------------------------------------------------------------------------------------------


def check_prepare(disk, whole, kib):
    """It ends in one line, leaves no data set, and goes on when there is room."""
    disk.resize(kib)
    out = disk.place / "out"
    try:
        make(out)
    except UserError as error:
        text = str(error)
        assert "\n" not in text and text.startswith(str(disk.place)) and "no space left on the disk (" in text
        assert "MiB free)" in text and not out.exists()
        assert not list(disk.place.rglob("*.tmp"))
        disk.resize(8192)
        make(out)
    assert files(out) == whole
    shutil.rmtree(out)
    assert list(disk.place.iterdir()) == []


@pytest.mark.slow
def test_prepare_on_a_disk_that_is_full_sooner_or_later(disks, whole):
    disk = disks(8192)
    total = sum(map(len, whole.values())) // 1024
    for kib in (4, 8, 60, total // 2, total * 3 // 4, total, total + 20):
        check_prepare(disk, whole, kib)


@pytest.mark.slow
def test_prepare_on_disks_of_every_size(disks, whole):
    disk = disks(8192)
    total = sum(map(len, whole.values())) // 1024
    sizes = range(4, total + 160, 8)
    for kib in sizes:
        check_prepare(disk, whole, kib)
    print(f"{len(sizes)} disk sizes")


def test_prepare_where_files_may_grow_no_further(whole, tmp_path):
    for size in (10, 1000, 20_000, 49_000):
        out = tmp_path / str(size)
        with files_of_at_most(size):
            refused(lambda out=out: make(out), out, "File too large")
        assert not out.exists() and not list(tmp_path.rglob("*.tmp"))
        make(out)
        assert files(out) == whole


def test_a_data_set_that_is_replaced_on_a_full_disk_stays(disks):
    disk = disks(8192)
    out = disk.place / "out"
    prepare(ShapesSource(5), out, HashEncoder(), OPTIONS)
    before = files(out)
    disk.resize(300)
    refused(lambda: make(out, overwrite=True), "no space left")
    assert files(out) == before and len(PreparedDataset(out)) == 5


def test_prepare_on_a_full_disk_from_the_command_line(disks, monkeypatch, capfd):
    monkeypatch.setattr("t2i.text.encoders.load_encoder", lambda name, *rest: HashEncoder())
    disk = disks(200)
    out = disk.place / "out"
    assert run(["prepare", "--shapes", "60", "--resolution", "32", "--val-fraction", "0", "--out", str(out)]) == 1
    line = capfd.readouterr().err
    assert line.startswith(f"t2i: {disk.place}") and "no space left on the disk (0." in line and line.count("\n") == 1
    assert not out.exists()


# ---- checkpoints, models, grids --------------------------------------------------------------------------------


def save_all(folder):
    """What a run writes: (the call, the path that its message names)."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return {
        "a checkpoint": (lambda: save(folder / "checkpoints", 32), folder / "checkpoints"),
        "a model": (lambda: save_model(folder / "model", *generator(1)), folder / "model"),
        "a grid": (lambda: save_image(image, folder / "grid.png"), folder / "grid.png"),
    }


def start(folder):
    """The same a step earlier, to be still there afterwards."""
    save(folder / "checkpoints", 16)
    save_model(folder / "model", *generator(0))
    save_image(np.zeros((64, 64, 3), np.uint8), folder / "grid.png")
    return files(folder)


def check_untouched(folder, before):
    """Nothing half-written; what was there is there and loads."""
    now = files(folder)
    now.pop("filler", None)
    assert now == before
    assert newest_checkpoint(folder / "checkpoints")[1]["images_seen"] == 16
    assert same(generator(0)[0].state_dict(), weights(folder / "model"))


@pytest.mark.parametrize("what", save_all(Path()))
def test_saving_on_a_full_disk(disks, what):
    disk = disks(8192)
    before = start(disk.place)
    disk.resize(sum(map(len, before.values())) // 1024 + 80)
    disk.fill()
    save, path = save_all(disk.place)[what]
    refused(save, path, "no space left on the disk (0.0 MiB free)")
    check_untouched(disk.place, before)
    disk.resize(8192)
    save()


@pytest.mark.parametrize("what", save_all(Path()))
def test_saving_where_files_may_grow_no_further(tmp_path, what):
    before = start(tmp_path)
    save, path = save_all(tmp_path)[what]
    for size in (0, 700, 3000):
        with files_of_at_most(size):
            refused(save, path, "File too large")
        check_untouched(tmp_path, before)
    save()


@pytest.mark.parametrize("what", save_all(Path()))
def test_saving_in_a_folder_that_may_not_be_written(read_only_folder, what):
    save, path = save_all(read_only_folder)[what]
    refused(save, path, "Permission denied")
    assert files(read_only_folder) == {}


def test_preparing_into_a_folder_that_may_not_be_written(read_only_folder):
    for options in (OPTIONS, PrepareOptions(resolution=32, workers=1, shard=(1, 2))):
        said = refused(lambda options=options: prepare(SOURCE, read_only_folder / "out", HashEncoder(), options))
        assert said == f"{read_only_folder / 'out'}: Permission denied"
    assert files(read_only_folder) == {}


def test_preparing_below_a_folder_that_may_not_be_looked_into(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    with not_root():
        said = refused(lambda: prepare(SOURCE, closed / "below" / "out", HashEncoder(), OPTIONS))
    assert said == f"{closed / 'below' / 'out'}: Permission denied"


def test_a_log_on_a_full_device_is_said(tmp_path):
    """/dev/full: a real ENOSPC at every write."""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "log.txt").symlink_to("/dev/full")
    refused(lambda: Run(tmp_path).log("a line"), tmp_path / "log.txt", "no space left on the disk")
