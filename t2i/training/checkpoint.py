"""Snapshots: whole or absent, verified when read, and each one a model that can be drawn with.

    checkpoints/000040960/          images seen, in the name
        generator.safetensors  discriminator.safetensors  optimizer_g.safetensors  optimizer_d.safetensors ...
        state.json                  images seen, seconds, settings, sha256 of every file and of itself
        model/                      the averaged generator, as a model folder

A snapshot is written to a temporary folder, synced, and renamed; only then is an older one pruned: the last two stay
whole, of the others the model stays. A damaged one, which the run went back from, is removed.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t2i.aliases import CHECKPOINT_PARTS, rename_tensors
from t2i.errors import UserError
from t2i.files import (
    describe_os_error,
    make_folder,
    read_sealed_json,
    sha256,
    sweep,
    sync_folder,
    write_sealed_json,
)
from t2i.models.find import MODEL, list_snapshots
from t2i.tensors import save_tensors, tensors_in

FORMAT = 3
OLDER_FORMAT = 2  # of 0.1: other names, and the averages beside the rest
WHOLE = 2  # snapshots that a run can be resumed from

# Averages, which lie in the model folder of a snapshot.
MODEL_FILES = {
    "ema": f"{MODEL}/generator/model.safetensors",
    "text_encoder_ema": f"{MODEL}/text_encoder/model.safetensors",
}

Stateful = nn.Module | torch.optim.Optimizer


def save_checkpoint(
    root: Path,
    state: Mapping[str, Any],
    parts: Mapping[str, Stateful],
    save_model: Callable[[Path], None],
    *,
    keep: int = 10,
    spare: int | None = None,
    before: int | None = None,
) -> Path:
    """Write a snapshot as root/<images seen>/ and prune older ones.

    state: JSON-able, with "images_seen". save_model: writes the averages as a model folder at the path it is given.
    keep: snapshots in all; spare: one, by its images seen, that is not pruned. before: images seen at the last good
    one; what else lies above it is damaged, was gone back from, and is removed. Raises UserError, one line; what was
    there before stays.
    """
    make_folder(root)
    sweep(root)  # what a killed run was writing
    final = root / f"{state['images_seen']:09d}"
    temporary, replaced = root / f".{final.name}.tmp", root / f".{final.name}.old.tmp"
    try:
        make_folder(temporary)
        for name, part in parts.items():
            if name not in MODEL_FILES:
                save_tensors(temporary / f"{name}.safetensors", pack(part))
        save_model(temporary / MODEL)
        paths = sorted(path for path in temporary.rglob("*") if path.is_file())
        files = {path.relative_to(temporary).as_posix(): sha256(path) for path in paths}
        write_sealed_json(temporary / "state.json", {"format": FORMAT, **state, "files": files})
        for folder in (*(path for path in temporary.rglob("*") if path.is_dir()), temporary):
            sync_folder(folder)
        if final.exists():  # saved twice at the same image: the same, or the old one was damaged
            os.rename(final, replaced)
        os.rename(temporary, final)
        sync_folder(root)
    except OSError as error:
        raise describe_os_error(error, final) from error
    finally:
        if replaced.is_dir() and not final.exists():
            os.rename(replaced, final)
        sweep(root, f".{final.name}.*tmp")
    last = int(final.name) if before is None else before
    for other in list_snapshots(root):
        if int(other.name) > last and other != final:
            _remove(other)
    prune(root, keep, spare)
    return final


def prune(root: Path, keep: int, spare: int | None = None) -> None:
    """Leave `keep` snapshots, spread over the run, the last two of them whole. spare: one that stays."""
    for folder in list_checkpoints(root)[:-WHOLE]:
        with contextlib.suppress(OSError):
            (folder / "state.json").unlink()  # first: without it this is no checkpoint any more
    snapshots = list_snapshots(root)
    for number in to_drop([int(folder.name) for folder in snapshots], keep, spare):
        _remove(root / f"{number:09d}")
    for folder in list_snapshots(root):
        if not (folder / "state.json").is_file():
            for path in folder.iterdir():
                if path.name != MODEL:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            if not (folder / MODEL).is_dir():  # of 0.1, which kept the model elsewhere
                _remove(folder)


def _remove(folder: Path) -> None:
    """Whole or not at all, as far as anyone sees: what a killed process leaves of it is swept by the next save."""
    gone = folder.with_name(f".{folder.name}.old.tmp")
    with contextlib.suppress(OSError):
        os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def to_drop(numbers: list[int], keep: int, spare: int | None = None) -> list[int]:
    """Which of some snapshots, by their images seen in order, to drop so that `keep` stay: those closest to their
    neighbours first; never the last two, nor `spare`."""
    left, dropped = list(numbers), []
    while len(left) > keep:
        free = [n for n in range(len(left) - WHOLE) if left[n] != spare]
        if not free:
            break
        inner = [n for n in free if n > 0] or free
        worst = min(inner, key=lambda n: left[n + 1] - left[n - 1] if n else left[1])
        dropped.append(left.pop(worst))
    return dropped


def list_checkpoints(root: Path) -> list[Path]:
    """The snapshots below `root` that a run can be resumed from, oldest first."""
    return [folder for folder in list_snapshots(root) if (folder / "state.json").is_file()]


def newest_checkpoint(root: Path, ours: bool = True) -> tuple[Path, dict[str, Any], list[str]]:
    """The newest checkpoint that verifies: its folder, its state, and a line for each damaged one passed over.

    ours: this process is to write there next, so that what a killed one was writing is swept away. Raises UserError
    where there is no checkpoint.
    """
    complaints: list[str] = []
    if ours:
        sweep(root)
    for folder in reversed(list_checkpoints(root)):
        try:
            return folder, verify(folder), complaints
        except UserError as error:
            complaints.append(str(error))
    detail = f" ({'; '.join(complaints)})" if complaints else ""
    raise UserError(f"{root}: no checkpoint to resume from{detail}")


def verify(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint all of whose files have the hash it says. Raises UserError, one line."""
    state = read_sealed_json(folder / "state.json", "checkpoint state")
    known = state.get("format") in (FORMAT, OLDER_FORMAT)
    if not known or not isinstance(state.get("files"), dict) or not state["files"]:
        raise UserError(f"{folder}: not a checkpoint of this version of t2i")
    for name, digest in state["files"].items():
        path = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise UserError(f"{folder}: state.json names a file outside of the checkpoint")
        try:
            if sha256(path) != digest:
                raise UserError(f"{path}: damaged (its hash is not the one in state.json)")
        except OSError as error:
            raise describe_os_error(error, path) from error
    return state


