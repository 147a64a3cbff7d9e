"""SIGINT and SIGTERM in `prepare`: one line, the right code, no process left, and the same command goes on."""

import os
import random
import signal
import time

import pytest
from hash_encoder import HashEncoder
from prepare_driver import CHUNK, LONG, SHARD, start
from processes import alive, left_after

from t2i.data import image_shards, prepared
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.sources.shapes import ShapesSource

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def command(out, stage="never", seconds=0.0, count=40, workers=2):
    options = ["--val-fraction", 0, "--resolution", 16, "--workers", workers, "--out", out]
    return start("command", stage, seconds, "prepare", "--shapes", count, *options)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The bytes of a run that nobody stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_shards, "shard_entries", lambda resolution: SHARD)
        patch.setattr(prepared, "CAPTIONS_PER_CHUNK", CHUNK)
        out = tmp_path_factory.mktemp("whole") / "out"
        prepare(ShapesSource(40), out, HashEncoder(), PrepareOptions(resolution=16, workers=1))
    return files(out)


def wait_for(process, line):
    assert f"{line}\n" in iter(process.stdout.readline, ""), process.communicate()


def check_stopped(process, number):
    """It has ended as it should; returns what it had printed since."""
    said, errors = process.communicate(timeout=600)
    line = f"t2i: stopped by {number.name}; the same command goes on where it was\n"
    assert (process.returncode, errors) == (CODES[number], line)
    assert left_after(process.pid) == []
    return said


@pytest.mark.parametrize(
    ("stage", "number", "send"),
    [
        ("images", signal.SIGINT, os.killpg),  # as a terminal does
        pytest.param("images", signal.SIGTERM, os.kill, marks=pytest.mark.slow),
        pytest.param("captions", signal.SIGINT, os.kill, marks=pytest.mark.slow),
        pytest.param("captions", signal.SIGTERM, os.killpg, marks=pytest.mark.slow),  # as a batch system does
    ],
)
def test_a_signal_ends_with_one_line_and_the_same_command_goes_on(expected, tmp_path, stage, number, send):
    out = tmp_path / "out"
    process = command(out, stage, LONG)
    wait_for(process, "paused")
    send(process.pid, number)
    check_stopped(process, number)
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]

    report, errors = command(out).communicate(timeout=600)
    assert errors == ""
    assert ("16 from an earlier run" if stage == "images" else "40 from an earlier run") in report
    assert files(out) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_a_second_prepare_is_refused_and_a_killed_one_is_not_in_the_way(expected, tmp_path):
    out = tmp_path / "out"
    first = command(out, "images", LONG)
    wait_for(first, "paused")
    second = command(out)
    said, errors = second.communicate(timeout=600)
    assert (second.returncode, said) == (1, "") and errors.count("\n") == 1
    assert errors.startswith(f"t2i: {out}: another t2i prepare is at work there (process {first.pid} on ")
    first.kill()
    first.communicate()
    report, errors = command(out).communicate(timeout=600)
    assert errors == "" and "16 from an earlier run" in report
    assert files(out) == expected


def check_any_moment(out, chance):
    """A signal after a seeded while, in the start-up of the workers as well."""
    number, send = chance.choice(list(CODES)), chance.choice([os.kill, os.killpg])
    process = command(out, count=40_000, workers=3)
    wait_for(process, "images: 0 of 40,000")
    time.sleep(chance.random() ** 2)
    send(process.pid, number)
    check_stopped(process, number)
    assert not out.exists()


@pytest.mark.slow
def test_a_signal_at_any_moment_makes_no_traceback(tmp_path):
    chance = random.Random(0)
    for attempt in range(3):
        check_any_moment(tmp_path / str(attempt), chance)


@pytest.mark.slow
def test_a_signal_at_any_of_many_moments_makes_no_traceback(tmp_path):
    chance = random.Random(1)
    for attempt in range(50):
        check_any_moment(tmp_path / str(attempt), chance)


def test_ctrl_c_does_not_wait_for_images_under_way(tmp_path):
    """Here they take a quarter of an hour each."""
    process = start("stuck", tmp_path / "out")
    wait_for(process, "images: 0 of 64")
    while len(alive(process.pid)) < 4:  # the command, its helpers, a worker
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    check_stopped(process, signal.SIGINT)


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    """Where the first takes a while: a quarter of an hour here."""
    process = start("dawdling", tmp_path / "out")
    wait_for(process, "paused")
    os.killpg(process.pid, signal.SIGINT)
    wait_for(process, "leaving")
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=600)[1]
    assert process.returncode == -signal.SIGINT and errors == ""  # a shell says 130
    assert left_after(process.pid) == []
