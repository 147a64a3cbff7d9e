"""Peak memory of `prepare`: the main process's, for ever more images.

    python benchmarks/prepare_memory.py 10000 100000

Drawn shapes, three captions each, and an encoder that costs nothing: what is measured is what prepare itself
keeps. Each count runs in a fresh process. `start` is the memory before the first image (imports). It grows
until the first shard is full (16,384 images at 32 px), and from then on with the captions alone.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from script import run_script

from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.sources.shapes import ShapesSource


class FreeEncoder:
    """As many tokens as a caption has words, all of them the same."""

    width, max_tokens, truncated, unknown = 24, 16, 0, 0

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        return [np.ones((min(len(text.split()), self.max_tokens), self.width), np.float16) for text in texts]

    def describe(self) -> dict[str, Any]:
        return {"name": "free", "sha256": "0" * 64, "width": self.width, "max_tokens": self.max_tokens}


def peak() -> float:
    """The most memory this process ever had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


def measure(count: int, resolution: int, workers: int) -> dict[str, float]:
    facts: dict[str, float] = {"start": peak()}

    def note(stage: str, done: int, total: int | None) -> None:
        facts[f"after {stage}"] = peak()

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        options = PrepareOptions(resolution=resolution, workers=workers)
        summary = prepare(ShapesSource(count), Path(folder) / "out", FreeEncoder(), options, note)
        return {
            **facts, "end": peak(), "seconds": time.perf_counter() - start,
            "captions": summary.captions, "uses": summary.caption_uses,
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("counts", type=int, nargs="*", default=[10_000, 100_000], help="numbers of images")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--one", action="store_true", help="measure in this process, print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.counts[0], options.resolution, options.workers)))
        return
    print("                               peak memory, MiB, after")
    print("images  captions  different     start  images  captions       end   seconds")
    for count in options.counts:
        command = [sys.executable, __file__, str(count), "--one", "--resolution", str(options.resolution)]
        done = subprocess.run([*command, "--workers", str(options.workers)], check=True, stdout=subprocess.PIPE)
        row = json.loads(done.stdout)
        memory = "".join(f"{row[name]:10.0f}" for name in ("start", "after images", "after captions", "end"))
        print(f"{count:8,}{row['uses']:10,}{row['captions']:11,}{memory}{row['seconds']:10.0f}", flush=True)


if __name__ == "__main__":
    run_script(main)
