"""Settings from several sources laid over each other, and which of them have no effect."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from t2i.aliases import gone_settings, rename_settings
from t2i.config import COMMAND_LINE, DEFAULT, FIELDS, TrainConfig, build, option
from t2i.errors import UsageError
from t2i.toml_tables import flatten, read_tables


class Layers:
    """Settings laid over each other, later ones winning, and where each value came from."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origin: dict[str, str] = {}

    def add(self, source: str, values: Mapping[str, Any]) -> None:
        """values: {dotted name: value}."""
        self.values |= values
        self.origin |= dict.fromkeys(values, source)

    def called(self, name: str) -> str:
        """How a message calls a setting: as the user wrote it."""
        source = self.origin.get(name, DEFAULT)
        return option(name) if source in (DEFAULT, COMMAND_LINE) else f"{source}: {name}"

    def build(self) -> TrainConfig:
        """Raises UsageError, one line."""
        return build(self.values, self.called)


def is_on(value: Any) -> bool:
    """Does a setting that others need have an effect itself?"""
    return value not in (None, False, 0, "none", ())


def check_needs(layers: Layers, config: TrainConfig, named: Iterable[str]) -> None:
    """Raises UsageError where one of these settings has no effect, since another one that it needs is off."""
    values = flatten(config.tables())
    for name in named:
        needs = FIELDS[name].metadata.get("needs") if name in FIELDS else None
        if needs is None:
            continue
        other, _, wanted = needs.partition("=")
        found = values.get(other)
        if (found == wanted) if wanted else is_on(found):
            continue
        source = layers.origin.get(other, DEFAULT)
        whose = "" if source in (DEFAULT, COMMAND_LINE) else f" ({source})"
        said = f"{option(other)} is {found}" if found not in (None, False, 0, ()) else f"it needs {option(other)}"
        raise UsageError(f"{layers.called(name)} has no effect: {said}{whose}")


def read_toml(path: Path | str) -> dict[str, Any]:
    """A config file as {dotted name: value}, names of older versions renamed. Raises UserError, one line."""
    flat = flatten(read_tables(path))
    if gone := gone_settings(flat):
        raise UsageError(
            f"{path}: {', '.join(gone)}: gone since 0.2; [loss.energy] weight, features and repulsion do that"
        )
    return rename_settings(flat)
