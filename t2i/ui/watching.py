"""What the page's second tab does, without the page: how a run goes, and a training as a process of its own."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from t2i.config import TrainConfig
from t2i.errors import UsageError, UserError
from t2i.locks import holder
from t2i.training.metrics import read_metrics
from t2i.training.plots import draw_losses
from t2i.training.run import Run
from t2i.training.scoring import SCORES

PATIENCE = 120.0  # seconds until a training that was started has made its run


@dataclass(frozen=True)
class Look:
    """headline: how far it is, one line of Markdown. plot, samples: image files, None where there is none yet.
    scores: rows of images seen and scores. log: its last lines."""

    headline: str
    plot: Path | None
    samples: Path | None
    scores: list[list[Any]]
    log: str


def list_runs(root: Path | str = "runs") -> list[str]:
    """Run folders, newest first, also those without a model yet."""
    with contextlib.suppress(OSError):
        found = [path for path in Path(root).iterdir() if re.match(r"\d+-", path.name) and _is_run(path)]
        return [str(path) for path in sorted(found, key=lambda path: int(path.name.split("-")[0]), reverse=True)]
    return []


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file()


def look(name: Path | str, folder: Path | str) -> Look:
    """How the run in a folder goes. folder: of the page, for the plot, drawn anew where it has logged since.

    Raises UserError, one line.
    """
    run = Run(name)
    lines = read_metrics(run.folder / "metrics.jsonl")
    config, facts = run.read_config()
    goal = config.schedule.kimg * 1000
    at_work = holder(run.folder)
    headline = "**training**" if at_work else "stopped"
    if lines:
        last = lines[-1]
        seen, rate = last.get("images_seen") or 0, last.get("images_per_second") or 0.0
        headline += f": {seen:,} of {goal:,.0f} images ({seen / goal:.0%}), {last.get('resolution', 0):.0f} px"
        if at_work and rate:
            headline += (
                f", {rate:.0f} images a second, {_duration(_seconds_left(config, lines[-1], at_work.since))} left"
            )
    else:
        headline += ": nothing logged yet"
    headline += f" — {config.arch}, preset {config.preset}, on {facts.get('name')} ({config.optim.precision})"
    samples = sorted(path for path in run.samples.glob("*.png") if path.stem.isdecimal())
    scores = [[line["images_seen"], *(line.get(column) for column in SCORES.values())] for line in lines
              if any(column in line for column in SCORES.values())]  # fmt: skip
    folder = Path(folder)
    sheet = _copy(samples[-1], folder / f"{run.folder.name}-samples-{samples[-1].stem}.png") if samples else None
    return Look(headline, _plot(run.folder, folder), sheet, scores[-20:], _log(run))


def _seconds_left(config: TrainConfig, last: dict[str, Any], since: float) -> float:
    left = (config.schedule.kimg * 1000 - last["images_seen"]) / last["images_per_second"]
    minutes = config.schedule.minutes
    return left if minutes is None else min(left, since + 60 * minutes - datetime.now().timestamp())


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"


def _plot(run: Path, folder: Path) -> Path | None:
    """Its losses so far, under a name that changes with them."""
    metrics = run / "metrics.jsonl"
    if not metrics.is_file():
        return None
    path = folder / f"{run.name}-losses-{metrics.stat().st_mtime_ns}.png"
    return path if path.is_file() or draw_losses(metrics, path) else None


def _copy(file: Path, copy: Path) -> Path:
    """The page's server may read no folder but its own."""
    if not copy.is_file():
        shutil.copyfile(file, copy)
    return copy


def _log(run: Run, lines: int = 12) -> str:
    with contextlib.suppress(OSError):
        text = (run.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])
    return ""


class Trainings:
    """Trainings that this page started, each a process of its own: it goes on when the page or the server ends."""

    def __init__(self, runs: Path | str = "runs"):
        self.runs = Path(runs)
        self._started: list[subprocess.Popen] = []

    def start(self, data: str, arch: str, minutes: float | None) -> str:
        """Begin a run and return its folder. Raises UserError, one line."""
        if not (data or "").strip():
            raise UsageError("no data set: make one first with t2i prepare")
        return self._run([data, "--arch", arch, "--out", str(self.runs), *_minutes(minutes)])

    def resume(self, run: str, minutes: float | None) -> str:
        """Go on with a run. Raises UserError, one line."""
        if not (run or "").strip():
            raise UsageError("no run: choose one")
        return self._run(["--resume", run, *_minutes(minutes)])

    def stop(self, run: str) -> None:
        """As Ctrl-C would: it saves a checkpoint and ends. Raises UserError where nothing trains there."""
        at_work = holder(run) if run else None
        if at_work is None:
            raise UsageError(f"{run or 'no run'}: no training is at work there")
        try:
            # On Windows SIGINT would end it without a checkpoint; Ctrl-Break reaches what this page started.
            os.kill(at_work.pid, getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))
        except OSError as error:
            raise UserError(f"{run}: press Ctrl-C where it was started (process {at_work.pid})") from error

    def _run(self, options: list[str]) -> str:
        self._started = [process for process in self._started if process.poll() is None]  # ended ones are reaped
        # Windows cannot remove the file while the training has it open.
        with tempfile.TemporaryDirectory(prefix="t2i-training-", ignore_cleanup_errors=True) as folder:
            output = Path(folder) / "output"
            with open(output, "wb") as stream:
                process = subprocess.Popen(
                    [sys.executable, "-m", "t2i", "train", *options],
                    stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )  # fmt: skip
            self._started.append(process)
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                ended = process.poll() is not None
                said = output.read_bytes()[:1_000_000].decode("utf-8", "replace").splitlines()
                if found := [line.removeprefix("run: ") for line in said if line.startswith("run: ")]:
                    return found[0]
                if ended:
                    raise UserError(said[-1].removeprefix("t2i: ") if said else "the training ended without a word")
                time.sleep(0.1)
        raise UserError(f"the training has made no run in {PATIENCE:.0f} seconds; it goes on as process {process.pid}")


def _minutes(minutes: float | None) -> list[str]:
    return ["--minutes", f"{minutes:g}"] if minutes else []


def data_sets() -> list[str]:
    """Prepared data sets to train on."""
    from t2i.data.prepared import PreparedDataset, find_datasets

    found = []
    for path in find_datasets():
        with contextlib.suppress(UserError):
            if not PreparedDataset(path).held_out:
                found.append(str(path))
    return found[::-1]
