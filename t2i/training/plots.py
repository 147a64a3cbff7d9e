"""losses.png: how a run went, drawn from its metrics.jsonl."""

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t2i.files import atomic_write
from t2i.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Key in metrics.jsonl, label, colour (readable by colour-blind eyes), width of the smoothed line in points.
LOSSES = (
    ("loss_g", "generator loss", "#0072B2", 1.8),
    ("loss_d", "discriminator loss", "#D55E00", 1.8),
    ("penalty", "gradient penalty", "#7F7F7F", 0.9),
    ("coarse_distance", "coarse distance", "#CC79A7", 1.8),  # the only one in the warm-up
)
LOGITS = (
    ("logits_real", "real, right caption", "#009E73", 1.8),
    ("logits_mismatch", "real, wrong caption", "#E69F00", 1.8),
    ("logits_fake", "generated", "#7B4FA3", 1.8),
)
# Of --eval-every; the second has an axis of its own.
SCORES = (
    ("kd_lite2", "KD-lite2 (lower is better)", "#0072B2"),
    ("r_precision", "R-precision (higher is better)", "#009E73"),
)
GREY = "#666666"


def draw_losses(metrics_jsonl: Path | str, out_png: Path | str) -> bool:
    """Draw a run's losses, mean logits and scores (where it has any) over images seen; False where there is nothing.

    metrics_jsonl: one JSON object a line with "images_seen" and any of "loss_g", "loss_d", "penalty",
    "coarse_distance", "logits_real", "logits_mismatch", "logits_fake", "kd_lite2", "r_precision", "resolution"; what is
    missing, null or not finite leaves a gap, and a torn line is passed over. Faint: as logged; strong: a moving
    average. Raises UserError, one line, where a file cannot be read or written.
    """
    # Imported late: only a process that draws pays for it. The object API leaves pyplot's state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    keys = [key for key, *_ in (*LOSSES, *LOGITS)]
    table = columns_of(metrics_jsonl, [*keys, *(key for key, *_ in SCORES), "images_seen", "resolution"])
    curves = {key: table[key] for key in keys}
    if not any(np.isfinite(values).any() for values in curves.values()):
        return False
    thousands = table["images_seen"] / 1000

    scores = {key: table[key] for key, *_ in SCORES}
    scored = any(np.isfinite(values).any() for values in scores.values())
    width, height = 9, 8.6 if scored else 6.4
    figure = Figure(figsize=(width, height), dpi=120, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    rows = figure.subplots(3 if scored else 2, 1, sharex=True)
    # Margins in inches. A layout that measures every label would take three times as long, at every snapshot.
    figure.subplots_adjust(
        left=0.8 / width, right=1 - (0.8 if scored else 0.15) / width, bottom=0.55 / height, top=1 - 0.4 / height,
        hspace=0.25,
    )  # fmt: skip
    upper, lower = rows[:2]
    for axes, shown, name in ((upper, LOSSES, "loss"), (lower, LOGITS, "mean logit")):
        smoothed = _draw_curves(axes, thousands, curves, shown)
        if axes is lower:
            _shade_gap(axes, thousands, smoothed)
        _set_limits(axes, {key: curves[key] for key, *_ in shown if key in smoothed})
        style(axes, name)
        if smoothed:
            # Above the axes, where no curve can run through it.
            place = {"loc": "lower left", "bbox_to_anchor": (0, 1.06), "borderaxespad": 0}
            axes.legend(**place, ncols=4, frameon=False, fontsize=9)
        else:
            axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color=GREY)
    if scored:
        _draw_scores(rows[2], thousands, scores)
    _mark_resolutions(rows, thousands, table["resolution"])
    rows[-1].set_xlabel("thousands of images seen", color=GREY)
    upper.set_xlim(*_span(thousands[0], thousands[-1], 0.02))

    encoded = io.BytesIO()
    canvas.print_png(encoded)
    with atomic_write(out_png) as stream:
        stream.write(encoded.getbuffer())
    return True


def _draw_curves(
    axes: "Axes", x: np.ndarray, curves: dict[str, np.ndarray], table: Sequence[tuple[str, str, str, float]]
) -> dict[str, np.ndarray]:
    """Each curve twice, raw and smoothed; returns the smoothed ones, [lines] each, where there are values."""
    smoothed = {}
    for key, label, colour, width in table:
        values = curves[key]
        finite = np.isfinite(values)
        if not finite.any():
            continue
        # One explosion of 1e30 must neither overflow the canvas's arithmetic nor drag the average with it.
        low, high = _fence(values[finite], reach=30)
        values = np.where(finite, np.clip(values, low, high), np.nan)
        smoothed[key] = smooth(values)
        marker = "o" if finite.sum() < 4 else None
        axes.plot(x, values, color=colour, alpha=0.22, linewidth=0.8, zorder=2)
        axes.plot(x, smoothed[key], color=colour, linewidth=width, marker=marker, markersize=4, label=label, zorder=3)
    return smoothed


def style(axes: "Axes", name: str) -> None:
    """Grey axes, a light grid; name: of the y axis."""
    axes.set_ylabel(name, color=GREY)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.tick_params(colors=GREY)


