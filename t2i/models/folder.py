"""A trained generator as a folder, in the manner of diffusers: JSON to say what it is, safetensors to hold it.

model_index.json               format, architecture, resolution, text encoder with hash, hash of the weights and where
                               they stood in growing, what it was trained on
generator/config.json          all that is needed to build the generator
generator/model.safetensors    its weights, the pooler and the text statistics included
README.md                      the model card

The built-in model is such a folder too, t2i/assets/emoji; scripts/emoji_model.py made it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t2i.errors import UserError
from t2i.files import (
    atomic_write,
    describe_os_error,
    first_line,
    make_folder,
    read_json,
    sha256,
    shell_word,
    sweep,
    write_json,
)
from t2i.models.growing import growth_at, set_growth
from t2i.models.registry import get_architecture
from t2i.tensors import save_tensors, tensors_in
from t2i.text.pooler import TextStatistics
from t2i.text.transformer import drop_replaced
from t2i.version import __version__

FORMAT = 1
CLASS_NAME = "TextToImagePipeline"
BUILT_IN = Path(__file__).parent.parent / "assets" / "emoji"  # the model that comes with the package


@dataclass(frozen=True)
class ModelDescription:
    """What a model folder says of its model. text_encoder: name, sha256, width, max_tokens. training: free facts."""

    architecture: str
    resolution: int
    conditioning: str
    options: dict[str, Any]
    text_encoder: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)


def save_model(
    folder: Path | str, generator: nn.Module, description: ModelDescription, dtype: torch.dtype | None = None
) -> None:
    """Write a model folder; each file is replaced whole, the weights last. Raises UserError, one line.

    dtype: what the weights are rounded to, torch.float16 for a file of half the size; None: as they are. They are
    loaded as float32 either way.
    Killed before the weights are replaced, a folder that held a model still holds one: its description knows the hash
    of both weights and of their text encoders, and where both stood in growing. A trained encoder is saved before,
    with encoder_in_use.
    """
    folder = Path(folder)
    weights = folder / "generator" / "model.safetensors"
    staged = weights.with_name("model.safetensors.new")
    make_folder(weights.parent)
    for name in ("README.md", "model_index.json", "generator/config.json", "generator/model.safetensors"):
        sweep((folder / name).parent, f".{Path(name).name}.*.tmp")  # of a save that was killed, as `staged` may be
    try:
        state = generator.state_dict()
        if dtype is not None:
            state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
        save_tensors(staged, state)
        _describe(folder, description, sha256(staged), *_in_use(folder))
        os.replace(staged, weights)
        drop_replaced(folder)
    except OSError as error:
        raise describe_os_error(error, weights) from error
    finally:
        staged.unlink(missing_ok=True)


def encoder_in_use(folder: Path | str) -> str:
    """The hash of the text encoder that the generator in a model folder was trained with; "" where there is none."""
    return _in_use(Path(folder))[1]


def _in_use(folder: Path) -> tuple[str, str, Any]:
    """The hashes of the weights in a folder and of their text encoder, "" where that is not known, and their growth."""
    weights = folder / "generator" / "model.safetensors"
    digest, encoder, growth = sha256(weights) if weights.is_file() else "", "", None
    if digest:
        with contextlib.suppress(UserError, AttributeError, KeyError, TypeError):
            index = read_json(folder / "model_index.json")
            encoder = _text_encoder(index, digest)["sha256"]
            growth = _growth(index, digest, read_json(folder / "generator" / "config.json")["options"])
    return digest, encoder, growth


def _text_encoder(index: dict[str, Any], digest: str) -> dict[str, Any]:
    """What the description says of the text encoder of the weights of that hash."""
    if digest == index.get("weights_sha256_before") and "text_encoder_sha256_before" in index:
        return {**index["text_encoder"], "sha256": index["text_encoder_sha256_before"]}
    return index["text_encoder"]


def _growth(index: dict[str, Any], digest: str, options: dict[str, Any]) -> Any:
    """Where the weights of that hash stood in growing, [resolution, alpha]; None: at full size.

    options: of config.json, which alone says so in the folders of an older t2i.
    """
    if digest == index.get("weights_sha256_before") and "growth_before" in index:
        return index["growth_before"]
    return index.get("growth", options.get("growth"))


def _describe(
    folder: Path, description: ModelDescription, digest: str, replaced: str, encoder: str, growth: Any
) -> None:
    """All files but the weights, of the hash `digest`; those of the hash `replaced` are there until then.

    encoder: the hash of the text encoder of those. growth: where they stood in growing.
    """
    config = asdict(description)
    weights = {"weights_sha256": digest}
    stands = list(config["options"].get("growth") or ()) or None
    if stands:
        weights["growth"] = stands
    if replaced not in ("", digest):
        weights["weights_sha256_before"] = replaced
        if encoder not in ("", description.text_encoder["sha256"]):
            weights["text_encoder_sha256_before"] = encoder
        if growth != stands:
            weights["growth_before"] = growth
    index = {
        "_class_name": CLASS_NAME,
        "format": FORMAT,
        "t2i_version": __version__,
        "architecture": description.architecture,
        "resolution": description.resolution,
        **weights,
        "text_encoder": config.pop("text_encoder"),
        "training": config.pop("training"),
    }
    # First: until the weights are replaced, it says which of all this is of the former ones.
    write_json(folder / "model_index.json", index)
    write_json(folder / "generator" / "config.json", config)
    with atomic_write(folder / "README.md", "w") as stream:
        stream.write(model_card(folder.name, description))


def load_model(folder: Path | str) -> tuple[nn.Module, ModelDescription, str]:
    """The generator in eval mode on the CPU, its description, and the SHA-256 of its weights.

    Strict: every tensor must be there, with its shape, and no other. Raises UserError, one line.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{folder}: {_what_else(folder)}")
    index = read_json(folder / "model_index.json", "model description")
    if index.get("_class_name") != CLASS_NAME:
        raise UserError(
            f"{folder}: this is a model of another kind ({index.get('_class_name', 'no _class_name')!s:.60}), "
            "not one that t2i trained"
        )
    if index.get("format") != FORMAT:
        raise UserError(f"{folder}: model format {index.get('format')!r}; this t2i ({__version__}) reads {FORMAT}")
    config = read_json(folder / "generator" / "config.json", "generator configuration")
    weights = folder / "generator" / "model.safetensors"
    try:
        description = ModelDescription(text_encoder=index["text_encoder"], training=index.get("training", {}), **config)
        _check_description(description)
        architecture = get_architecture(description.architecture)
        statistics = TextStatistics.identity(int(description.text_encoder["width"]))
        generator = architecture.build_generator(
            description.resolution, description.conditioning, statistics, **description.options
        )
        content = weights.read_bytes()  # once: a training run may replace the file at any moment
        digest = hashlib.sha256(content).hexdigest()
        # A folder that another tool or an older t2i wrote knows no hash.
        known = [index[name] for name in ("weights_sha256", "weights_sha256_before") if name in index]
        if known and digest not in known:
            if read_json(folder / "model_index.json", "model description") != index:
                return load_model(folder)  # a training run replaced the model in this moment
            raise UserError(f"{weights}: damaged (its hash is not the one in model_index.json); get or train it again")
        description = dataclasses.replace(description, text_encoder=_text_encoder(index, digest))
        growth = _growth(index, digest, description.options)
        if architecture.grows and growth != description.options.get("growth"):
            set_growth(generator, growth_at(growth, generator.shown))
            description = dataclasses.replace(description, options={**description.options, "growth": growth})
        generator.load_state_dict(tensors_in(content, weights))
    except OSError as error:
        raise describe_os_error(error, weights) from error
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{folder}: the model does not fit its description ({first_line(error)}); get or train it again"
        ) from error
    return generator.eval().requires_grad_(False), description, digest


