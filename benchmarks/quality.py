"""Which architecture or setting makes better images in the same minutes? Scores against minutes of training.

    python benchmarks/quality.py run DATA VARIANT [VARIANT ...] --minutes 20 --looks 4 --seeds 0 1 2 --out quality.jsonl
    python benchmarks/quality.py report quality.jsonl [...] --plot quality.png

VARIANT: an architecture ("stylegan2"), or a name and settings ("wide=stylegan2,fmap_base=1024,lr_g=1e-3"), see
variants.py; "rectified-flow" is the peer of rectified_flow.py, whose guidance stands where a GAN has its truncation.
Each is trained for the same minutes in equal parts, from which it resumes, and scored after each part on
the validation split beside DATA; scoring costs it no training time. The same command again goes on where it was
stopped. Run two at once with OMP_NUM_THREADS=1 and two --out files, both of the same kind.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from script import run_script
from variants import settings_of

from t2i import TextToImagePipeline
from t2i.data.prepared import PreparedDataset, find_validation
from t2i.device import pick_device
from t2i.evaluation.protocol import Evaluator, Options
from t2i.evaluation.sampler import CaptionSampler
from t2i.training.loop import train
from t2i.training.run import Run

PEER = "rectified-flow"
SHOWN = (
    "FD-lite2",
    "KD-lite2",
    "R-precision",
    "recall",
    "variety, features",
    "variety, pixels",
    "colour",
    "size",
    "shape",
    "background",
)


def run(options: argparse.Namespace) -> None:
    data = PreparedDataset(options.data)
    validation = find_validation(data)
    if validation is None:
        raise SystemExit(f"{data.path} has no validation split beside it")
    device = pick_device(options.device)
    evaluator = Evaluator(validation, data, Options(samples=options.samples, device=str(device), scenes=options.scenes))
    for seed in options.seeds:
        for text in options.variants:
            if text == PEER:
                compete_flow(seed, data, evaluator, device, options)
            else:
                compete(text, seed, data, evaluator, device, options)


def compete(
    text: str, seed: int, data: PreparedDataset, evaluator: Evaluator, device: torch.device, options: argparse.Namespace
) -> None:
    """Train and score one variant with one seed, from where the lines of options.out end."""
    part = options.minutes / options.looks
    # No snapshot inside a part: one that is stopped begins again, and no variant gets more time than another.
    ours = {
        "schedule.kimg": 100_000.0, "run.snapshot_kimg": 1e6, "run.checkpoint_minutes": 1e6, "run.seed": seed,
        "schedule.minutes": part, "run.threads": torch.get_num_threads(),
    }  # fmt: skip
    name, settings = settings_of(text, data, device, **ours)
    key = {"variant": name, "settings": text, "data": str(data.path), "seed": seed}
    done = [line for line in read_lines(options.out) if key.items() <= line.items()]
    if done:
        run = Run(done[-1]["run"])
    else:
        run = Run.begin(options.runs, settings, data, device)
    for look in range(len({line["minutes"] for line in done}), options.looks):
        outcome = train(settings, data, run, device, resume=look > 0)
        pipe = TextToImagePipeline.from_pretrained(run.folder, device)
        truncations = options.truncations if look == options.looks - 1 else options.truncations[:1]
        for truncation in truncations:
            sampler = CaptionSampler.of_pipeline(pipe, truncation)
            about = {"run": str(run.folder), "minutes": part * (look + 1), "truncation": truncation}
            record(evaluator, sampler, {**key, **about, "images_seen": outcome.images_seen}, options.out)


def compete_flow(
    seed: int, data: PreparedDataset, evaluator: Evaluator, device: torch.device, options: argparse.Namespace
) -> None:
    """Train the rectified flow for as long, and score it with each guidance."""
    from rectified_flow import GUIDANCES, RectifiedFlow

    key = {"variant": PEER, "settings": PEER, "data": str(data.path), "seed": seed}
    if any(key.items() <= line.items() for line in read_lines(options.out)):
        return
    flow = RectifiedFlow(data, seed, device)
    flow.train(options.minutes)
    for guidance in GUIDANCES:
        sampler = CaptionSampler(flow.sampler(guidance), data.resolution, refuse, str(data.text["sha256"]))
        about = {"run": "", "minutes": options.minutes, "truncation": guidance, "images_seen": flow.images_seen}
        record(evaluator, sampler, {**key, **about}, options.out)


def refuse(prompts: Sequence[str]) -> Any:
    raise SystemExit("the held-out data has another text encoder than the training data")


def record(evaluator: Evaluator, sampler: CaptionSampler, about: dict[str, Any], out: Path) -> None:
    """Score a model and append a line."""
    started = time.monotonic()
    report = evaluator.score(sampler)
    line = {**about, "threads": torch.get_num_threads(), "seconds_to_score": time.monotonic() - started,
            "scores": {s.name: [s.value, s.ceiling, s.floor] for s in report.scores}}  # fmt: skip
    with open(out, "a") as stream:
        stream.write(json.dumps(line) + "\n")
    shown = "  ".join(f"{score} {value:.4f}" for score, value in report.values().items() if of_interest(score))
    what = f"{about['variant']}, seed {about['seed']}, {about['minutes']:g} minutes, {about['images_seen']:,} images"
    print(f"{what}, truncation {about['truncation']:g}: {shown}", flush=True)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def of_interest(name: str) -> bool:
    """Of the attributes those of one object."""
    return (name in SHOWN or name.split(",")[0] in SHOWN) and "two objects" not in name


def report(options: argparse.Namespace) -> None:
    lines = [line for path in options.files for line in read_lines(path)]
    names = list(dict.fromkeys(name for line in lines for name in line["scores"] if of_interest(name)))
    by_data: dict[str, list[dict]] = {}
    for line in lines:
        by_data.setdefault(Path(line["data"]).name, []).append(line)
    table = Table("data", "variant", "minutes", "seeds", "images seen", *map(short, names))
    for data, ofdata in by_data.items():
        for variant, members in by_variant(ofdata).items():
            last = max(line["minutes"] for line in members)
            final = [line for line in members if line["minutes"] == last]
            images = sum(line["images_seen"] for line in final) // len(final)
            cells = [spread(scores(final, name)) for name in names]
            table.add_row(data, variant, f"{last:g}", str(len(final)), f"{images:,}", *cells)
        ceilings = [ofdata[0]["scores"].get(name, [None, None])[1] for name in names]
        table.add_row(data, "ceiling", "", "", "", *("-" if c is None else f"{c:.4g}" for c in ceilings))
        table.add_section()
    Console(width=200).print(table)
    if options.plot:
        plot(by_data, names, options.plot)


def by_variant(lines: list[dict]) -> dict[str, list[dict]]:
    groups: dict[str, list[dict]] = {}
    for line in lines:
        groups.setdefault(f"{line['variant']} @ {line.get('truncation', 1):g}", []).append(line)
    return groups


def scores(lines: list[dict], name: str) -> list[float]:
    return [line["scores"][name][0] for line in lines if name in line["scores"]]


def spread(values: list[float]) -> str:
    """The mean, and the smallest and the largest of several."""
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.4g}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3g} to {max(values):.3g})"


def short(name: str) -> str:
    return name.replace(", one object,", "")


def plot(by_data: dict[str, list[dict]], names: list[str], path: Path) -> None:
    """A row of curves for each data set: the mean over the seeds, and a band from the smallest to the largest."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [
        (data, lines, [name for name in names if any(name in line["scores"] for line in lines)])
        for data, lines in by_data.items()
    ]
    columns = max(len(shown) for *_, shown in rows)
    figure = Figure(figsize=(4 * columns, 3 * len(rows)), dpi=90, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, (data, lines, shown) in zip(grid, rows, strict=True):
        for axes in axes_row[len(shown) :]:
            axes.set_axis_off()
        for axes, name in zip(axes_row, shown, strict=False):
            for variant, members in by_variant(lines).items():
                minutes = sorted({line["minutes"] for line in members})
                values = [scores([line for line in members if line["minutes"] == m], name) for m in minutes]
                axes.plot(minutes, [sum(v) / len(v) for v in values], marker="o", label=variant)
                axes.fill_between(minutes, [min(v) for v in values], [max(v) for v in values], alpha=0.2)
            axes.set_title(f"{data}: {short(name)}", fontsize=9)
            axes.set_xlabel("minutes of training")
            axes.grid(alpha=0.3)
        axes_row[0].legend(fontsize=7)
    FigureCanvasAgg(figure).print_png(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run")
    runner.add_argument("data", type=Path)
    runner.add_argument("variants", nargs="+")
    runner.add_argument("--minutes", type=float, default=20)
    runner.add_argument("--looks", type=int, default=4)
    runner.add_argument("--samples", type=int, default=1000)
    runner.add_argument("--truncations", type=float, nargs="+", default=[1.0], help="Scored at the last look.")
    runner.add_argument("--scenes", type=int, default=200)
    runner.add_argument("--seeds", type=int, nargs="+", default=[0])
    runner.add_argument("--device", default="auto")
    runner.add_argument("--runs", type=Path, default=Path("runs"))
    runner.add_argument("--out", type=Path, default=Path("quality.jsonl"))
    runner.set_defaults(work=run)
    reporter = commands.add_parser("report")
    reporter.add_argument("files", nargs="+", type=Path)
    reporter.add_argument("--plot", type=Path)
    reporter.set_defaults(work=report)
    options = parser.parse_args()
    options.work(options)


if __name__ == "__main__":
    run_script(main)
