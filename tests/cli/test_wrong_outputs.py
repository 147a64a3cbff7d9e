"""Folders and disks that cannot be written: one line, exit code 1, nothing half-written."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from folders import listing, not_root

from t2i.cli import run
from t2i.text.minilm import bundled_minilm


def installation_is_readable() -> bool:
    """A virtual environment that root made may be closed to others."""
    try:
        return bundled_minilm() is not None
    except OSError:
        return False


@pytest.fixture
def readable(tiny_model, minilm_data):
    """A folder with a model, a data set and the read-only folder `locked`; root is somebody else for the while."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o755)
        shutil.copytree(tiny_model, folder / "model")
        shutil.copytree(minilm_data, folder / "data")
        for path in folder.rglob("*"):  # whatever the umask
            path.chmod(0o755 if path.is_dir() else 0o644)
        (folder / "locked").mkdir()
        os.chmod(folder / "locked", 0o555)
        try:
            with not_root():
                if not installation_is_readable():
                    pytest.skip("only root can read this installation")
                yield folder
        finally:
            os.chmod(folder / "locked", 0o755)


def output_commands(model: Path, data: Path, out: Path) -> dict[str, list[str]]:
    """A call of every command that writes, into `out`."""
    return {
        "generate": ["generate", "a table", "--model", str(model), "-o", str(out / "out.png")],
        "generate a folder": ["generate", "a table", "--model", str(model), "-o", str(out / "images")],
        "sample-grid": ["sample-grid", "a table", "--cols", "2", "--model", str(model), "-o", str(out / "grid.png")],
        "train": ["train", str(data), "--batch", "8", "--kimg", "0.016", "--out", str(out / "runs")],
        "prepare": ["prepare", "--shapes", "64", "--resolution", "64", "--val-fraction", "0", "--workers", "1",
                    "--out", str(out / "new")],
    }  # fmt: skip


def test_a_read_only_folder_to_write_to(readable, capfd):
    for arguments in output_commands(readable / "model", readable / "data", readable / "locked").values():
        capfd.readouterr()
        assert run(arguments) == 1
        line = capfd.readouterr().err
        assert line.startswith(f"t2i: {readable / 'locked'}") and line.endswith("Permission denied\n")
        assert line.count("\n") == 1
    assert listing(readable / "locked") == {}


@pytest.fixture
def small_disk(tmp_path):
    """A mounted disk of 512 KiB, 400 of them taken."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not shutil.which("mount"):
        pytest.skip("there is no mount here")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (disk / "filler").write_bytes(bytes(400 * 2**10))
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> None:
    """Take all that is left of a disk."""
    with open(disk / "filler", "ab", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError:
            return


@pytest.mark.parametrize("command", output_commands(Path(), Path(), Path()))
def test_a_full_disk_leaves_no_half_written_file(small_disk, tiny_model, minilm_data, command, capfd):
    if command != "prepare":  # it writes 800 KiB, and fails on the way
        fill(small_disk)
    capfd.readouterr()
    assert run(output_commands(tiny_model, minilm_data, small_disk)[command]) == 1
    line = capfd.readouterr().err
    assert line.startswith(f"t2i: {small_disk}") and line.count("\n") == 1
    assert "no space left on the disk (0." in line
    if command == "prepare":
        assert not (small_disk / "new").exists()
        assert sorted(p.name for p in (small_disk / "new.partial").iterdir()) == ["plan.json"]
    else:
        assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["filler"]
