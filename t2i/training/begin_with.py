"""--begin-with: a new run with the networks of another run, of one of its snapshots, or of a model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from t2i.config import TrainConfig
from t2i.data.prepared import PreparedDataset
from t2i.errors import UsageError, UserError
from t2i.files import read_json
from t2i.models import get_architecture
from t2i.models.base import Generator
from t2i.models.find import MODEL, find_model, is_run
from t2i.models.folder import ModelDescription, load_model
from t2i.models.growing import Growth, growth_at
from t2i.presets import preset_file
from t2i.text.transformer import NAME as TRAINED
from t2i.training.checkpoint import list_checkpoints, newest_checkpoint, verify
from t2i.training.run import Run
from t2i.training.schedule import Schedule


@dataclass(frozen=True)
class Source:
    """What a run begins with.

    name: as the user wrote it. model: its model folder. checkpoint: the whole snapshot around it, with a discriminator;
    None where there is the model alone. run: the run's folder, where it is one's.
    """

    name: str
    model: Path
    checkpoint: Path | None
    run: Path | None

    def describe(self) -> ModelDescription:
        """Raises UserError, one line, where there is no model."""
        return load_model(self.model)[1]

    def settings(self, named: Mapping[str, Any], resolution: int) -> dict[str, Any]:
        """What the new run has from it, {dotted name: value}, where nothing else is named: the shape of its networks,
        and that it need not warm up or grow once more. Raises UserError, one line."""
        model = self.describe()
        if named.get("arch", model.architecture) != model.architecture:
            return {}  # check says why they do not go together
        found: dict[str, Any] = {
            "arch": model.architecture,
            "text.conditioning": model.text["conditioning"],
            "text.layers": model.text["layers"],
            "text.lr_multiplier": model.text["lr_multiplier"],
            **{f"model.generator.{name}": value for name, value in model.generator.items()},
        }
        seen = model.training.get("images_seen", 0)
        theirs = None
        if self.run is not None:
            theirs = Run(self.run).read_config()[0]
            if preset_file(theirs.arch, theirs.preset) is not None:  # not one of an older version
                found["preset"] = theirs.preset
        if theirs is None or Schedule(theirs, model.resolution).discriminator_trained(seen):
            found["schedule.warm_up_kimg"] = 0.0
        if self.checkpoint is not None and theirs is not None and model.resolution == resolution:
            kind = theirs.discriminator_kind
            options = {f"model.discriminator.{name}": value for name, value in theirs.discriminator.items()}
            found |= {"model.discriminator.kind": kind, **options}
        return found | self._growing(model, resolution)

    def _growing(self, model: ModelDescription, resolution: int) -> dict[str, Any]:
        """How the new run grows, where that is not left to the preset."""
        network, growth = get_architecture(model.architecture).generator, growth_of(model)
        if not network.grows:
            return {}
        grown = not growth.fades and growth.resolution >= min(resolution, model.resolution)
        if grown and (network.rgb_skips or growth.resolution >= resolution):
            return {"schedule.growing": False}
        if network.rgb_skips:
            return {}
        # A new resolution fades in: all of the image is drawn by the last one.
        side = growth.resolution // 2 if growth.fades else growth.resolution
        return {"schedule.growing": True, "schedule.stages": [{"resolution": min(side, resolution), "share": 1.0}]}

    def check(self, settings: TrainConfig, dataset: PreparedDataset) -> None:
        """Do they go together? Raises UsageError or UserError, one line."""
        model = self.describe()
        if TRAINED in (settings.text.encoder, model.text_encoder["name"]):
            raise UsageError(
                "--begin-with is for the frozen text encoder: the vocabulary of a trained one is its run's own"
            )
        here = {
            "arch": settings.arch, "conditioning": settings.text.conditioning, "text.layers": settings.text.layers,
            "text.lr_multiplier": settings.text.lr_multiplier, **settings.generator,
            "channels": dataset.form.channels, "aspect": "{}:{}".format(*dataset.form.aspect),
        }  # fmt: skip
        there = {
            "arch": model.architecture, "conditioning": model.text["conditioning"], "text.layers": model.text["layers"],
            "text.lr_multiplier": model.text["lr_multiplier"], **model.generator,
            "channels": model.form.channels, "aspect": "{}:{}".format(*model.form.aspect),
        }  # fmt: skip
        for name, value in here.items():
            if there.get(name, value) != value:
                raise UsageError(f"--begin-with {self.name}: its {name} is {there.get(name)}, here it is {value}")
        if model.text_encoder["sha256"] != dataset.text["sha256"]:
            raise UserError(
                f"{dataset.path} was prepared with another text encoder than {self.name} was trained with; "
                "prepare it with that one"
            )
        network = get_architecture(settings.arch).generator
        if model.resolution != dataset.resolution and not network.grows:
            raise UsageError(
                f"--begin-with {self.name}: {settings.arch} at {model.resolution} px cannot begin a run at "
                f"{dataset.resolution} px: its blocks are those of one size"
            )
        if network.grows and not network.rgb_skips:
            first = Schedule(settings, dataset.resolution).resolutions[0]
            drawn = [side for side in sides_of(model) if side <= growth_of(model).resolution]
            if first not in drawn:
                listed = ", ".join(map(str, drawn))
                raise UsageError(
                    f"--begin-with {self.name}: it draws at {listed} px, and the run begins at {first} px; let it grow "
                    "from what it draws at ([[schedule.stages]])"
                )


def find_source(name: str) -> Source:
    """What --begin-with names: a run (its newest whole snapshot), RUN@N, RUN@best, a model folder, "emoji".

    Raises UserError, one line, where there is nothing to begin with.
    """
    if is_run(Path(name)) and list_checkpoints(Path(name) / "checkpoints"):
        folder, _, _ = newest_checkpoint(Path(name) / "checkpoints", ours=False)
        model = folder / MODEL if (folder / MODEL).is_dir() else Path(name) / "model"  # of 0.1
        return Source(name, model, folder, Path(name))
    model = find_model(name)
    folder = model.parent
    owner = folder.parent.parent
    inside = model.name == MODEL and is_run(owner)
    whole = inside and (folder / "state.json").is_file()
    return Source(name, model, folder if whole else None, owner if inside else None)


def sides_of(model: ModelDescription) -> list[int]:
    """The resolutions that a model has a ToRGB for."""
    return sorted({*model.rgb_resolutions, model.resolution})


def growth_of(model: ModelDescription) -> Growth:
    """Where a model stands."""
    return growth_at(model.growth, sides_of(model))


def transfer(tensors: Mapping[str, Tensor], network: Generator, name: str) -> None:
    """Fill a generator from one of another resolution: upper blocks that it lacks are left out. New ones are silent
    where there are RGB skips, so that it draws what the other one does, resized; elsewhere they must fade in.
    Raises UserError, one line, where shapes differ.
    """
    wanted = network.state_dict()
    filled = {}
    for key, value in wanted.items():
        if key in tensors:
            if tensors[key].shape != value.shape:
                raise UserError(
                    f"--begin-with {name}: {key} is {tuple(tensors[key].shape)} there and {tuple(value.shape)} here"
                )
            filled[key] = tensors[key]
        elif network.rgb_skips and re.fullmatch(r"to_rgb\.\d+\.(conv\.weight|bias)", key):
            filled[key] = value.new_zeros(value.shape)  # a new resolution's image, which is added to the others
        else:
            filled[key] = value
    network.load_state_dict(filled)


def read_state(source: Source) -> dict[str, Any]:
    """state.json of a source's checkpoint, verified; of a model what its description says. Raises UserError."""
    if source.checkpoint is not None:
        return verify(source.checkpoint)
    training = read_json(source.model / "model_index.json", "model description").get("training", {})
    return {"images_seen": training.get("images_seen", 0)}
