"""How long a prepared data set takes to open, and a batch to draw from it, by its size.

    python benchmarks/prepared_data.py [--images 10000 1000000] [--resolution 64] [--batch 64]

The sets are made up: sparse files of the right shapes, five captions an image, twelve tokens of 384 each. Opening is
timed in a new process after the imports; drawing is what training reads for one batch (images, own and wrong
captions, padding), in CPU time of one thread, the median over 200 batches of images that lie anywhere in the set,
each drawn for the second time at once: the first time its pages come from the disk, at the disk's speed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from script import run_script

from t2i.data import prepared
from t2i.data.image_shards import shard_entries

CAPTIONS, TOKENS, WIDTH = 5, 12, 384
BATCHES = 200


def sparse(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.format.open_memmap(path, "w+", dtype, shape)


def make(folder: Path, images: int, resolution: int) -> None:
    """A data set of so many images that takes no room."""
    folder.mkdir()
    captions = images * CAPTIONS
    size = shard_entries(resolution)
    shards = [min(size, images - first) for first in range(0, images, size)]
    for number, count in enumerate(shards):
        sparse(folder / f"images-{number:05d}.npy", np.uint8, (count, resolution, resolution, 3))
    for chunk, first in enumerate(range(0, captions, prepared.CAPTIONS_PER_CHUNK)):
        count = min(prepared.CAPTIONS_PER_CHUNK, captions - first)
        sparse(folder / f"tokens-{chunk:05d}.npy", np.float16, (count * TOKENS, WIDTH))
    np.save(folder / "picture-captions.npy", np.arange(captions, dtype=np.int32))
    np.save(folder / "picture-offsets.npy", np.arange(0, captions + 1, CAPTIONS))
    np.save(folder / "caption-offsets.npy", np.arange(captions + 1))
    np.save(folder / "token-offsets.npy", np.arange(0, captions * TOKENS + 1, TOKENS))
    np.save(folder / "text-statistics.npy", np.ones((4, WIDTH), np.float32))
    text = {"name": "made up", "sha256": "", "width": WIDTH, "max_tokens": 128}
    facts = {"format": prepared.FORMAT, "name": "made-up", "split": "train", "resolution": resolution, "text": text,
             "fingerprint": "", "shards": [{"pictures": count} for count in shards]}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(facts))


def measure(folder: Path, batch: int) -> dict[str, float]:
    """In this process: seconds to open, CPU seconds a batch, memory that it took."""
    import resource

    import torch

    from t2i.training.loading import BatchLoader
    from t2i.training.text import PreparedText

    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    data = prepared.PreparedDataset(folder)
    opened = time.perf_counter() - started
    loader = BatchLoader(data, PreparedText(data), 0, "cpu")
    spent = []
    for step in range(BATCHES):
        loader._read(step * batch, batch)
        started = time.thread_time()
        loader._read(step * batch, batch)
        spent.append(time.thread_time() - started)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"open": opened, "batch": statistics.median(spent), "mib": memory / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.batch)))
        return
    table = Table("images", "opened in", f"batch of {options.batch}, CPU", "memory")
    with tempfile.TemporaryDirectory() as folder:
        for images in options.images:
            make(path := Path(folder) / str(images), images, options.resolution)
            command = [sys.executable, __file__, "--measure", str(path), "--batch", str(options.batch)]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            times = (f"{found['open'] * 1e3:.1f} ms", f"{found['batch'] * 1e3:.2f} ms", f"{found['mib']:.0f} MiB")
            table.add_row(f"{images:,}", *times)
    Console(width=100).print(table)


if __name__ == "__main__":
    run_script(main)
