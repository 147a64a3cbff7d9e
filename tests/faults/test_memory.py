"""Memory that really ends: a limit on the process, nothing patched."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc tells what a process has")
DRIVER = Path(__file__).with_name("memory_driver.py")


def limited(mib: int, *arguments: object) -> tuple[int, list[str]]:
    """Exit code, and the lines on stderr, of a command that may take `mib` MiB.

    Starved native code may end by a signal, which no Python code can prevent: such a one is run again, twice.
    """
    for _ in range(3):
        done = subprocess.run([sys.executable, DRIVER, str(mib), *map(str, arguments)], capture_output=True, text=True)
        if done.returncode >= 0:
            break
    return done.returncode, done.stderr.splitlines()


@pytest.mark.slow
def test_training_says_what_halves_the_micro_batch_until_it_fits(shapes_data, tmp_path):
    runs = tmp_path / "runs"
    small = ("--arch", "dfgan", "--preset", "small")
    command = ["train", shapes_data.path, *small, "--batch", 1024, "--kimg", 1, "--out", runs]
    said, size = [], 1024
    while True:
        code, lines = limited(650, *command)
        if (code, lines) == (0, []):
            break
        assert code == 1 and len(lines) == 1, lines
        found = re.fullmatch(
            rf"t2i: out of memory with a micro-batch of {size} at 16 px; t2i train --resume --accumulate (\d+) halves "
            rf"it to {size // 2} and keeps the batch of 1024",
            lines[0],
        )
        assert found, lines
        size //= 2
        assert int(found[1]) * size == 1024
        said.append(lines[0])
        command = ["train", "--resume", max(runs.iterdir()), "--accumulate", found[1]]
    assert said


@pytest.mark.slow
def test_wherever_memory_ends_there_is_one_line(shapes_data, tmp_path):
    """From not enough for a step to enough for a small micro-batch: one line, or a death in native code without any."""
    said = 0
    for mib in range(200, 800, 100):
        options = ("--arch", "stylegan2", "--preset", "small", "--batch", 1024, "--kimg", 1, "--out", tmp_path / "runs")
        code, lines = limited(mib, "train", shapes_data.path, *options)
        if code < 0:
            assert "Traceback" not in "".join(lines), (mib, code, lines)
            continue
        said += 1
        assert code == 1 and len(lines) == 1 and lines[0].startswith("t2i: "), (mib, code, lines[-3:])
        assert "out of memory with a micro-batch of 1024 at 16 px" in lines[0], (mib, lines)
    assert said >= 3
