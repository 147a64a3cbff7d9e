"""How long until the first image? Cold starts in new processes, in turns with `import torch` alone.

    python benchmarks/first_image.py MODEL [--turns 7]

Prints medians of wall and CPU seconds, and the ratio to `python -c "import torch"`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from script import run_script


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall and CPU (user and system) seconds of a process."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        image = str(Path(folder) / "out.png")
        t2i = [sys.executable, "-m", "t2i"]
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "t2i generate": [*t2i, "generate", "a red apple", "--model", str(options.model), "-o", image],
            "t2i --help": [*t2i, "--help"],
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for turn in range(options.turns + 1):
            for name, command in commands.items():
                found = seconds(command)
                if turn:  # the first turn fills the page cache
                    taken[name].append(found)
    for name, values in taken.items():
        wall, cpu = (statistics.median(column) for column in zip(*values))
        ratios = [a[0] / b[0] for a, b in zip(values, taken["import torch"])]
        print(f"{name:14} {wall:6.2f} s, CPU {cpu:6.2f} s, {statistics.median(ratios):.2f} times import torch")


if __name__ == "__main__":
    run_script(main)
