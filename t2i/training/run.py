"""A run folder: its name, its files, and its log.

runs/00003-dfgan-noto-train-32/
    config.json     every setting, resolved; the data set and its fingerprint
    log.txt         what was printed
    metrics.jsonl metrics.csv losses.png
    samples/        reals.png once; fixed prompts and noise at every snapshot
    checkpoints/    snapshots: to draw with, the last two to resume from
    best.json       with --eval-every: which snapshot had the best score
"""

import contextlib
import json
import os
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from t2i.aliases import gone_settings, rename_settings
from t2i.config import TrainConfig
from t2i.data import DATA_ROOT
from t2i.data.mixture import Mixture
from t2i.data.prepared import PreparedDataset, find_datasets
from t2i.errors import UsageError, UserError
from t2i.evaluation.report import HISTORY
from t2i.files import describe_os_error, make_folder, read_json, write_json
from t2i.models.find import BEST, BUILT_IN, find_model, is_run, newest_in_run
from t2i.toml_tables import flatten
from t2i.training.checkpoint import list_checkpoints
from t2i.training.metrics import read_metrics
from t2i.training.tables import config_from, unknown_settings
from t2i.version import __version__


class Run:
    """An existing run folder. Make a new one with `Run.create`."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        if not (self.folder / "config.json").is_file():
            raise UserError(f"{self.folder}: no run here (there is no config.json); start one with t2i train")

    @classmethod
    def create(cls, root: Path | str, config: TrainConfig, data: dict[str, Any], device: str) -> "Run":
        """The next numbered folder below `root`. data: name, split, resolution, path and fingerprint of the data."""
        root = make_folder(root)
        numbers = [int(match[1]) for path in root.iterdir() if (match := re.match(r"(\d+)-", path.name))]
        number = max(numbers, default=-1) + 1
        while True:
            name = f"{number:05d}-{config.arch}-{data['name']}-{data['split']}-{data['resolution']}"
            try:
                (root / name).mkdir()
                break
            except FileExistsError:  # another process took the number
                number += 1
            except OSError as error:
                raise describe_os_error(error, root / name) from error
        facts = {"t2i_version": __version__, "device": device, "data": data, "settings": config.tables()}
        try:
            for part in ("samples", "checkpoints"):
                make_folder(root / name / part)
            write_json(root / name / "config.json", facts)
        except UserError:
            shutil.rmtree(root / name, ignore_errors=True)
            raise
        return cls(root / name)

    @classmethod
    def begin(cls, root: Path | str, config: TrainConfig, dataset: PreparedDataset, device: object) -> "Run":
        """The next numbered folder below `root`, for training on `dataset`."""
        return cls.create(root, config, dataset.describe(), str(device))

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def model(self) -> Path | None:
        """Its newest model; None where it has none yet."""
        return newest_in_run(self.folder)

    def read_config(self) -> tuple[TrainConfig, dict[str, Any]]:
        """The settings of the run, and the facts on its data. Raises UserError, one line."""
        facts = read_json(self.folder / "config.json", "run configuration")
        if not isinstance(facts.get("settings"), dict) or not isinstance(facts.get("data"), dict):
            raise UserError(f"{self.folder}/config.json is not a run's configuration")
        try:
            if unknown := unknown_settings(rename_settings(flatten(facts["settings"]))):
                raise UserError(
                    f"{self.folder} was begun with {', '.join(unknown)}, which this t2i does not know; "
                    "go on with the version in its config.json"
                )
            return settings_from(facts["settings"]), facts["data"]
        except UsageError as error:
            raise UserError(f"{self.folder}/config.json is damaged: {error}") from error

    def gone_settings(self) -> list[str]:
        """Settings of an older version that it trained by and that are gone: it cannot be resumed, its models can be
        drawn with."""
        return gone_settings(flatten(read_json(self.folder / "config.json", "run configuration")["settings"]))

    def read_best(self) -> dict[str, Any] | None:
        """Which snapshot had the best score: snapshot, best_by, score, chosen_on; None where none was scored."""
        with contextlib.suppress(UserError):
            return read_json(self.folder / BEST)
        return None

    def write_best(self, best: dict[str, Any]) -> None:
        write_json(self.folder / BEST, best)

    def keep_config(self, config: TrainConfig, dataset: PreparedDataset) -> None:
        """Remember what a run goes on with, so that the next --resume does too; --minutes is of one sitting alone."""
        facts = read_json(self.folder / "config.json", "run configuration")
        minutes = settings_from(facts["settings"]).schedule.minutes
        settings = config.changed(schedule__minutes=minutes).tables()
        data = dict(facts["data"])
        data["path"] = _same_or_absolute(data.get("path"), dataset.path)
        if "parts" in data:
            paths = [_same_or_absolute(old["path"], part.path) for old, part in zip(data["parts"], dataset.parts)]
            data["parts"] = [{**old, "path": path} for old, path in zip(data["parts"], paths)]
        changed = {**facts, "data": data, "settings": settings}
        if json.dumps(changed) != json.dumps(facts):
            write_json(self.folder / "config.json", changed)

    def log(self, line: str) -> None:
        """Append a line to log.txt, with the time."""
        try:
            with open(self.folder / "log.txt", "a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")
        except OSError as error:
            raise describe_os_error(error, self.folder / "log.txt") from error


def _same_or_absolute(before: str | None, path: Path) -> str:
    """The path of a data set as a run remembers it: another one may have been named from another folder than the next
    time."""
    with contextlib.suppress(OSError, TypeError):
        if before is not None and os.path.samefile(before, path):
            return before
    return str(path) if str(path) == before else os.path.abspath(path)


def settings_from(tables: dict[str, Any]) -> TrainConfig:
    """The settings that a config.json holds, of any version. Raises UsageError, one line."""
    return config_from(rename_settings(flatten(tables)))


def find_data(fingerprint: str | None, run: Path | None = None) -> PreparedDataset | None:
    """The data set, or the mixture of several, with this fingerprint: where the run says, and in t2i-data/; None where
    it is not to be found.

    Both as the user stands now, and as they stood when they began the run in runs/.
    """
    recorded = read_json(run / "config.json", "run configuration").get("data") if run is not None else None
    recorded = recorded if isinstance(recorded, dict) else {}
    if not (parts := recorded.get("parts")):
        return _find_part(fingerprint, recorded.get("path"), run)
    found = [_find_part(part["fingerprint"], part["path"], run) for part in parts]
    if any(part is None for part in found):
        return None
    mixture = Mixture([part for part in found if part], recorded.get("weights"))
    return mixture if mixture.fingerprint == fingerprint else None


def _find_part(fingerprint: str | None, path: str | None, run: Path | None) -> PreparedDataset | None:
    candidates, roots = [], [DATA_ROOT]
    if run is not None:
        began = run.absolute().parent.parent
        recorded = Path(str(path)) if path else DATA_ROOT
        candidates = [recorded, began / recorded]
        roots.append(began / DATA_ROOT)
    for root in roots:
        candidates += find_datasets(root)
    for candidate in candidates:
        with contextlib.suppress(UserError):
            if (found := PreparedDataset(candidate)).fingerprint == fingerprint:
                return found
    return None


def find_runs(root: Path | str = "runs") -> list[Path]:
    """The run folders below `root` that have a model, by number, newest last."""
    found = []
    with contextlib.suppress(OSError):
        for path in Path(root).iterdir():
            if (match := re.match(r"(\d+)-", path.name)) and newest_in_run(path):
                found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def run_of(model: Path) -> Path | None:
    """The run folder that `model` is, or lies in; None where it lies in none."""
    if is_run(model):
        return model
    folder = find_model(model).absolute()
    return next((parent for parent in (folder.parent, *folder.parents[1:3]) if is_run(parent)), None)


def training_facts(run: Path, weights_sha256: str) -> dict[str, Any]:
    """For a model card: the command that began the run, and the scores of the newest evaluation of these weights."""
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        lines = (run / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        said = [line.split("  ", 1)[-1] for line in lines]  # without the time
        found["command"] = next((line for line in said if line.startswith("t2i train")), None)
    for line in read_metrics(run / HISTORY):
        if line.get("model", {}).get("sha256") == weights_sha256:
            found["scores"] = line["scores"]
    return found


def default_model(root: Path | str = "runs") -> Path:
    """What to draw with where nobody said: the newest run below `root`, else the built-in model."""
    runs = find_runs(root)
    return runs[-1] if runs else BUILT_IN


def newest_resumable(root: Path | str = "runs") -> Run:
    """The newest run below `root` that has a checkpoint. Raises UserError, one line, where there is none."""
    for folder in reversed(find_runs(root)):
        if (folder / "config.json").is_file() and list_checkpoints(folder / "checkpoints"):
            return Run(folder)
    raise UserError(f"nothing to resume: there is no run with a checkpoint in {root}/; start one with t2i train")
