"""The figures that wait for a GPU, the most valuable first: prints the tables of docs/performance.md as Markdown.

    python benchmarks/on_gpu.py --minutes 10 [--out on_gpu.md] [--data DATA64] [--device auto] [--only step published]

Each part is a benchmark of this folder, or a test, in a process of its own that ends when its share of the minutes is
over; what it had printed by then counts. What a part leaves goes to those after it. Without --data it draws shapes.
"""

import argparse
import contextlib
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from script import run_script

from t2i.device import pick_device

HERE = Path(__file__).parent
PYTHON = sys.executable
TESTS = ("training/test_cuda_graphs.py", "training/test_no_waiting.py", "training/test_nan_guard.py",
         "training/test_out_of_memory.py", "test_device.py")  # fmt: skip
# A line of published_step.py or training_step.py.
SPEED = re.compile(
    r"^(?P<name>.+?) +(?:batch (?P<batch>\d+) +)?(?P<rate>[\d.]+) images/s .*?(?P<times>[\d.]+) times", re.M
)


@dataclass(frozen=True)
class Place:
    """What the parts work on. data: 64 px; wide: 256 px; work: a folder for runs; minutes: what a part may take."""

    data: Path
    wide: Path
    work: Path
    device: str
    minutes: float


@dataclass(frozen=True)
class Part:
    """title: of its table. share: of the minutes that are left, among the parts to come. commands: of a Place.

    show: what the commands printed -> Markdown. pixels: of the data that it needs. gpus: at the least.
    """

    name: str
    title: str
    share: float
    commands: Callable[[Place], list[list[str]]]
    show: Callable[[str], str]
    pixels: int = 64
    gpus: int = 0


def script(name: str, *arguments: object) -> list[str]:
    return [PYTHON, str(HERE / f"{name}.py"), *map(str, arguments)]


def published(place: Place, data: Path, steps: int) -> list[list[str]]:
    options = ("--batch", 64, "--steps", steps, "--turns", 2, "--device", place.device)
    return [script("published_step", data, *options, *(("--only", "bf16") if place.device != "cpu" else ()))]


def steps(place: Place) -> list[list[str]]:
    late = "schedule.warm_up_kimg=0.0,schedule.growing=false"
    variants = ["published=dfgan,preset=published,batch=64", "small=stylegan2,preset=small,batch=64",
                f"fast=stylegan2,preset=fast,{late}", f"wide=stylegan2,preset=wide,{late}",
                "stylegan=stylegan,preset=small,growing=false,batch=64"]  # fmt: skip
    # One by one: the benchmark prints at its end, and what a slow one takes, the others would not have.
    return [
        script("training_step", place.data, variant, "--steps", 16, "--turns", 1, "--peak", "--device", place.device)
        for variant in variants
    ]


def quality(place: Place) -> list[list[str]]:
    out = place.work / "quality.jsonl"
    variants = ["small=stylegan2,preset=small", "fast=stylegan2,preset=fast", "wide=stylegan2,preset=wide"]
    minutes = max(place.minutes / (2 * len(variants)), 0.05)  # the rest is for scores
    options = ("--minutes", f"{minutes:.2f}", "--looks", 1, "--samples", 500, "--scenes", 100, "--device", place.device)
    run = script("quality", "run", place.data, *variants, *options, "--runs", place.work / "runs", "--out", out)
    return [run, script("quality", "report", out)]


def tests(place: Place) -> list[list[str]]:
    return [[PYTHON, "-m", "pytest", "-n", "0", "-q", *(str(HERE.parent / "tests" / name) for name in TESTS)]]


def resuming(place: Place) -> list[list[str]]:
    return [script("on_gpu", "--resumed", place.data, "--device", place.device, "--work", place.work / "resumed")]


def gpus(place: Place) -> list[list[str]]:
    common = ["train", str(place.data), "--preset", "wide", "--amp", "--minutes", f"{place.minutes / 2:.2f}"]
    train = [PYTHON, "-m", "t2i", *common, "--out", str(place.work / "gpus")]
    return [train, [*train, "--gpus", str(torch.cuda.device_count())]]


def speeds(text: str) -> str:
    """The lines of a benchmark that say images a second, as a table; below it the others."""
    rows = [f"| {m['name'].strip()} | {m['rate']} | {m['times']} |" for m in SPEED.finditer(text)]
    if not rows:
        return as_printed(text)
    rest = SPEED.sub("", text)
    rest = "\n".join(line for line in rest.splitlines() if line.strip() and "times the first" not in line)
    return "\n".join(["| | images a second | times the first |", "|---|---|---|", *rows, "", as_printed(rest)]).rstrip()


def as_printed(text: str) -> str:
    return "```text\n" + text.strip()[-6000:] + "\n```" if text.strip() else ""


