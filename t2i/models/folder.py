"""A trained generator as a folder, similar to diffusers: JSON descriptions and safetensors weights.

model_index.json               format, architecture, resolution, text encoder with hash, hash of the weights, facts
                               of its training
generator/config.json          the settings of the generator
generator/model.safetensors    its weights, the pooler and the text statistics included
text_encoder/                  the text encoder, if it was trained with the generator
README.md                      the model card

The built-in model is such a folder too, t2i/assets/emoji; scripts/emoji_model.py made it.
"""

import contextlib
import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t2i.aliases import rename_model_config, rename_tensors
from t2i.errors import UserError
from t2i.files import (
    atomic_write,
    describe_os_error,
    first_line,
    make_folder,
    read_json,
    sha256,
    sweep,
    write_json,
)
from t2i.models.base import Generator
from t2i.models.card import model_card
from t2i.models.registry import get_architecture
from t2i.pixels import PLAIN_FORMAT, PixelFormat
from t2i.tensors import save_tensors, tensors_in
from t2i.text.pooler import Conditioning, TextStatistics
from t2i.version import __version__

FORMAT = 2
CLASS_NAME = "TextToImagePipeline"


@dataclass(frozen=True)
class ModelDescription:
    """The content of a model folder's JSON files.

    text_encoder: name, sha256, width, max_tokens. text: conditioning, layers, lr_multiplier of the pooler.
    generator: settings of the generator. rgb_resolutions: resolutions of possible images. growth: [resolution, alpha]
    of a model saved while it grew, None at full resolution. training: free facts. form: of its images.
    """

    architecture: str
    resolution: int
    text_encoder: dict[str, Any]
    text: dict[str, Any]
    generator: dict[str, Any]
    rgb_resolutions: list[int] = field(default_factory=list)
    growth: list[float] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    form: PixelFormat = PLAIN_FORMAT

    @property
    def conditioning(self) -> str:
        return self.text["conditioning"]


def save_model(
    folder: Path | str, generator: nn.Module, description: ModelDescription, dtype: torch.dtype | None = None
) -> None:
    """Write a model folder; each file is replaced whole, the weights first, the description with their hash last: a
    folder in which a save was killed or ran out of disk holds the model before, the new one, or one that is refused.

    dtype: of the weights in the file, torch.float16 for half the size; None: unchanged. They load as float32 either
    way. Raises UserError, one line.
    """
    folder = Path(folder)
    weights = make_folder(folder / "generator") / "model.safetensors"
    for place in (folder, weights.parent):
        sweep(place)  # left by a save that was killed
    state = generator.state_dict()
    if dtype is not None:
        state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    config = asdict(description)
    config.pop("form")
    index = {
        "_class_name": CLASS_NAME,
        "format": FORMAT,
        "t2i_version": __version__,
        "architecture": description.architecture,
        "resolution": description.resolution,
        "text_encoder": config.pop("text_encoder"),
        "training": config.pop("training"),
    }
    config |= description.form.describe()
    try:
        save_tensors(weights, state)
        index["weights_sha256"] = sha256(weights)
    except OSError as error:
        raise describe_os_error(error, weights) from error
    write_json(folder / "generator" / "config.json", config)
    with atomic_write(folder / "README.md", "w") as stream:
        stream.write(model_card(folder.name, description))
    write_json(folder / "model_index.json", index)


def load_model(folder: Path | str) -> tuple[Generator, ModelDescription, str]:
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
    if index.get("format") not in (FORMAT, 1):
        raise UserError(f"{folder}: model format {index.get('format')!r}; this t2i ({__version__}) reads {FORMAT}")
    config = read_json(folder / "generator" / "config.json", "generator configuration")
    weights = folder / "generator" / "model.safetensors"
    try:
        if index["format"] == 1:
            config = rename_model_config(config, index.get("growth"))
        form = PixelFormat.of({name: config.pop(name) for name in ("channels", "aspect") if name in config})
        description = ModelDescription(
            text_encoder=index["text_encoder"], training=index.get("training", {}), form=form, **config
        )
        _check_description(description)
        generator = build_generator(description)
        content = weights.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        # A folder of an older t2i may have no hash, or also that of earlier weights.
        known = [index[name] for name in ("weights_sha256", "weights_sha256_before") if name in index]
        if known and digest not in known:
            raise UserError(f"{weights}: damaged (its hash is not the one in model_index.json); get or train it again")
        generator.load_state_dict(rename_tensors(tensors_in(content, weights)))
    except OSError as error:
        raise describe_os_error(error, weights) from error
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{folder}: the model does not fit its description ({first_line(error)}); get or train it again"
        ) from error
    return generator.eval().requires_grad_(False), description, digest


