"""What the benchmarks compare: an architecture with some of its settings changed, written in one word.

"stylegan2", or "wide=stylegan2,fmap_base=1024,lr_g=1e-3": a name, an architecture, settings of TrainConfig or of the
architecture. Values are TOML's; what is not is a word.
"""

import contextlib
import dataclasses
import tomllib
from typing import Any

import torch
from t2i.training.setup import new_settings

from t2i.config import TrainConfig
from t2i.data.prepared import PreparedDataset
from t2i.models import get_architecture


def settings_of(text: str, data: PreparedDataset, device: torch.device, **ours: Any) -> tuple[str, TrainConfig]:
    """The variant's name, and the settings of a run of it on `data`, mixed precision if it says nothing.

    ours: settings of the benchmark, which the variant's own win over.
    """
    name, _, rest = text.partition("=") if "=" in text.split(",")[0] else (text, "", text)
    arch, *pairs = rest.split(",")
    flags: dict[str, Any] = {"precision": "bf16", **ours, "arch": arch}
    model: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        with contextlib.suppress(tomllib.TOMLDecodeError):
            value = tomllib.loads(f"x = {value}")["x"]
        (model if key in get_architecture(arch).model_options else flags)[key] = value
    settings, _ = new_settings(data, flags, None, device.type)
    return name, dataclasses.replace(settings, model={**settings.model, **model})
