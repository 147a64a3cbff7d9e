"""Runs of a few steps, and what they leave behind."""

import pytest
import torch

from t2i.config import validate
from t2i.models import get_architecture, list_architectures
from t2i.tensors import load_tensors
from t2i.training.checkpoint import list_checkpoints
from t2i.training.loop import train
from t2i.training.run import Run

CPU = torch.device("cpu")
# For what differs little from one to the next: one architecture in the quick suite, all of them in the slow one.
ONE_QUICKLY = [pytest.param(n, marks=() if n == "stylegan2" else pytest.mark.slow) for n in list_architectures()]
SMALL_ENCODER = {"vocabulary": 300, "width": 16, "layers": 2, "heads": 2, "feed_forward": 32}


def config(arch="dfgan", **changes):
    """Six steps at 16 px, through every stage of growing where the architecture grows."""
    architecture = get_architecture(arch)
    stages = [{"resolution": 8, "share": 0.4}, {"resolution": 16, "share": 0.6}] if architecture.grows else []
    settings = dict(
        arch=arch, batch=8, kimg=0.048, log_kimg=0.008, snapshot_kimg=0.016, lr_g=1e-3,
        growing=architecture.grows, stages=stages, model=architecture.smallest,
    )  # fmt: skip
    return validate({**architecture.defaults, **settings, **changes}).check()


def start(settings, data, root, **how):
    facts = {"name": data.name, "split": data.split, "resolution": data.resolution, "fingerprint": data.fingerprint}
    run = Run.create(root, settings, facts, "cpu")
    return run, train(settings, data, run, CPU, **how)


def final_tensors(run):
    folder = list_checkpoints(run.checkpoints)[-1]
    return {file.name: load_tensors(file) for file in folder.glob("*.safetensors")}


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].keys() == second[name].keys()
        for key in first[name]:
            assert torch.equal(first[name][key], second[name][key]), f"{name}: {key}"
