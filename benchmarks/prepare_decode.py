"""Images a second on one core: t2i's decoder against torchvision's CocoCaptions + Resize + CenterCrop.

    python benchmarks/prepare_decode.py --coco ROOT --split val --resolution 64

Both read the same files and give uint8 images of R x R; their turns alternate in one process, so that a busy
machine slows both. Prints medians and the ratio, by the process's own CPU time and by the wall's.
"""

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from script import run_script
from torchvision.datasets import CocoCaptions
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from t2i.data.records import Record
from t2i.data.sources import CocoSource


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coco", type=Path, required=True, help="the root of a COCO data set")
    parser.add_argument("--split", default="val")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--limit", type=int, default=200, help="images a turn")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)

    source = CocoSource(options.coco, options.split)
    records = [entry for entry in source if isinstance(entry, Record)][: options.limit]
    transform = Compose([Resize(options.resolution), CenterCrop(options.resolution), PILToTensor()])
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        theirs = CocoCaptions(str(source.images), str(source.annotations), transform=transform)
    names = {theirs.coco.imgs[identity]["file_name"]: number for number, identity in enumerate(theirs.ids)}
    order = [names[record.key] for record in records]

    def run_ours() -> None:
        for record in records:
            record.image.load(options.resolution)

    def run_theirs() -> None:
        for number in order:
            theirs[number]

    run_ours(), run_theirs()  # the files into the page cache, lazy imports done
    turns = [(timed(run_ours), timed(run_theirs)) for _ in range(options.repeats)]
    difference = statistics.mean(
        float(
            np.abs(
                record.image.load(options.resolution).astype(int) - theirs[number][0].permute(1, 2, 0).numpy()
            ).mean()
        )
        for record, number in zip(records[:50], order)
    )
    print(f"{len(records)} images, {options.resolution} px, {options.repeats} turns each, one core")
    for kind, name in enumerate(("CPU", "wall")):
        ours = [len(records) / turn[0][kind] for turn in turns]
        other = [len(records) / turn[1][kind] for turn in turns]
        ratio = statistics.median(a / b for a, b in zip(ours, other))
        print(
            f"{name:4}  t2i {statistics.median(ours):6.0f}/s ({min(ours):.0f}-{max(ours):.0f})   "
            f"torchvision {statistics.median(other):6.0f}/s ({min(other):.0f}-{max(other):.0f})   "
            f"ratio {ratio:.2f}"
        )
    print(f"mean absolute difference of the images: {difference:.1f} of 255")


if __name__ == "__main__":
    run_script(main)
