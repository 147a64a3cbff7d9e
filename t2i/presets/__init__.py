"""Presets: whole TOML files, named ARCHITECTURE-PRESET.toml.

The tables at the top hold at every resolution; [at.64] and the like hold at one, and at those nearest to it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2i.errors import UserError
from t2i.toml_tables import flatten, read_tables

FOLDER = Path(__file__).parent


def list_presets(arch: str) -> list[str]:
    """The presets of an architecture."""
    return sorted(path.stem.removeprefix(f"{arch}-") for path in FOLDER.glob(f"{arch}-*.toml"))


def preset_file(arch: str, name: str) -> Path | None:
    """The file of a preset, or the file itself where `name` is one's path; None where there is none."""
    path = FOLDER / f"{arch}-{name}.toml"
    if "/" not in name and path.is_file():
        return path
    return Path(name) if name.endswith(".toml") else None


def about(path: Path) -> str:
    """What a preset's first comment says."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def facts(path: Path) -> dict[str, str]:
    """What the comments below it say: for, hardware, minutes, quality; {} of a file that says nothing."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        name, colon, text = line.removeprefix("# ").partition(": ")
        if not line.startswith("# ") or not colon:
            break
        found[name] = text
    return found


def read_preset(path: Path, resolution: int) -> tuple[dict[str, Any], int]:
    """The settings of a preset at the nearest of its resolutions, {dotted name: value}, and that resolution.

    Raises UserError, one line.
    """
    tables = read_tables(path)
    rows = tables.pop("at", {})
    if not isinstance(rows, Mapping) or not all(side.isdecimal() and isinstance(rows[side], Mapping) for side in rows):
        raise UserError(f"{path}: [at] holds tables named by a resolution, such as [at.64]")
    nearest = min((int(side) for side in rows), key=lambda side: abs(side - resolution), default=resolution)
    return {**flatten(tables), **flatten(rows.get(str(nearest), {}))}, nearest