def find_model(name: Path | str) -> Path:
    """The model folder that a user means: one, a run folder that has one, or by its name the built-in model, "emoji".

    A model that lies at the path comes before the name. Where there is none, the path, of which load_model says why.
    """
    path = Path(name)
    for folder in (path, path / "model"):
        if (folder / "model_index.json").is_file():
            return folder
    return BUILT_IN if str(name) == BUILT_IN.name else path


def holds_model(folder: Path | str) -> bool:
    """Whether a folder is a t2i model's, whole or not; False for one of another tool."""
    with contextlib.suppress(UserError):
        return read_json(Path(folder) / "model_index.json").get("_class_name") == CLASS_NAME
    return False


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _check_description(description: ModelDescription) -> None:
    """Raises TypeError or ValueError where a value of model_index.json or config.json is of the wrong kind."""
    text = description.text_encoder
    kinds = {
        "architecture": (description.architecture, str), "resolution": (description.resolution, int),
        "conditioning": (description.conditioning, str), "options": (description.options, dict),
        "training": (description.training, dict), "text_encoder": (text, dict),
    }  # fmt: skip
    if isinstance(text, dict):
        kinds |= {f"text_encoder.{name}": (text.get(name), str) for name in ("name", "sha256")}
        kinds |= {f"text_encoder.{name}": (text.get(name), int) for name in ("width", "max_tokens")}
    if isinstance(facts := description.training, dict):  # free, but for what is written on
        known = {"images_seen": int, "prompts": list, "licences": str, "data": str}
        kinds |= {f"training.{name}": (facts[name], kind) for name, kind in known.items() if name in facts}
        kinds |= {f"training.prompts[{n}]": (text, str) for n, text in enumerate(_list(facts.get("prompts")))}
    for name, (value, kind) in kinds.items():
        if not isinstance(value, kind):
            raise TypeError(f"its {name} is {value!r:.40}, not {kind.__name__}")
    if not 4 <= description.resolution <= 4096 or not 1 <= text["width"] <= 2**20 or text["max_tokens"] < 1:
        raise ValueError(f"resolution {description.resolution}, text width {text['width']}")