PARTS = (
    Part("step", "The training step, 64 px", 3, steps, speeds),
    Part("published", "Against the published step, 64 px", 3, lambda p: published(p, p.data, 24), speeds),
    Part("wide", "Against the published step, 256 px", 3, lambda p: published(p, p.wide, 8), speeds, pixels=256),
    Part("tests", "The tests that need a GPU", 3, tests, as_printed),
    Part("quality", "Presets in equal minutes", 8, quality, as_printed),
    Part("resuming", "Two runs, and one that was resumed: largest difference of a weight", 2, resuming, as_printed),
    Part("gpus", "One GPU, and all", 4, gpus, as_printed, gpus=2),
)


def bounded(command: list[str], seconds: float) -> tuple[str, str]:
    """What a command printed within the seconds, and how it ended: "", "stopped after N s" or "exit code N".

    No process is left.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent)))}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True,
        )  # fmt: skip
        ended = ""
        try:
            code = process.wait(max(seconds, 0.1))
            ended = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return output.read(), ended


def measure(options: argparse.Namespace) -> Iterator[str]:
    """The report, piece by piece. Each part ends within the minutes."""
    until = time.monotonic() + 60 * options.minutes
    device = pick_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "a CPU"
    count = torch.cuda.device_count()
    yield f"# {name}\n\n{time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPU cores, torch {torch.__version__}, "
    yield f"{device.type}, {count} GPUs\n"
    parts = [part for part in PARTS if count >= part.gpus and (not options.only or part.name in options.only)]
    with tempfile.TemporaryDirectory(prefix="t2i-on-gpu-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        data = options.data.absolute() if options.data else work / "shapes-train-64"
        for number, part in enumerate(parts):
            yield f"\n## {part.title}\n\n"
            wide = work / "shapes-train-256"
            needed = wide if part.pixels == 256 else data
            if not needed.is_dir():
                text, ended = bounded(shapes(part.pixels, needed, options.images), until - time.monotonic())
                if ended:
                    yield f"no data: {ended}\n\n{as_printed(text)}\n"
                    continue
            left = until - time.monotonic()
            end = time.monotonic() + left * part.share / sum(other.share for other in parts[number:])
            commands = part.commands(Place(data, wide, work, device.type, max(end - time.monotonic(), 0) / 60))
            for place, command in enumerate(commands):
                seconds = (end - time.monotonic()) / (len(commands) - place)
                text, ended = bounded(command, seconds) if seconds > 0 else ("", "not run: its minutes were over")
                shown = " ".join(command[1:]).replace(f"{HERE}{os.sep}", "benchmarks/").replace(f"{work}{os.sep}", "")
                yield "\n\n".join(filter(None, [f"`python {shown}`", part.show(text), ended])) + "\n\n"


def shapes(pixels: int, out: Path, images: int) -> list[str]:
    count = images if pixels == 64 else max(images // 5, 80)
    return [PYTHON, "-m", "t2i", "prepare", "--shapes", str(count), "--resolution", str(pixels), "--out", str(out)]


def resumed(data: Path, device: str, work: Path) -> None:
    """Train twice, and once in two sittings; print how far the weights are apart."""

    def train(name: str, *sittings: float) -> dict[str, torch.Tensor]:
        out = work / name
        for number, kimg in enumerate(sittings):
            new = [
                str(data),
                "--out",
                str(out),
                "--arch",
                "stylegan2",
                "--preset",
                "small",
                "--amp",
                "--device",
                device,
            ]
            old = ["--resume", str(next(out.iterdir()))] if number else []
            subprocess.run([PYTHON, "-m", "t2i", "train", *(old or new), "--kimg", str(kimg), *(
                ["--device", device] if old else [])], check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        folder = max(next(out.iterdir()).glob("checkpoints/*/model/generator"))
        return load_file(folder / "model.safetensors")

    first, second, third = train("first", 2.0), train("second", 2.0), train("resumed", 1.0, 2.0)
    for name, other in (("another run", second), ("a resumed run", third)):
        print(f"{name}: {max(float((first[key].float() - other[key].float()).abs().max()) for key in first):.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="for all of it")
    parser.add_argument("--out", type=Path, help="write the report there, too")
    parser.add_argument("--data", type=Path, help="a prepared data set of 64 px with a validation split beside it")
    parser.add_argument("--images", type=int, default=5000, help="drawn, without --data")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--resumed", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.resumed:
        resumed(options.resumed, options.device, options.work)
        return
    with open(options.out, "w", encoding="utf-8") if options.out else contextlib.nullcontext() as file:
        for piece in measure(options):
            print(piece, end="", flush=True)
            if file:
                file.write(piece)
                file.flush()


if __name__ == "__main__":
    run_script(main)
