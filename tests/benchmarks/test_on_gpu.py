"""benchmarks/on_gpu.py within a tiny bound, on a CPU: each part has its place, ends in time, and leaves no process."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def on_gpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        spec = importlib.util.spec_from_file_location("on_gpu", SCRIPTS / "on_gpu.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "on_gpu", module)
        spec.loader.exec_module(module)
        yield module


def test_a_command_ends_with_its_seconds_and_what_it_printed_counts(on_gpu):
    began = time.monotonic()
    program = "import subprocess, sys, time; print('here'); subprocess.Popen(['sleep', '77.7']); time.sleep(60)"
    text, ended = on_gpu.bounded([sys.executable, "-c", program], 3)
    assert (text, ended) == ("here\n", "stopped after 3 s") and time.monotonic() - began < 20
    assert "sleep 77.7" not in subprocess.run(["ps", "axo", "args"], capture_output=True, text=True).stdout
    assert on_gpu.bounded([sys.executable, "-c", "raise SystemExit(3)"], 20) == ("", "exit code 3")


def test_the_lines_of_the_benchmarks_become_a_table(on_gpu):
    text = (
        "data, 64 px, cuda, 16 threads, torch 2\n"
        "published, bf16                        812.0 images/s (810.1-813.9)    1.00 times the first\n"
        "fast                     batch 32    2213.1 images/s (2213.1-2213.1)  2.73 times the first\n"
    )
    shown = on_gpu.speeds(text)
    assert "| published, bf16 | 812.0 | 1.00 |" in shown and "| fast | 2213.1 | 2.73 |" in shown
    assert "16 threads" in shown and "times the first\n" not in shown.partition("|---")[2]


def test_every_script_and_test_that_it_calls_exists(on_gpu, tmp_path):
    place = on_gpu.Place(tmp_path, tmp_path, tmp_path, "cpu", 1.0)
    named = [word for part in on_gpu.PARTS for command in part.commands(place) for word in command]
    assert [word for word in named if word.endswith(".py") and not Path(word).exists()] == []


@pytest.mark.slow
def test_with_no_time_it_says_what_was_not_run(on_gpu, tmp_path, shapes_data):
    command = [sys.executable, SCRIPTS / "on_gpu.py", "--minutes", "0.001", "--data", shapes_data.path]
    options = ["--device", "cpu", "--only", "step", "published"]
    done = subprocess.run([*map(str, command), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("## ") == 2 and "not run: its minutes were over" in done.stdout


@pytest.mark.slow
def test_what_does_not_fit_into_the_minutes_is_said(tmp_path):
    command = [sys.executable, SCRIPTS / "on_gpu.py", "--minutes", "0.3", "--images", "40", "--device", "cpu"]
    done = subprocess.run(
        [*map(str, command), "--only", "step", "--out", str(tmp_path / "report.md")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.md").read_text() == done.stdout
    commands = done.stdout.count("`python benchmarks/training_step.py")
    assert commands == done.stdout.count("stopped after ") + done.stdout.count("| images a second |") > 0, done.stdout
