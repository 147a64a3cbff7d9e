"""Images a second of `prepare` on all cores, against scaled JPEG decoding alone on all cores.

    python benchmarks/prepare_rate.py --coco ROOT --split val --copies 50 --resolution 64

Decoding alone: as many processes open each file, let libjpeg decode it at the smallest eighth of its size that holds
the image, and throw it away. prepare: from reading the annotations to the finished data set on disk, with an encoder
that costs nothing. The turns alternate; the ratio is the median over the turns. --copies makes a larger set of a small
one, with hard links beside it.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

from PIL import Image
from prepare_memory import FreeEncoder
from script import run_script

from t2i.data.decoding import TASK
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.records import Record
from t2i.data.sources import CocoSource


def decode_alone(work: tuple[str, int]) -> None:
    path, resolution = work
    with Image.open(path) as image:
        # The scale that leaves the shorter side at least as long as the image's.
        image.draft("RGB", tuple(round(side * resolution / min(image.size)) for side in image.size))
        image.load()


def copied(source: CocoSource, copies: int, root: Path) -> CocoSource:
    """The same images and captions so many times, under other names."""
    annotations = json.loads(source.annotations.read_text())
    many: dict[str, list] = {"images": [], "annotations": []}
    (root / "many2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    for copy in range(copies):
        for image in annotations["images"]:
            name = f"{copy}-{image['file_name']}"
            (root / "many2017" / name).hardlink_to(source.images / image["file_name"])
            many["images"].append({**image, "file_name": name, "id": copy * 10**9 + image["id"]})
        for caption in annotations["annotations"]:
            number = len(many["annotations"])
            many["annotations"].append({**caption, "id": number, "image_id": copy * 10**9 + caption["image_id"]})
    (root / "annotations" / "captions_many2017.json").write_text(json.dumps(many))
    return CocoSource(root, "many")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coco", type=Path, required=True, help="the root of a COCO data set")
    parser.add_argument("--split", default="val")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.coco.parent) as folder:  # hard links stay on one disk
        measure(options, Path(folder))


def measure(options: argparse.Namespace, folder: Path) -> None:
    source = copied(CocoSource(options.coco, options.split), options.copies, folder / "coco")
    records = [entry for entry in source if isinstance(entry, Record)]
    work = [(str(source.images / record.key), options.resolution) for record in records]
    seconds: list[tuple[float, float]] = []
    with multiprocessing.Pool() as pool:
        for turn in range(options.turns + 1):
            started = time.perf_counter()
            pool.map(decode_alone, work, chunksize=TASK)
            alone = time.perf_counter() - started
            started = time.perf_counter()
            how = PrepareOptions(resolution=options.resolution)
            summary = prepare(source, folder / str(turn), FreeEncoder(), how)
            whole = time.perf_counter() - started
            assert summary.images == len(records)
            if turn:  # the first one reads the files into the page cache
                seconds.append((alone, whole))
    count = len(records)
    print(f"{count} images, {options.resolution} px, {os.cpu_count()} processes, {options.turns} turns each")
    for name, times in zip(("decoding alone", "prepare"), zip(*seconds)):
        rates = [count / each for each in times]
        print(f"{name:16} {statistics.median(rates):7.0f} images/s ({min(rates):.0f}-{max(rates):.0f})")
    print(f"ratio {statistics.median(alone / whole for alone, whole in seconds):.2f}")


if __name__ == "__main__":
    run_script(main)