def part_file(folder: Path, name: str) -> Path:
    """The file of a part of a checkpoint."""
    older = folder / f"{CHECKPOINT_PARTS.get(name, name)}.safetensors"
    if older.is_file():
        return older
    return folder / MODEL_FILES.get(name, f"{name}.safetensors")


def read_part(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a part of a verified checkpoint. Raises UserError, one line."""
    path = part_file(folder, name)
    try:
        # Not mapped: an optimiser keeps its tensors, and Windows could not remove the file.
        tensors = tensors_in(path.read_bytes(), path)
    except OSError as error:
        raise describe_os_error(error, path) from error
    return rename_tensors(tensors)


def load_checkpoint(folder: Path, parts: Mapping[str, Stateful]) -> None:
    """Fill `parts` from a verified checkpoint. Raises UserError where they do not fit."""
    for name, part in parts.items():
        try:
            unpack(part, read_part(folder, name))
        except (LookupError, RuntimeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{part_file(folder, name)} does not fit this model: it was made with other settings"
            ) from error


def load_network(folder: Path, name: str, network: nn.Module, optional: bool = False) -> None:
    """Fill a network from a part of a verified checkpoint of another run, which may have more tensors.

    optional: the checkpoint may lack the part. Raises UserError, one line, where it lacks a tensor or has it in another
    shape.
    """
    path = part_file(folder, name)
    if optional and not path.is_file():
        return
    tensors = read_part(folder, name)
    wanted = network.state_dict()
    for key, value in wanted.items():
        if key not in tensors or tensors[key].shape != value.shape:
            there = f"{tuple(tensors[key].shape)} there" if key in tensors else "missing there"
            raise UserError(
                f"{path} does not fit: {key} is {tuple(value.shape)} here and {there}; a run begins with networks of "
                "the same architecture, preset, [model] settings and resolution"
            )
    network.load_state_dict({key: tensors[key] for key in wanted})


def pack(part: Stateful) -> dict[str, torch.Tensor]:
    """All of a module's or an optimizer's state as named tensors. An optimizer's settings come from the config."""
    if isinstance(part, nn.Module):
        return part.state_dict()
    states = part.state_dict()["state"]
    return {f"{index}.{key}": value for index, state in states.items() for key, value in state.items()}


def unpack(part: Stateful, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `pack`, into a part of the same shape."""
    if isinstance(part, nn.Module):
        part.load_state_dict(tensors)
        return
    parameters = [parameter for group in part.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        if value.ndim:  # the layout of the parameter, so that fused steps stay fused
            value = torch.empty_like(parameters[int(index)]).copy_(value)
        states.setdefault(int(index), {})[key] = value
    part.load_state_dict({**part.state_dict(), "state": states})
