"""Runs of a few steps, and what they leave behind."""

import json

import pytest
import torch

from t2i.aliases import rename_settings
from t2i.models import list_architectures
from t2i.tensors import load_tensors
from t2i.toml_tables import flatten
from t2i.training.checkpoint import list_checkpoints, part_file
from t2i.training.loading import BatchLoader
from t2i.training.loop import train
from t2i.training.randomness import StepRandom
from t2i.training.run import Run
from t2i.training.schedule import Schedule
from t2i.training.tables import config_from
from t2i.training.text import PreparedText
from t2i.training.trainer import Trainer

CPU = torch.device("cpu")
# For what differs little from one to the next: one architecture in the quick suite, all of them in the slow one.
ONE_QUICKLY = [pytest.param(n, marks=() if n == "stylegan2" else pytest.mark.slow) for n in list_architectures()]
SMALL_ENCODER = {"vocabulary": 300, "width": 16, "layers": 2, "heads": 2, "feed_forward": 32}
# The narrowest networks that still have every part.
SMALLEST = {
    "dfgan": {"model": {"generator": {"nf": 4}, "discriminator": {"nf": 4}}},
    "stylegan": {"model": {"generator": {"z_dim": 8, "w_dim": 16, "mapping_layers": 2, "fmap_base": 16, "fmap_max": 8},
                           "discriminator": {"fmap_base": 16, "fmap_max": 8}}},
    "stylegan2": {"model": {"generator": {"z_dim": 8, "w_dim": 16, "fmap_base": 16, "fmap_max": 8, "layout_mlp": 8},
                            "discriminator": {"fmap_base": 16, "fmap_max": 8, "match_width": 16}}},
}  # fmt: skip
R1 = {"loss.adversarial.kind": "logistic", "loss.penalty.kind": "r1", "loss.penalty.every": 16}
STYLEGAN = {"optim.beta2": 0.99, **R1}
PLAIN = {"dfgan": {"model.discriminator.gamma": 0.0}, "stylegan": STYLEGAN, "stylegan2": STYLEGAN}
STAGES = [{"resolution": 8, "share": 0.4}, {"resolution": 16, "share": 0.6}]


def grows(arch):
    return arch != "dfgan"


def smallest(arch):
    """{dotted name: value} of the narrowest networks of an architecture, with a token mixer."""
    return {**flatten(SMALLEST[arch]), "text.layers": 1}


def config(arch="dfgan", **changes):
    """Six steps at 16 px, through every stage of growing where the architecture grows.

    changes: settings by their dotted names, "__" for the dot; None leaves one out.
    """
    settings = {
        **PLAIN[arch], "loss.adversarial.augment": ["translation"],
        "arch": arch, "optim.batch": 8, "schedule.kimg": 0.048, "run.log_kimg": 0.008, "run.snapshot_kimg": 0.016,
        "optim.lr_g": 1e-3, "optim.lr_d": 4e-4, "schedule.growing": grows(arch),
        "schedule.stages": STAGES if grows(arch) else [], **smallest(arch),
    }  # fmt: skip
    changes = rename_settings(flatten({name.replace("__", "."): value for name, value in changes.items()}))
    if changes.get("model.discriminator.kind", arch) != arch:  # another discriminator has other options
        settings = {name: value for name, value in settings.items() if not name.startswith("model.discriminator.")}
    return config_from({name: value for name, value in {**settings, **changes}.items() if value is not None})


def start(settings, data, root, **how):
    run = Run.begin(root, settings, data, CPU)
    return run, train(settings, data, run, CPU, **how)


def logged(run):
    """The lines of its metrics.jsonl."""
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def final_tensors(run, folder=None):
    """Part -> its tensors, of the last checkpoint, or of another; the averages too."""
    folder = folder or list_checkpoints(run.checkpoints)[-1]
    found = {file.stem: load_tensors(file) for file in folder.glob("*.safetensors")}
    found["ema"] = load_tensors(part_file(folder, "ema"))
    if (encoder := part_file(folder, "text_encoder_ema")).is_file():
        found["text_encoder_ema"] = load_tensors(encoder)
    return {f"{name}.safetensors": tensors for name, tensors in found.items()}


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].keys() == second[name].keys()
        for key in first[name]:
            assert torch.equal(first[name][key], second[name][key]), f"{name}: {key}"


# ---- without a run ----


def new_trainer(data, arch="dfgan", **changes):
    """One that has taken no step; changes: of `config`."""
    channels = data.form.count
    return Trainer(config(arch, **changes), data.resolution, PreparedText(data), CPU, channels=channels)


def first_batch(data, count=8, text=None, **how):
    """The images that a run begins with. how: as BatchLoader takes it."""
    loader = BatchLoader(data, text or PreparedText(data), 0, "cpu", **how)
    batch = loader.load(0, count)
    loader.close()
    return batch


def plan_of(settings, images_seen, resolution=16):
    return Schedule(settings, resolution).plan(images_seen)


def take_step(trainer, batch, number=0):
    """The number-th step of a run, on this batch."""
    images_seen = number * len(batch)
    plan = plan_of(trainer.config, images_seen, trainer.resolution)
    trainer.step(plan, batch, StepRandom(trainer.config.run.seed, images_seen, len(batch)))
