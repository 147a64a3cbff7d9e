"""Which architecture or setting makes better pictures in the same minutes? Scores against minutes of training.

    python benchmarks/quality.py run DATA VARIANT [VARIANT ...] --minutes 20 --looks 4 --out quality.jsonl
    python benchmarks/quality.py report quality.jsonl [...] --plot quality.png

VARIANT: an architecture ("stylegan2"), or a name and settings ("wide=stylegan2,fmap_base=1024,lr_g=1e-3"), see
variants.py. Each is trained for the same minutes in equal parts, from which it resumes, and
scored after each part on the validation split beside DATA; scoring costs it no training time. Repeat with --seed for
more seeds; run two at once with OMP_NUM_THREADS=1 and two --out files, both of the same kind.
"""

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from variants import settings_of

from t2i import TextToImagePipeline
from t2i.data.prepared import PreparedDataset, find_validation
from t2i.device import pick_device
from t2i.evaluation.painter import Painter
from t2i.evaluation.protocol import Evaluator, Options
from t2i.training.loop import train
from t2i.training.run import Run

SHOWN = ("FD-lite2", "KD-lite2", "R-precision", "recall", "colour", "size", "shape", "background")


def run(options: argparse.Namespace) -> None:
    data = PreparedDataset(options.data)
    validation = find_validation(data)
    if validation is None:
        raise SystemExit(f"{data.path} has no validation split beside it")
    device = pick_device(options.device)
    evaluator = Evaluator(validation, data, Options(samples=options.samples, device=str(device), scenes=options.scenes))
    for text in options.variants:
        part = options.minutes / options.looks
        ours = {"kimg": 100_000.0, "snapshot_kimg": 1e6, "seed": options.seed, "minutes": part}
        name, settings = settings_of(text, data, device, **ours)
        facts = {"name": data.name, "split": data.split, "resolution": data.resolution, "path": str(data.path),
                 "fingerprint": data.fingerprint}  # fmt: skip
        run = Run.create(options.runs, settings, facts, str(device))
        for look in range(options.looks):
            outcome = train(settings, data, run, device, resume=look > 0)
            report = evaluator.score(Painter.of_pipeline(TextToImagePipeline.from_pretrained(run.model, device)))
            line = {
                "variant": name, "settings": text, "data": str(data.path), "seed": options.seed, "run": str(run.folder),
                "minutes": part * (look + 1), "images_seen": outcome.images_seen, "threads": torch.get_num_threads(),
                "scores": {s.name: [s.value, s.ceiling, s.floor] for s in report.scores},
            }  # fmt: skip
            with open(options.out, "a") as stream:
                stream.write(json.dumps(line) + "\n")
            shown = "  ".join(f"{key} {value:.4f}" for key, value in report.values().items() if of_interest(key))
            print(f"{name}, {line['minutes']:g} minutes, {outcome.images_seen:,} images: {shown}", flush=True)


def of_interest(name: str) -> bool:
    """Of the attributes those of one object."""
    return name.split(",")[0] in SHOWN and "two objects" not in name


def report(options: argparse.Namespace) -> None:
    lines = [json.loads(line) for path in options.files for line in Path(path).read_text().splitlines()]
    names = [name for name in lines[0]["scores"] if of_interest(name)]
    last = max(line["minutes"] for line in lines)
    table = Table("data", "variant", "seeds", "images seen", *(name.replace(", one object,", "") for name in names))
    groups: dict[tuple[str, str], list[dict]] = {}
    for line in lines:
        groups.setdefault((line["data"], line["variant"]), []).append(line)
    for (data, variant), members in groups.items():
        final = [line for line in members if line["minutes"] == last]
        if not final:
            continue
        cells = []
        for name in names:
            values = [line["scores"][name][0] for line in final if name in line["scores"]]
            spread = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{sum(values) / len(values):.4f}{spread}" if values else "-")
        images = sum(line["images_seen"] for line in final) // len(final)
        table.add_row(Path(data).name, variant, str(len(final)), f"{images:,}", *cells)
    ceilings = {name: lines[0]["scores"][name][1] for name in names}
    table.add_row("", "ceiling", "", "", *("-" if v is None else f"{v:.4f}" for v in ceilings.values()))
    Console(width=200).print(table)
    if options.plot:
        plot(groups, names, options.plot)


def plot(groups: dict[tuple[str, str], list[dict]], names: list[str], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows), dpi=110, layout="constrained")
    for number, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, number + 1)
        for (data, variant), members in groups.items():
            minutes = sorted({line["minutes"] for line in members})
            values = [
                [line["scores"][name][0] for line in members if line["minutes"] == minute and name in line["scores"]]
                for minute in minutes
            ]
            means = [sum(v) / len(v) if v else float("nan") for v in values]
            axes.plot(minutes, means, marker="o", label=f"{variant} ({Path(data).name})")
        axes.set_title(name.replace(", one object,", ""), fontsize=10)
        axes.set_xlabel("minutes of training")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
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
    runner.add_argument("--scenes", type=int, default=200)
    runner.add_argument("--seed", type=int, default=0)
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
    main()
