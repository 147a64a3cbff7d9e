"""Training beside another program: images seen in so many minutes, with the threads that t2i picks and with all.

    python benchmarks/busy_core.py DATA [--minutes 1] [--turns 2] [--pin] [--train "--arch stylegan --amp"]

The other program is an endless loop on one core; --pin holds it to the last one, where the system cannot move it to
where it is less in the way (as in a container that has this core alone, or a program that asks for it). Three runs a
turn, one after the other: nothing beside it, the other program beside it, and the same with OMP_NUM_THREADS.
"""

import argparse
import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from script import run_script

LOOP = "import os\nif {cores}: os.sched_setaffinity(0, {cores})\nwhile True: pass"


@contextlib.contextmanager
def busy(cores: list[int]) -> Iterator[None]:
    """A program that does nothing, all the time; on `cores` where some are named."""
    other = subprocess.Popen([sys.executable, "-c", LOOP.format(cores=cores)])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def images_seen(data: str, minutes: float, options: list[str], threads: int | None) -> int:
    """What a run of `minutes` saw. threads: OMP_NUM_THREADS, or None where t2i picks."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as root:
        command = ["train", data, "--out", root, "--minutes", str(minutes), "--device", "cpu", *options]
        subprocess.run([sys.executable, "-m", "t2i", *command], env=environment, check=True, capture_output=True)
        lines = next(Path(root).glob("*/metrics.jsonl")).read_text().splitlines()
    return json.loads(lines[-1])["images_seen"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--pin", action="store_true")
    parser.add_argument("--train", default="", help="options of t2i train, in one word")
    args = parser.parse_args()

    cores = os.cpu_count() or 1
    there = [cores - 1] if args.pin else []
    cases = {"alone": (False, None), "beside it": (True, None), f"beside it, {cores} threads": (True, cores)}
    seen: dict[str, list[int]] = {name: [] for name in cases}
    for _ in range(args.turns):
        for name, (beside, threads) in cases.items():
            with busy(there) if beside else contextlib.nullcontext():
                seen[name].append(images_seen(args.data, args.minutes, shlex.split(args.train), threads))
    for name, counts in seen.items():
        print(f"{name}: {statistics.median(counts):,.0f} images in {args.minutes:g} minutes {counts}")


if __name__ == "__main__":
    run_script(main)
