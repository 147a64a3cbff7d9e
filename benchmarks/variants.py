"""What the benchmarks compare: an architecture with some of its settings changed, written in one word.

"stylegan2", or "wide=stylegan2,fmap_base=1024,optim.lr_g=1e-3": a name, an architecture, settings by their dotted names
or those of 0.1, options of its networks. Values are TOML's; what is not is a word.
"""

import contextlib
import tomllib
from typing import Any

import torch

from t2i.aliases import SETTINGS, rename_settings
from t2i.config import TrainConfig, build
from t2i.data.prepared import PreparedDataset
from t2i.toml_tables import flatten
from t2i.training.settings import new_settings


def settings_of(text: str, data: PreparedDataset, device: torch.device, **ours: Any) -> tuple[str, TrainConfig]:
    """The variant's name, and the settings of a run of it on `data`, mixed precision if it says nothing.

    ours: settings of the benchmark, which the variant's own win over.
    """
    name, _, rest = text.partition("=") if "=" in text.split(",")[0] else (text, "", text)
    arch, *pairs = rest.split(",")
    flags: dict[str, Any] = {"optim.precision": "bf16", **ours, "arch": arch}
    options: dict[str, Any] = {}
    for key, _, value in (pair.partition("=") for pair in pairs):
        with contextlib.suppress(tomllib.TOMLDecodeError):
            value = tomllib.loads(f"x = {value}")["x"]
        old = f"model.{key}"
        if "." in key or key in SETTINGS or key == "preset":
            flags[key] = value
        elif old in SETTINGS:
            flags[old] = value
        else:
            options[key] = value
    values = flatten(new_settings(data, rename_settings(flags), None, device.type)[0].tables())
    for key, value in options.items():
        found = {f"model.{network}.{key}": value for network in ("generator", "discriminator")}
        found = {full: value for full in found if full in values}
        if not found:
            raise SystemExit(f"{text}: there is no setting {key}")
        values |= found
    return name, build(values)
