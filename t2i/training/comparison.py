"""Runs side by side: the settings that differ, their scores, and their curves in one plot."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2i.errors import UserError
from t2i.evaluation.report import HISTORY
from t2i.files import atomic_write, read_json
from t2i.toml_tables import flatten
from t2i.training.metrics import read_metrics
from t2i.training.plots import GREY, columns_of, smooth, style
from t2i.training.run import Run
from t2i.training.scoring import SCORES
from t2i.training.tables import effective

# Readable by colour-blind eyes (Okabe and Ito 2008); with more runs they come again, dashed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# What the plot shows of each run, where any has it: the column of metrics.jsonl, and its name.
CURVES = {
    "loss_g": "generator loss", "loss_d": "discriminator loss", "coarse_distance": "coarse distance",
    "gap": "logit gap, right to wrong caption", "kd_lite2": "KD-lite2 (lower is better)",
    "r_precision": "R-precision (higher is better)",
}  # fmt: skip
Table = dict[str, list[Any]]  # name -> a value for each run, None where it has none


def short_names(runs: Sequence[Path]) -> list[str]:
    """The last parts of the runs' paths, as few as leave them different."""
    paths = [path.resolve() for path in runs]
    for count in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in runs]


def different_settings(runs: Sequence[Run]) -> Table:
    """The settings, and the facts on data and device, that are not the same for all runs. Raises UserError."""
    found: list[dict[str, Any]] = []
    for run in runs:
        config, data = run.read_config()
        facts = read_json(run.folder / "config.json")
        kept = {f"data.{name}": data.get(name) for name in ("name", "split", "resolution", "pictures", "fingerprint")}
        about = {"device": facts.get("device"), "t2i_version": facts.get("t2i_version")}
        found.append({**flatten(effective(config)), **kept, **about})
    names = dict.fromkeys(name for settings in found for name in settings)
    table = {name: [settings.get(name) for settings in found] for name in names}
    return {name: values for name, values in table.items() if any(value != values[0] for value in values[1:])}


def scores(runs: Sequence[Run]) -> Table:
    """How far each run is, its newest scores while it trained, its best snapshot, and its newest `t2i evaluate`.

    Scores of `t2i evaluate` stand in one row where they were taken on the same data with as many samples.
    """
    found = [_scores(run) for run in runs]
    names = dict.fromkeys(name for row in found for name in row)
    return {name: [row.get(name) for row in found] for name in names}


def _scores(run: Run) -> dict[str, Any]:
    lines = read_metrics(run.folder / "metrics.jsonl")
    last = lines[-1] if lines else {}
    found: dict[str, Any] = {"images seen": last.get("images_seen", 0), "minutes": last.get("seconds", 0) / 60}
    for name, column in SCORES.items():
        if known := [line[column] for line in lines if line.get(column) is not None]:
            found[f"{name}, last"] = known[-1]
    if best := run.read_best():
        found[f"{best['best_by']}, best"] = best["score"]
        found["best snapshot"] = best["snapshot"]
    evaluated = read_metrics(run.folder / HISTORY)
    for line in evaluated[-1:]:
        data = line.get("data") or {}
        on = f"{data.get('name')} {data.get('split')} {str(data.get('fingerprint'))[:8]}, {line.get('samples')} samples"
        found["evaluated snapshot"] = (line.get("model") or {}).get("images_seen")
        found |= {f"{score['name']} on {on}": score["value"] for score in line["scores"]}
    return found


def draw_comparison(runs: Mapping[str, Path], out_png: Path | str) -> bool:
    """The curves of {name: run folder} in one plot, a panel for each of CURVES that any of them has; False without any.

    Losses and logits are smoothed as in losses.png. Raises UserError, one line, where a file cannot be read or written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    known = {name: _curves(folder) for name, folder in runs.items()}
    panels = [key for key in CURVES if any(key in curves for curves in known.values())]
    if not panels:
        return False
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(12, 0.6 + 3.1 * rows + 0.2 * len(runs)), dpi=120, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 2, squeeze=False).flatten()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, key in zip(grid, panels):
        scored = key in SCORES.values()
        ends = []
        for number, curves in enumerate(known.values()):
            if key not in curves:
                continue
            x, values = curves[key]
            colour, dash = COLOURS[number % len(COLOURS)], "--" if number >= len(COLOURS) else "-"
            line = values if scored else smooth(values)
            axes.plot(
                x, line, color=colour, linestyle=dash, linewidth=1.6, marker="o" if scored else None, markersize=4
            )
            ends += np.percentile(line[np.isfinite(line)], (1, 99)).tolist()
        margin = 0.08 * (max(ends) - min(ends)) or 1e-3
        axes.set_ylim(0 if scored else min(ends) - margin, max(ends) + margin)
        style(axes, CURVES[key])
        axes.set_xlabel("thousands of images seen", color=GREY)
    dashes = ["--" if number >= len(COLOURS) else "-" for number in range(len(known))]
    lines = [grid[0].plot([], [], color=COLOURS[n % len(COLOURS)], linestyle=dash)[0] for n, dash in enumerate(dashes)]
    figure.legend(lines, list(known), loc="outside upper left", frameon=False)
    encoded = io.BytesIO()
    canvas.print_png(encoded)
    with atomic_write(out_png) as stream:
        stream.write(encoded.getbuffer())
    return True


def _curves(run: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The curves of a run: thousands of images seen and values, of those that have finite values."""
    found = columns_of(run / "metrics.jsonl", ["images_seen", *CURVES, "logits_real", "logits_mismatch"])
    found["gap"] = found["logits_real"] - found["logits_mismatch"]
    thousands, curves = found["images_seen"] / 1000, {}
    for key in CURVES:
        finite = np.isfinite(found[key])
        if finite.any():
            curves[key] = thousands[finite], found[key][finite]
    return curves


def open_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in these folders. Raises UserError, one line, where one is none."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such run folder")
    return [Run(path) for path in paths]