def _draw_scores(axes: "Axes", x: np.ndarray, scores: dict[str, np.ndarray]) -> None:
    """The scores as they were measured, each point marked, each on its own axis from 0."""
    right = axes.twinx()
    for side, (key, label, colour) in zip((axes, right), SCORES):
        known = np.isfinite(scores[key])
        style(side, label)
        side.yaxis.label.set_color(colour)
        side.plot(x[known], scores[key][known], color=colour, linewidth=1.8, marker="o", markersize=4)
        side.set_ylim(0, max(1.08 * scores[key][known].max(initial=0.0), 1e-3))
    right.grid(visible=False)
    right.spines["right"].set_visible(True)
    right.spines["right"].set_color("#BBBBBB")


def _shade_gap(axes: "Axes", x: np.ndarray, smooth: dict[str, np.ndarray]) -> None:
    """What the discriminator knows of captions: the same images score higher under the right one."""
    if "logits_real" in smooth and "logits_mismatch" in smooth:
        real, mismatch = smooth["logits_real"], smooth["logits_mismatch"]
        known = np.isfinite(real) & np.isfinite(mismatch)
        axes.fill_between(
            x, real, mismatch, where=known, color="#009E73", alpha=0.12, linewidth=0, label="gap", zorder=1
        )


def _set_limits(axes: "Axes", curves: dict[str, np.ndarray]) -> None:
    """Fit the axis to the bulk of its curves, and say so where something lies outside."""
    if not curves:
        return
    finite = {key: values[np.isfinite(values)] for key, values in curves.items()}
    fences = {key: _fence(values, reach=4) for key, values in finite.items()}
    # A penalty in units of its own must not flatten the losses.
    losses = [key for key in fences if key != "penalty"] or list(fences)
    low, high = min(fences[key][0] for key in losses), max(fences[key][1] for key in losses)
    if "penalty" in fences:
        reach = max(high - low, 0.1)
        bottom, top = fences["penalty"]
        low, high = max(min(low, bottom), low - reach), min(max(high, top), high + reach)
    low, high = _span(low, high, 0.06)
    axes.set_ylim(low, high)
    everything = np.concatenate(list(finite.values()))
    outside = [
        f"{word} {value:.3g}"
        for word, value, is_out in (
            ("down to", everything.min(), everything.min() < low),
            ("up to", everything.max(), everything.max() > high),
        )
        if is_out
    ]
    if outside:
        axes.text(
            0.995,
            0.97,
            f"outside the axis: {', '.join(outside)}",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=8,
            color=GREY,
            zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
        )


def _mark_resolutions(both: Sequence["Axes"], x: np.ndarray, resolution: np.ndarray) -> None:
    """A labelled vertical line wherever the resolution changes."""
    known = np.flatnonzero(np.isfinite(resolution))
    for before, i in pairwise(known):
        if resolution[i] == resolution[before]:
            continue
        for axes in both:
            axes.axvline(x[i], color="#999999", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        both[0].text(
            x[i],
            1.0,
            f"{resolution[i]:.0f} px",
            transform=both[0].get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=8,
            color=GREY,
        )


def columns_of(metrics_jsonl: Path | str, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """These keys of every line of a metrics.jsonl, in the order of the images seen: float64 [lines], with NaN where
    there is no finite number. Lines without images seen are left out."""
    lines = [line for line in read_metrics(metrics_jsonl) if _finite(line.get("images_seen"))]
    lines.sort(key=lambda line: line["images_seen"])
    return {key: _column(lines, key) for key in keys}


def _column(lines: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    """One key of every line, [lines] float64, NaN where there is no finite number."""
    values = (line.get(key) for line in lines)
    return np.array([value if _finite(value) else np.nan for value in values], np.float64)


def _finite(value: Any) -> bool:
    if not isinstance(value, int | float):
        return False
    try:
        return bool(np.isfinite(float(value)))
    except OverflowError:  # an integer beyond float
        return False


def _fence(values: np.ndarray, reach: float) -> tuple[float, float]:
    """The range of the values, cut at `reach` interquartile ranges beyond the quartiles.

    Quartiles hold even where the last quarter of a run exploded, which a 99th percentile does not.
    """
    lower, middle, upper = np.percentile(values, (25, 50, 75))
    spread = reach * max(upper - lower, 0.05 * abs(middle), 1e-6)
    return max(values.min(), lower - spread), min(values.max(), upper + spread)


def _span(low: float, high: float, padding: float) -> tuple[float, float]:
    """An axis from low to high with a margin, and of some width even for a single value."""
    margin = padding * (high - low) or max(0.1 * abs(high), 1e-3)
    return low - margin, high + margin


def smooth(values: np.ndarray) -> np.ndarray:
    """A centred moving average over a fortieth of the run (Hann window) that passes over gaps; [n] -> [n]."""
    width = min(len(values) // 40, 250) * 2 + 1
    if width < 3:
        return values
    window = np.hanning(width + 2)[1:-1]
    known = np.isfinite(values)
    weight = np.convolve(known, window, "same")
    total = np.convolve(np.where(known, values, 0.0), window, "same")
    return np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 1e-9)
