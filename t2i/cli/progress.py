"""The progress of a training run: a bar in a terminal, else lines; and a closed output as a signal to stop."""

import errno
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from t2i.cli import console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from t2i.training.loop import Status
    from t2i.training.run import Run


@contextmanager
def heard(caught: list[int]) -> "Iterator[None]":
    """A closed output (a pipe, a terminal) counts as a signal to stop, appended to `caught`."""
    try:
        yield
    except (OSError, SystemExit) as error:  # rich turns a broken pipe into SystemExit
        if isinstance(error, OSError) and error.errno not in (errno.EPIPE, errno.EIO):
            raise
        caught.append(getattr(signal, "SIGPIPE", signal.SIGTERM))


@contextmanager
def progress(run: "Run", caught: list[int]) -> "Iterator[Any]":
    """Yields a callback that prints a Status, as a bar in a terminal, else as a line, and appends it to log.txt."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if not console.out.is_terminal:

        def line(status: "Status") -> None:
            run.log(text := describe(status))
            with heard(caught):
                print(text, flush=True)

        yield line
        return
    columns = (BarColumn(bar_width=10), TimeRemainingColumn(compact=True), TextColumn("{task.description}"))
    bar = Progress(*columns, console=console.out)
    task = bar.add_task("starting", total=None)

    def move(status: "Status") -> None:
        run.log(describe(status))
        share = status.images_seen / status.goal
        if status.minutes:
            share = max(share, status.seconds / (60 * status.minutes))
        bar.update(task, description=describe_briefly(status), total=1.0, completed=share)
        with heard(caught):
            bar.refresh()

    bar.start()
    try:
        yield move
    finally:
        with heard(caught):
            bar.stop()


def describe(status: "Status") -> str:
    """One line of progress."""
    from t2i.training.scoring import SCORES

    metrics = status.metrics
    scores = "".join(f"  {name} {metrics[column]:.4f}" for name, column in SCORES.items() if column in metrics)
    return (
        f"{status.images_seen / 1000:.1f} kimg  {_size(metrics)}  {metrics['images_per_second']:.0f} img/s  "
        f"{metrics['memory_gib']:.1f} GiB  {_losses(metrics)}{scores}"
    )


def _losses(metrics: dict[str, float]) -> str:
    if "loss_d" not in metrics:
        return f"warm-up  coarse distance {metrics['coarse_distance']:.3f}"
    logits = " ".join(f"{name} {value}" for name, value in zip(("real", "mismatch", "fake"), _logits(metrics, 2)))
    return f"loss G {metrics['loss_g']:.2f} D {metrics['loss_d']:.2f}  logits {logits}"


def _logits(metrics: dict[str, float], digits: int) -> list[str]:
    """Mean logits of real images with their own captions, with wrong captions (if any), and of generated images."""
    found = (metrics.get(f"logits_{name}") for name in ("real", "mismatch", "fake"))
    return ["-" if value is None else f"{value:.{digits}f}" for value in found]


def _size(metrics: dict[str, float]) -> str:
    """The resolution in training, with alpha while it fades in: "32 px a0.25"."""
    return f"{metrics['resolution']:.0f} px" + (f" a{metrics['alpha']:.2f}" if metrics["alpha"] < 1 else "")


def describe_briefly(status: "Status") -> str:
    """The status beside a bar in 80 columns; r/m/f are the real, mismatch and fake logits."""
    metrics = status.metrics
    text = (
        f"{status.images_seen / 1000:.1f} kimg {_size(metrics)} {metrics['images_per_second']:.0f} img/s "
        f"{metrics['memory_gib']:.1f} GiB "
    )
    if "loss_d" not in metrics:
        return text + f"coarse distance {metrics['coarse_distance']:.3f}"
    logits = "/".join(_logits(metrics, 1))
    return text + f"G {metrics['loss_g']:.2f} D {metrics['loss_d']:.2f} r/m/f {logits}"
