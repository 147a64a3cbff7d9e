"""Checkpoints: whole or absent, verified when read.

    checkpoints/000040960/          images seen, in the name
        generator.safetensors  discriminator.safetensors  ema.safetensors
        optimizer_g.safetensors  optimizer_d.safetensors
        state.json                  images seen, seconds, settings, sha256 of every file and of itself

A checkpoint is written to a temporary folder, synced, and renamed; only then is an old one removed, or a
damaged one, which the run went back from.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

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
from t2i.tensors import load_tensors, save_tensors

FORMAT = 2
KEEP = 2

Stateful = nn.Module | torch.optim.Optimizer


def save_checkpoint(
    root: Path, state: dict[str, Any], parts: Mapping[str, Stateful], before: int | None = None
) -> Path:
    """Write `parts` and `state` as root/<images seen>/ and prune older ones, but for the last two.

    state: JSON-able, with "images_seen". before: images seen at the last good one; what else lies above it is damaged,
    was gone back from, and must not count as one of the two. Raises UserError, one line; what was there before stays.
    """
    make_folder(root)
    sweep(root)  # what a killed run was writing
    final = root / f"{state['images_seen']:09d}"
    temporary, replaced = root / f".{final.name}.tmp", root / f".{final.name}.old.tmp"
    try:
        make_folder(temporary)
        files = {}
        for name, part in parts.items():
            path = temporary / f"{name}.safetensors"
            save_tensors(path, pack(part))
            files[path.name] = sha256(path)
        write_sealed_json(temporary / "state.json", {"format": FORMAT, **state, "files": files})
        sync_folder(temporary)
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
    last = state["images_seen"] if before is None else before
    kept = [path for path in list_checkpoints(root) if int(path.name) <= last or path == final][-KEEP:]
    for other in list_checkpoints(root):
        if other not in kept:
            shutil.rmtree(other, ignore_errors=True)
    return final


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoints below `root`, oldest first."""
    with contextlib.suppress(OSError):
        found = [path for path in root.iterdir() if path.name.isdecimal() and path.is_dir()]
        return sorted(found, key=lambda path: int(path.name))
    return []


def newest_checkpoint(root: Path, ours: bool = True) -> tuple[Path, dict[str, Any], list[str]]:
    """The newest checkpoint that verifies: its folder, its state, and a line for each damaged one passed over.

    ours: this process is to write there next, so that what a killed one was writing is swept away. Raises UserError
    where there is no checkpoint.
    """
    complaints = []
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
    if state.get("format") != FORMAT or not isinstance(state.get("files"), dict) or not state["files"]:
        raise UserError(f"{folder}: not a checkpoint of this version of t2i")
    for name, digest in state["files"].items():
        try:
            if sha256(folder / Path(name).name) != digest:
                raise UserError(f"{folder / name}: damaged (its hash is not the one in state.json)")
        except OSError as error:
            raise describe_os_error(error, folder / name) from error
    return state


def load_checkpoint(folder: Path, parts: Mapping[str, Stateful]) -> None:
    """Fill `parts` from a verified checkpoint. Raises UserError where they do not fit."""
    for name, part in parts.items():
        try:
            unpack(part, load_tensors(folder / f"{name}.safetensors"))
        except OSError as error:
            raise describe_os_error(error, folder / name) from error
        except (LookupError, RuntimeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{folder}/{name}.safetensors does not fit this model: it was made with other settings"
            ) from error


def load_network(folder: Path, name: str, network: nn.Module) -> None:
    """Fill a network from a part of a verified checkpoint of another run, which may have more tensors.

    Raises UserError, one line, where it lacks one or has it in another shape.
    """
    path = folder / f"{name}.safetensors"
    try:
        tensors = load_tensors(path)
    except OSError as error:
        raise describe_os_error(error, path) from error
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
