"""Names of models: a folder, a run, a snapshot of a run, or the built-in model."""

import contextlib
import re
from pathlib import Path

from t2i.errors import UserError
from t2i.files import read_json
from t2i.hub import fetch, is_hub_name

MODEL = "model"  # the model folder in a snapshot
BUILT_IN = Path(__file__).parent.parent / "assets" / "emoji"  # the model in the package
RUN_FILES = ("config.json", "checkpoints")
BEST = "best.json"  # in a run: the snapshot with the best score


def list_snapshots(root: Path) -> list[Path]:
    """The snapshots in a run's folder of checkpoints, oldest first."""
    with contextlib.suppress(OSError):
        found = [path for path in root.iterdir() if path.name.isdecimal() and path.is_dir()]
        return sorted(found, key=lambda path: int(path.name))
    return []


def is_model(folder: Path) -> bool:
    return (folder / "model_index.json").is_file()


def is_run(folder: Path) -> bool:
    return (folder / RUN_FILES[0]).is_file() and (folder / RUN_FILES[1]).is_dir()


def newest_in_run(run: Path) -> Path | None:
    """The newest model of a run; None where it has none."""
    for snapshot in reversed(list_snapshots(run / "checkpoints")):
        if is_model(snapshot / MODEL):
            return snapshot / MODEL
    older = run / "model"  # of t2i 0.1
    return older if is_model(older) else None


def best_in_run(run: Path) -> Path | None:
    """The model of a run with the best score; None where none was scored."""
    with contextlib.suppress(UserError, KeyError, TypeError, ValueError):
        folder = run / "checkpoints" / f"{int(read_json(run / BEST)['snapshot']):09d}" / MODEL
        if is_model(folder):
            return folder
    older = run / "best"  # of t2i 0.1
    return older if is_model(older) else None


def find_snapshot(run: Path, which: str) -> Path:
    """The model of the snapshot RUN@which; which: images seen, or "best". Raises UserError, one line."""
    if which == "best":
        if found := best_in_run(run):
            return found
        raise UserError(f"{run}@best: none of its snapshots was scored; t2i train --eval-every scores them")
    there = [int(path.name) for path in list_snapshots(run / "checkpoints") if is_model(path / MODEL)]
    if which.isdecimal() and int(which) in there:
        return run / "checkpoints" / f"{int(which):09d}" / MODEL
    listed = ", ".join(map(str, there)) or "none"
    raise UserError(f"{run}@{which}: there is no such snapshot; there are {listed}")


def find_model(name: Path | str) -> Path:
    """The model folder of a name: a model folder, a run (its newest snapshot), RUN@120000, RUN@best, a snapshot's
    folder, "emoji", the built-in model, or ORG/NAME on the Hugging Face hub.

    What is at the path takes precedence over the name. Without a model the path is returned, for load_model's error.
    Raises UserError, one line, where a run has no such snapshot, or the hub no such model.
    """
    path = Path(name)
    if is_model(path):
        return path
    if is_run(path):
        return newest_in_run(path) or path
    if is_model(path / MODEL):
        return path / MODEL
    if (match := re.fullmatch(r"(.+)@(\w+)", str(name))) and is_run(Path(match[1])):
        return find_snapshot(Path(match[1]), match[2])
    if str(name) == BUILT_IN.name:
        return BUILT_IN
    here = path.exists() or path.parent.name == "runs"  # a run that is not there is nothing for the hub
    return fetch(name) if is_hub_name(name) and not here else path


def model_name(folder: Path) -> str:
    """The name of a model folder: RUN@N for one in a run."""
    if folder.name == MODEL and folder.parent.parent.name == "checkpoints":
        return f"{folder.parent.parent.parent}@{int(folder.parent.name)}"
    return str(folder)