def model_card(name: str, description: ModelDescription) -> str:
    """README.md of a model folder."""
    training = description.training
    facts = {
        "architecture": description.architecture,
        "resolution": f"{description.resolution} x {description.resolution} px",
        "text encoder": f"{description.text_encoder['name']} ({description.conditioning} conditioning)",
        "trained on": training.get("data", "unknown"),
        **({"licences": training["licences"]} if "licences" in training else {}),
        "images seen": f"{training.get('images_seen', 0):,}",
        "made with": f"t2i {__version__}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    prompt = (training.get("prompts") or ["a table"])[0]
    return f"""---
library_name: t2i
pipeline_tag: text-to-image
---
# {name}

A small text-to-image GAN: one forward pass a picture.

| | |
|---|---|
{table}

```
t2i generate {shell_word(prompt)} --model PATH/TO/THIS/FOLDER -o out.png
```
```python
from t2i import TextToImagePipeline

image = TextToImagePipeline.from_pretrained("PATH/TO/THIS/FOLDER")({json.dumps(prompt, ensure_ascii=False)}).images[0]
```

It draws what its training pictures and captions taught it, and little else. The licence of those pictures decides
what may be done with it.
"""


def _what_else(folder: Path) -> str:
    """Why a path is no model folder, and what to do."""
    if folder.suffix in (".pt", ".pth", ".ckpt", ".pkl", ".bin"):
        return "pickled weights can run code and are never loaded; give a model folder with safetensors"
    if not folder.exists():
        return "there is no such model folder; give a run's model/ folder, or train one with t2i train"
    if not folder.is_dir():
        return "this is a file, not a model folder; give a run's model/ folder"
    if (folder / "dataset.json").is_file():
        return "this is a prepared data set, not a model; train on it with t2i train"
    if (folder / "state.json").is_file():
        return "this is a checkpoint, to resume from; the model to draw with is in the run's model/ folder"
    return "no model here (there is no model_index.json); give a run's model/ folder"