def build_generator(description: ModelDescription) -> Generator:
    """A generator of that description, with random weights. Raises ValueError, TypeError or LookupError."""
    text = description.text
    statistics = TextStatistics.identity(int(description.text_encoder["width"]))
    conditioning = Conditioning(statistics, text["conditioning"], text["layers"], text["lr_multiplier"])
    return get_architecture(description.architecture).generator(
        description.resolution, conditioning,
        channels=description.form.count, growth=description.growth, rgb_resolutions=description.rgb_resolutions,
        **description.generator,
    )  # fmt: skip


def holds_model(folder: Path | str) -> bool:
    """Whether a folder holds a t2i model, complete or not; False for another tool's folder."""
    with contextlib.suppress(UserError):
        return read_json(Path(folder) / "model_index.json").get("_class_name") == CLASS_NAME
    return False


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _check_description(description: ModelDescription) -> None:
    """Raises TypeError or ValueError where a value of model_index.json or config.json is of the wrong kind."""
    text = description.text_encoder
    kinds: dict[str, tuple[object, type | tuple[type, ...]]] = {
        "architecture": (description.architecture, str), "resolution": (description.resolution, int),
        "generator": (description.generator, dict), "text": (description.text, dict),
        "rgb_resolutions": (description.rgb_resolutions, list),
        "training": (description.training, dict), "text_encoder": (text, dict),
    }  # fmt: skip
    if isinstance(entry := description.text, dict):
        kinds |= {"text.conditioning": (entry.get("conditioning"), str), "text.layers": (entry.get("layers"), int)}
        kinds["text.lr_multiplier"] = entry.get("lr_multiplier"), (int, float)
    if isinstance(resolutions := description.rgb_resolutions, list):
        kinds |= {f"rgb_resolutions[{n}]": (value, int) for n, value in enumerate(resolutions)}
    if isinstance(text, dict):
        kinds |= {f"text_encoder.{name}": (text.get(name), str) for name in ("name", "sha256")}
        kinds |= {f"text_encoder.{name}": (text.get(name), int) for name in ("width", "max_tokens")}
    if isinstance(facts := description.training, dict):  # free facts, except those that the model card prints
        known = {"images_seen": int, "prompts": list, "licences": str, "data": str}
        kinds |= {f"training.{name}": (facts[name], kind) for name, kind in known.items() if name in facts}
        kinds |= {f"training.prompts[{n}]": (text, str) for n, text in enumerate(_list(facts.get("prompts")))}
    for name, (value, kind) in kinds.items():
        if not isinstance(value, kind):
            raise TypeError(f"its {name} is {value!r:.40}, not {getattr(kind, '__name__', 'a number')}")
    if not 4 <= description.resolution <= 4096 or not 1 <= text["width"] <= 2**20 or text["max_tokens"] < 1:
        raise ValueError(f"resolution {description.resolution}, text width {text['width']}")


def _what_else(folder: Path) -> str:
    """The error for a path that is no model folder, with a remedy."""
    if folder.suffix in (".pt", ".pth", ".ckpt", ".pkl", ".bin"):
        return "pickled weights can run code and are never loaded; give a model folder with safetensors"
    if not folder.exists():
        return "there is no such model folder; give a run or a model folder, or train one with t2i train"
    if not folder.is_dir():
        return "this is a file, not a model folder; give a run or a model folder"
    if (folder / "dataset.json").is_file():
        return "this is a prepared data set, not a model; train on it with t2i train"
    if (folder / "state.json").is_file():
        return "this is a checkpoint of an older t2i, for --resume; name its run instead"
    return "no model here (there is no model_index.json); give a run or a model folder"
