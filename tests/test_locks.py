"""One process at a time: a second one is refused in one line, and a dead one is in nobody's way."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from t2i import locks
from t2i.errors import UserError
from t2i.locks import lock

# Takes the lock and holds it until its stdin ends; says so, or why not.
HOLDER = """
import sys
from t2i.errors import UserError
from t2i.locks import lock
try:
    with lock(sys.argv[1], "t2i test", shared=len(sys.argv) > 2):
        print("held", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


@contextlib.contextmanager
def holder(folder, *options):
    """Another process that asks for the lock, and its answer."""
    command = [sys.executable, "-c", HOLDER, str(folder), *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def refused(folder, **options):
    with pytest.raises(UserError) as caught, lock(folder, "t2i test", **options):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_second_process_is_refused_in_one_line_that_names_the_first(tmp_path):
    folder = tmp_path / "run"
    with holder(folder) as (process, answer):
        assert answer == "held"
        said = refused(folder)
        assert said.startswith(f"{folder}: another t2i test is at work there (process {process.pid} on ")
        with lock(tmp_path / "other", "t2i test"):
            pass
        process.communicate("")
        with lock(folder, "t2i test"):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_of_a_dead_process_is_not_in_the_way(tmp_path, number):
    folder = tmp_path / "run"
    with holder(folder) as (process, answer):
        assert answer == "held"
        process.send_signal(number)
        process.wait(600)
        assert (tmp_path / ".run.lock").exists()
        with lock(folder, "t2i test"):
            assert refused(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "1 another-host\n", "4711 x\n", "garbage \udcff", "9" * 5000])
def test_a_lock_file_that_a_crash_or_another_boot_left_is_not_in_the_way(tmp_path, content):
    """Its process id may be somebody else's by now: only the kernel's word counts."""
    (tmp_path / ".run.lock").write_text(content.replace("1", str(os.getpid())), errors="surrogateescape")
    with lock(tmp_path / "run", "t2i test"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_shared_locks_go_together_and_keep_an_exclusive_one_out(tmp_path):
    folder = tmp_path / "run"
    with holder(folder, "shared") as (first, answer):
        assert answer == "held"
        with holder(folder, "shared") as (_, again):
            assert again == "held"
            assert refused(folder)
            first.communicate("")
            assert refused(folder)  # the first one has not taken the file away from the second
            with lock(folder, "t2i test", shared=True):
                pass
            assert refused(folder)
    with holder(folder) as (_, answer):
        assert answer == "held"
        assert refused(folder, shared=True)


def test_a_child_does_not_keep_its_dead_parents_lock(tmp_path):
    """A worker that outlives its parent for a moment holds nothing."""
    folder = tmp_path / "run"
    with lock(folder, "t2i test"):
        child = subprocess.Popen(["sleep", "60"])
    try:
        with lock(folder, "t2i test"):
            pass
    finally:
        child.kill()
        child.wait()


def test_of_many_that_ask_at_once_one_has_it_at_a_time(tmp_path):
    inside, most, got = 0, 0, 0

    def ask():
        """Ask until it was mine fifty times: how often it is refused is the scheduler's business."""
        nonlocal inside, most, got
        mine = 0
        while mine < 50:
            with contextlib.suppress(UserError), lock(tmp_path / "run", "t2i test"):
                inside += 1
                most, got, mine = max(most, inside), got + 1, mine + 1
                inside -= 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, got) == (1, 200)
    assert list(tmp_path.iterdir()) == []


def test_one_that_shares_is_not_refused_while_another_one_ends(tmp_path, monkeypatch):
    """The last to end has the lock alone while it removes the file: whoever comes in that moment waits."""
    removing, came = threading.Event(), threading.Event()
    unlink, attempt = os.unlink, locks._try

    def slowly(path):
        removing.set()
        assert came.wait(600)
        unlink(path)

    def watched(handle, shared):
        got = attempt(handle, shared)
        if shared and not got:
            came.set()
        return got

    def first():
        with lock(tmp_path / "run", "t2i test", shared=True):
            pass

    monkeypatch.setattr(locks, "_PATIENCE", 600)
    monkeypatch.setattr(os, "unlink", slowly)
    thread = threading.Thread(target=first)
    thread.start()
    assert removing.wait(600)
    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(locks, "_try", watched)
    with lock(tmp_path / "run", "t2i test", shared=True):
        assert came.is_set()  # in that moment
        thread.join()
        assert (tmp_path / ".run.lock").exists() and refused(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_may_go_and_come_under_the_lock(tmp_path):
    folder = tmp_path / "run"
    with lock(folder, "t2i test"):
        folder.mkdir()
        folder.rename(tmp_path / "elsewhere")
        assert refused(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_a_folder_that_cannot_be_written_is_said(read_only_folder):
    assert "Permission denied" in refused(read_only_folder / "run")


def test_where_the_file_system_cannot_lock_there_is_no_lock(tmp_path, monkeypatch):
    def unable(handle, operation):
        raise OSError(locks.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", unable)
    with lock(tmp_path / "run", "t2i test"), lock(tmp_path / "run", "t2i test"):
        pass
    assert list(tmp_path.iterdir()) == []
