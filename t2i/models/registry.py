"""The architectures t2i can train. A registered name is the value of `--arch` and the id of the tests."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from t2i.models.base import Discriminator, Generator
from t2i.text.pooler import TextStatistics


@dataclass(frozen=True)
class Architecture:
    """A family of generators and discriminators, with what trains it best.

    model_options: the names and defaults of its own settings (widths, depths), the `[model]` table of a run.toml.
    presets: name -> {resolution -> settings}; a setting is a field of TrainConfig or of model_options.
    defaults: settings of TrainConfig that every preset starts from.
    smallest: model_options of the narrowest network that still has every part: for tests and smoke runs.
    grows: its networks have a `growth` (t2i/models/growing.py) and take `shown_at`; its generator says in `shown` at
    which resolutions it can stand.
    group: pictures of a micro-batch that its discriminator looks at together; 1 where it judges each alone.
    """

    name: str
    summary: str
    build_generator: Callable[..., Generator]
    build_discriminator: Callable[..., Discriminator]
    model_options: dict[str, Any]
    presets: dict[str, dict[int, dict[str, Any]]]
    defaults: dict[str, Any] = field(default_factory=dict)
    smallest: dict[str, Any] = field(default_factory=dict)
    grows: bool = False
    group: int = 1

    def build(
        self, resolution: int, conditioning: str, statistics: TextStatistics, options: dict[str, Any], seed: int
    ) -> tuple[Generator, Discriminator]:
        """A new generator and discriminator; the same seed gives the same weights. The global RNG is not touched."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator = self.build_generator(resolution, conditioning, statistics, **options)
            discriminator = self.build_discriminator(resolution, conditioning, statistics, **options)
        return generator, discriminator


def preset_rows(
    names: tuple[str, ...], table: Iterable[tuple], common: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[int, dict[str, Any]]]:
    """A literal table, a row (preset, resolution, values of `names` ...) each, as Architecture.presets.

    A value of None leaves the setting at its default. common: of a preset, at every resolution.
    """
    presets: dict[str, dict[int, dict[str, Any]]] = {}
    for preset, resolution, *values in table:
        own = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        presets.setdefault(preset, {})[resolution] = {**common.get(preset, {}), **own}
    return presets


_ARCHITECTURES: dict[str, Architecture] = {}


def register(architecture: Architecture) -> Architecture:
    """Make an architecture known under its name."""
    assert architecture.name not in _ARCHITECTURES
    _ARCHITECTURES[architecture.name] = architecture
    return architecture


def list_architectures() -> list[str]:
    return sorted(_ARCHITECTURES)


def get_architecture(name: str) -> Architecture:
    """The architecture called `name`. Raises ValueError, naming those that exist."""
    if name not in _ARCHITECTURES:
        raise ValueError(f"no architecture {name!r}; there is {', '.join(list_architectures())}")
    return _ARCHITECTURES[name]
