"""What Windows and macOS do otherwise, imitated on Linux: files in use, locks, signals, limits."""

import ast
import errno
import math
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import t2i
from t2i import files, locks, signals
from t2i.cli import console, launch, run
from t2i.data import decoding, prepared
from t2i.errors import UsageError, UserError
from t2i.locks import holder, lock
from t2i.training import memory
from t2i.ui.watching import Trainings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="imitates the others on Linux")


# ---- Windows: an open file cannot be renamed, replaced or removed, and nothing is renamed onto a folder -----------


def open_files() -> set[Path]:
    """Regular files that this process has open, or mapped."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(Path(os.readlink(link)))
        except OSError:
            continue  # the listing's own
    maps = Path("/proc/self/maps").read_text().splitlines()
    found |= {Path(line.split(maxsplit=5)[5]) for line in maps if line.count(" ") >= 5 and "/" in line}
    return {path for path in found if path.is_file()}


@pytest.fixture
def windows_files(here, monkeypatch):
    """The calls that Windows would refuse, as texts; they are refused here, too."""
    refused: list[str] = []
    root = here.resolve()

    def check(what: str, path: object, directory: int | None = None) -> None:
        whole = Path(os.readlink(f"/proc/self/fd/{directory}") if directory is not None else ".", os.fsdecode(path))
        whole = Path(os.path.abspath(whole))
        if whole.is_relative_to(root) and (held := [f for f in open_files() if f.is_relative_to(whole)]):
            refused.append(f"{what} {whole}: {held[0].name} is open")
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(whole))

    def moves(name: str, onto: bool):
        real = getattr(os, name)

        def call(source, target, **options):
            check(name, source)
            check(name, target)
            if os.path.isdir(target) or (os.path.exists(target) and not onto):
                refused.append(f"{name} onto {target}")
                raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", str(target))
            return real(source, target, **options)

        return call

    def removes(name: str):
        real = getattr(os, name)

        def call(path, *, dir_fd=None):
            check(name, path, dir_fd)
            return real(path, dir_fd=dir_fd)

        return call

    for name, onto in (("rename", False), ("replace", True)):
        monkeypatch.setattr(os, name, moves(name, onto))
    for name in ("unlink", "remove"):
        monkeypatch.setattr(os, name, removes(name))
    return refused


def test_the_imitation_refuses_what_windows_refuses(windows_files, here):
    (here / "folder").mkdir()
    with open(here / "folder" / "file", "wb"):
        for call in (lambda: os.rename(here / "folder", here / "other"), lambda: os.unlink(here / "folder" / "file")):
            with pytest.raises(PermissionError):
                call()
    (here / "other").mkdir()
    with pytest.raises(FileExistsError):
        os.rename(here / "folder", here / "other")
    os.unlink(here / "folder" / "file")
    assert len(windows_files) == 3


@pytest.mark.slow
def test_no_command_moves_or_removes_what_it_has_open(windows_files, windows_locks, here, one_encoder):
    shapes = "prepare --shapes 40 --resolution 16 --val-fraction 0 --workers 1 --out data"
    (here / "data").mkdir()  # an empty folder is replaced
    run_settings = "snapshot_kimg = 0.016\nlog_kimg = 0.008\nkeep_snapshots = 2"
    widths = "generator.nf = 4\ndiscriminator.nf = 4"
    (here / "tiny.toml").write_text(f'arch = "dfgan"\npreset = "small"\n[run]\n{run_settings}\n[model]\n{widths}\n')
    for command in (
        shapes,
        f"{shapes} --overwrite",
        "train data --kimg 0.048 --batch 8 --config tiny.toml --device cpu",
        "train --resume --kimg 0.08 --device cpu",
        "generate x -o a.png --device cpu",
        "generate x -o a.png --device cpu",
        "sample-grid x -o b.png --device cpu",
        "info data",
    ):
        assert run(command.split()) == 0, command
    assert windows_files == []


@pytest.mark.slow
def test_a_data_set_that_is_in_use_is_not_replaced_and_stays(windows_files, here, capfd, one_encoder):
    shapes = [
        "prepare",
        "--shapes",
        "40",
        "--resolution",
        "16",
        "--val-fraction",
        "0",
        "--workers",
        "1",
        "--out",
        "data",
    ]
    assert run(shapes) == 0
    used = prepared.PreparedDataset("data")
    used.images([0])
    assert run([*shapes, "--overwrite"]) == 1
    assert capfd.readouterr().err.count("\n") == 1
    assert len(prepared.PreparedDataset("data")) == len(used) == 40


# ---- Windows: locks ----------------------------------------------------------------------------------------------


@pytest.fixture
def windows_locks(monkeypatch):
    """msvcrt.locking by Linux's locks of an open file's bytes; the places that were locked."""
    import fcntl

    places: list[int] = []

    def locking(handle: int, mode: int, count: int) -> None:
        place = os.lseek(handle, 0, os.SEEK_CUR)
        places.append(place)
        try:
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, place, count, 0))
        except OSError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    monkeypatch.setattr(locks, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2), raising=False)
    return places


def test_the_second_is_refused_and_the_first_is_named(windows_locks, tmp_path):
    assert holder(tmp_path / "run") is None
    said = f"another training is at work there .process {os.getpid()} on "
    with lock(tmp_path / "run", "training"):
        with pytest.raises(UserError, match=said), lock(tmp_path / "run", "training"):
            pass
        assert holder(tmp_path / "run").pid == os.getpid()
    with lock(tmp_path / "run", "training"):
        pass
    assert min(windows_locks) > 1000  # behind the text, which others read while it is locked


def test_a_killed_one_left_its_file_and_no_lock(windows_locks, tmp_path):
    (tmp_path / ".run.lock").write_text(f"{os.getpid()} {os.uname().nodename}\n")
    assert holder(tmp_path / "run") is None


def test_parts_share_a_lock_and_keep_others_out(windows_locks, windows_files, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.05)
    another = os.getpid() + 1
    with lock(tmp_path / "data", "prepare", shared=True):
        monkeypatch.setattr(os, "getpid", lambda: another)
        with lock(tmp_path / "data", "prepare", shared=True):
            pass
        with pytest.raises(UserError), lock(tmp_path / "data", "prepare"):
            pass


# ---- Windows: signals, processes, shells ---------------------------------------------------------------------------


def test_ctrl_break_stops_in_the_place_of_a_hangup(monkeypatch):
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    assert signals.stop_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


def test_without_pthread_kill_a_swallowed_stop_is_sent_again(monkeypatch):
    monkeypatch.delattr(signal, "pthread_kill")
    caught = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: caught.set())
    try:
        with console.no_stop_is_lost():
            sys.unraisablehook(SimpleNamespace(exc_value=console.Stopped(signal.SIGTERM)))
            until = time.monotonic() + 5
            while not caught.is_set() and time.monotonic() < until:
                time.sleep(0.01)
            assert caught.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_page_stops_a_training_by_ctrl_break(monkeypatch, tmp_path):
    sent = []
    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", 1, raising=False)
    with lock(tmp_path / "run", "training"):
        monkeypatch.setattr("t2i.ui.watching.os.kill", lambda pid, number: sent.append((pid, number)))
        Trainings(tmp_path).stop(str(tmp_path / "run"))
        assert (os.getpid(), 1) in sent

        def refuse(pid, number):
            if number == 1:
                raise OSError("the parameter is incorrect")

        monkeypatch.setattr("t2i.ui.watching.os.kill", refuse)
        with pytest.raises(UserError, match="press Ctrl-C where it was started"):
            Trainings(tmp_path).stop(str(tmp_path / "run"))


def test_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(launch, "os", SimpleNamespace(name="nt"))
    with pytest.raises(UsageError, match="start the processes with torchrun"):
        launch.launch(2, [])


def test_hints_are_quoted_as_its_shells_read_them(monkeypatch):
    monkeypatch.setattr(files, "sys", SimpleNamespace(platform="win32"))
    assert files.shell_word(r"C:\my runs\0") == r'"C:\my runs\0"' and files.shell_word(r"runs\0") == r"runs\0"


def test_decoders_are_started_anew_where_nothing_forks(monkeypatch, here):
    monkeypatch.setattr(decoding, "_can_serve", lambda: False)
    shapes = "prepare --shapes 12 --resolution 16 --val-fraction 0 --workers 1 --out data"
    assert run(shapes.split()) == 0


# ---- macOS, and systems with neither /proc nor resource ------------------------------------------------------------


def test_a_limit_that_cannot_be_raised_stays(monkeypatch):
    import resource

    def refuse(kind, limits):
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    prepared._allow_open_files(10)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_memory_is_unknown_where_nothing_says_it(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()))
    monkeypatch.setitem(sys.modules, "resource", None)
    assert math.isnan(memory.memory_gib(SimpleNamespace(type="cpu")))


@pytest.mark.slow
def test_modules_of_one_system_are_imported_where_they_are_asked_for():
    """`import t2i.cli` on a Python without them."""
    program = """if True:
        import subprocess, sys, types  # what they import there, they imported before
        import rich.progress, torch._dynamo, torch.distributed, torchvision, typer
        sys.platform, sys.modules["msvcrt"] = "win32", types.ModuleType("msvcrt")
        for name in ("fcntl", "resource", "termios", "pwd", "grp"):
            sys.modules[name] = None
        import t2i.cli, t2i.locks, t2i.training.loop, t2i.data.prepare, t2i.ui.watching
    """
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr == ""


# ---- text files ----------------------------------------------------------------------------------------------------

ROOT = Path(t2i.__file__).parent


def without_encoding(path: Path) -> list[int]:
    """Lines that open a text in the system's own encoding, which is not UTF-8 on Windows."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(keyword.arg in ("encoding", None) for keyword in node.keywords):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        texts = [a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)]
        if called in ("read_text", "write_text") and not (called == "read_text" and node.args):
            found.append(node.lineno)
        if isinstance(node.func, ast.Name) and called == "open" and not any("b" in str(t) for t in texts):
            found.append(node.lineno)
    return found


def test_texts_are_utf_8_whatever_the_system_says():
    own = {"training/memory.py", "cli/__init__.py"}  # /proc, which is ASCII, and the null device
    places = {str(path.relative_to(ROOT)): without_encoding(path) for path in ROOT.rglob("*.py")}
    assert {name for name, lines in places.items() if lines} == own
