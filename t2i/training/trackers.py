"""Experiment trackers: a run's metrics and sample grids, sent to TensorBoard and Weights & Biases as well.

A run does not depend on them: one that fails is said once and left out, and none of them changes a step.
"""

import collections
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t2i.config import TrainConfig
from t2i.errors import UserError
from t2i.files import first_line, read_json, write_json
from t2i.training.metrics import read_metrics

STATE = "trackers.json"  # in a run: what a tracker has to know to go on with its curve
KEPT = 30.0  # seconds after which wandb has surely written what it was sent: it does so every 15
SHEET = "samples"  # what a tracker calls the sample grids


class Trackers:
    """All trackers of a run, one after the other. say: takes the one line on a tracker that failed."""

    def __init__(self, config: TrainConfig, folder: Path, say: Callable[[str], None]) -> None:
        """folder: the run's. Raises UserError, one line, where one is not installed."""
        check_installed(config)
        self.say = say
        self.active: dict[str, Any] = {}
        for name in dict.fromkeys(config.run.trackers):
            self._try(name, self._begin, name, config, folder)

    def _begin(self, name: str, config: TrainConfig, folder: Path) -> None:
        self.active[name] = KINDS[name](config, folder, self.say)

    def metrics(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        self._each(lambda tracker: tracker.metrics(line, int(line["images_seen"])))

    def sheet(self, path: Path, images_seen: int) -> None:
        """The sample grid of a snapshot, a file."""
        self._each(lambda tracker: tracker.sheet(path, images_seen))

    def rewind(self, images_seen: int, repeats: bool) -> None:
        """The run goes on from here. repeats: it will send again what it has sent past this, the same numbers."""
        self._each(lambda tracker: tracker.rewind(images_seen, repeats))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())

    def _each(self, do: Callable[[Any], None]) -> None:
        for name, tracker in list(self.active.items()):
            self._try(name, do, tracker)

    def _try(self, name: str, do: Callable[..., None], *given: Any) -> None:
        try:
            do(*given)
        except Exception as error:  # whatever another program's library raises
            self.active.pop(name, None)
            self.say(f"warning: {name} failed ({first_line(error)}); training goes on without it")


class TensorBoard:
    """Event files in `folder`/tensorboard, which torch writes."""

    def __init__(self, config: TrainConfig, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder / "tensorboard"
        self._writer: Any = None
        self._purge_from: int | None = None

    def _open(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder), purge_step=self._purge_from)
        return self._writer

    def metrics(self, line: Mapping[str, Any], images_seen: int) -> None:
        writer = self._open()
        for key, value in _numbers(line).items():
            writer.add_scalar(key, value, images_seen)
        writer.flush()

    def sheet(self, path: Path, images_seen: int) -> None:
        writer = self._open()
        with Image.open(path) as image:
            writer.add_image(SHEET, np.asarray(image.convert("RGB")), images_seen, dataformats="HWC")
        writer.flush()

    def rewind(self, images_seen: int, repeats: bool) -> None:
        self.close()
        self._purge_from = images_seen + 1  # the next event file tells TensorBoard to hide what is past it

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WeightsAndBiases:
    """A run of wandb, called like the run's folder. WANDB_MODE=offline writes to `folder`/wandb, for `wandb sync`.

    wandb cannot take points back, and a kill costs it those of its last seconds. trackers.json says which run it is and
    what has surely been kept: a resumed run sends what is past that, from metrics.jsonl and samples/ where it was
    logged before. So a few points may be sent twice, with the same values, and none is missing.
    """

    def __init__(self, config: TrainConfig, folder: Path, say: Callable[[str], None]) -> None:
        import wandb

        self._wandb, self._folder = wandb, folder
        if (folder / STATE).is_file():
            self._state = read_json(folder / STATE)
        else:
            self._state = {"wandb": os.urandom(8).hex(), "metrics": -1, "sheets": -1}
        self._sent: collections.deque[tuple[float, str, int]] = collections.deque()  # when, what, images seen
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "t2i"), name=folder.resolve().name, id=self._state["wandb"],
            resume="allow", dir=str(folder), config=config.tables(), settings=quiet,
        )  # fmt: skip
        self._run.define_metric("*", step_metric="images_seen")
        self._note(math.inf)
        if not self._run.offline:
            say(f"wandb: {self._run.url}")

    def metrics(self, line: Mapping[str, Any], images_seen: int) -> None:
        self._send("metrics", lambda: _numbers(line), images_seen)

    def sheet(self, path: Path, images_seen: int) -> None:
        self._send("sheets", lambda: {SHEET: self._wandb.Image(str(path))}, images_seen)

    def _send(self, what: str, values: Callable[[], dict[str, Any]], images_seen: int) -> None:
        if images_seen > self._state[what]:
            self._run.log({**values(), "images_seen": images_seen})
            self._sent.append((time.monotonic(), what, images_seen))
            self._note(KEPT)

    def rewind(self, images_seen: int, repeats: bool) -> None:
        if not repeats:  # other numbers come: they are sent beside the ones before
            self._sent.clear()
            self._state |= {what: min(self._state[what], images_seen) for what in ("metrics", "sheets")}
            self._note(math.inf)
            return
        for line in read_metrics(self._folder / "metrics.jsonl"):
            if line.get("images_seen", math.inf) <= images_seen:
                self.metrics(line, line["images_seen"])
        for path in sorted((self._folder / "samples").glob("[0-9]*.png")):
            if int(path.stem) <= images_seen:
                self.sheet(path, int(path.stem))

    def _note(self, age: float) -> None:
        """Remember as kept what was sent so many seconds ago or earlier."""
        while self._sent and self._sent[0][0] <= time.monotonic() - age:
            _, what, images_seen = self._sent.popleft()
            self._state[what] = images_seen
        write_json(self._folder / STATE, self._state)

    def close(self) -> None:
        self._run.finish()
        self._note(0)


KINDS: dict[str, type] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def check_installed(config: TrainConfig) -> None:
    """Raises UserError, one line, where a tracker of the run is not installed."""
    import importlib

    for name in config.run.trackers:
        try:
            importlib.import_module(MODULES[name])
        except ImportError as error:
            raise UserError(
                f'{name} is not installed ({first_line(error)}); pip install "t2i[{name}]" adds it'
            ) from error


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The values of a line that a curve can show."""
    return {k: v for k, v in line.items() if k != "images_seen" and isinstance(v, int | float) and np.isfinite(v)}
