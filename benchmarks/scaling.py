"""How time and memory of training grow with resolution, batch and processes: measured runs, and a model of many GPUs.

    python benchmarks/scaling.py measure --out scaling.jsonl [--arch stylegan2]
    python benchmarks/scaling.py ranks --out scaling.jsonl
    python benchmarks/scaling.py model --step 0.02 --gradients 12e6 [--bandwidth 300e9 --latency 20e-6]

measure: `t2i train` for a minute or less at each resolution and batch, on images that it draws, each in a process of
its own: images a second (median of the lines of metrics.jsonl but the first) and the peak of its memory.
ranks: the same on one process with one thread and on two processes with one thread each (gloo), the global batch kept.
model: step seconds of one GPU and bytes of gradients -> the share of the time that n GPUs compute, from a ring
all-reduce: 2 (n - 1) / n * bytes / bandwidth + 2 (n - 1) * latency a phase, with nothing overlapped, as t2i does it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from script import run_script

RESOLUTIONS = (32, 64, 128, 256)
GPUS = (1, 2, 4, 8, 16, 32, 64)


def t2i(*arguments: object, ranks: int = 1, threads: int | None = None) -> None:
    command = [sys.executable, "-m", "t2i"]
    if ranks > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command += ["-m", "t2i"]
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    subprocess.run([*command, *map(str, arguments)], check=True, env=environment, stdout=subprocess.DEVNULL)


def drawn(work: Path, resolution: int) -> Path:
    out = work / f"shapes-{resolution}"
    if not out.is_dir():
        t2i("prepare", "--shapes", 512, "--resolution", resolution, "--val-fraction", 0, "--out", out)
    return out


def trained(work: Path, data: Path, arch: str, batch: int, steps: int, **how: int | None) -> dict[str, float]:
    """What metrics.jsonl says of a run of so many steps, a line every quarter of it."""
    runs = Path(tempfile.mkdtemp(dir=work))
    kimg = batch * steps / 1000
    t2i("train", data, "--arch", arch, "--preset", "small", "--batch", batch, "--kimg", kimg, "--precision", "fp32",
        "--no-growing", "--config", log_often(work, kimg / 4), "--out", runs, **how)  # fmt: skip
    (metrics,) = runs.glob("*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()][1:]
    return {
        "images_per_second": statistics.median(line["images_per_second"] for line in lines),
        "memory_gib": max(line["memory_gib"] for line in lines),
    }


def log_often(work: Path, kimg: float) -> Path:
    path = work / f"{kimg}.toml"
    path.write_text(f"[run]\nlog_kimg = {kimg}\nsnapshot_kimg = 1000.0\n")
    return path


def measure(options: argparse.Namespace, work: Path) -> None:
    for resolution in RESOLUTIONS:
        for batch in (16, 32):
            steps = max(8, options.steps * 32**2 // resolution**2)
            found = trained(work, drawn(work, resolution), options.arch, batch, steps)
            write(options.out, {"arch": options.arch, "resolution": resolution, "batch": batch, **found})


def ranks(options: argparse.Namespace, work: Path) -> None:
    for count in (1, 2):
        found = trained(work, drawn(work, 64), options.arch, 32, options.steps, ranks=count, threads=1)
        write(options.out, {"arch": options.arch, "resolution": 64, "batch": 32, "ranks": count, **found})


def model(options: argparse.Namespace, work: Path) -> None:
    for count in GPUS:
        ring = 2 * (count - 1) / count * options.gradients / options.bandwidth + 2 * (count - 1) * options.latency
        print(
            f"{count:3} GPUs: {ring * 1e3:7.3f} ms of communication a step, efficiency {efficiency(options, ring):.2f}"
        )


def efficiency(options: argparse.Namespace, communication: float) -> float:
    """Of each GPU's time the share that computes, its own batch kept the same."""
    return options.step / (options.step + communication)


def write(path: Path, line: dict) -> None:
    print(
        ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in line.items())
    )
    with open(path, "a") as stream:
        stream.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for work in (measure, ranks, model):
        command = commands.add_parser(work.__name__)
        command.set_defaults(run=work)
        if work is model:
            command.add_argument("--step", type=float, required=True, help="seconds of a step on one GPU")
            command.add_argument("--gradients", type=float, required=True, help="bytes, of both phases together")
            command.add_argument("--bandwidth", type=float, default=300e9, help="bytes a second between two GPUs")
            command.add_argument("--latency", type=float, default=20e-6, help="seconds of a hop")
        else:
            command.add_argument("--out", type=Path, required=True)
            command.add_argument("--arch", default="stylegan2")
            command.add_argument("--steps", type=int, default=64, help="at 32 px; fewer above")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.run(options, Path(folder))


if __name__ == "__main__":
    run_script(main)
