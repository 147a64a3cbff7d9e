"""A generator and the text encoder that trained with it: two files, and never one of them without the other."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from damage import killed_at

from t2i import TextToImagePipeline
from t2i import pipeline as module
from t2i.config import validate
from t2i.models import get_architecture
from t2i.tensors import hash_tensors
from t2i.training.loop import train
from t2i.training.run import Run

ENCODER = {"vocabulary": 300, "width": 16, "layers": 1, "heads": 2, "feed_forward": 32}


@pytest.fixture(scope="module")
def model(shapes_data, tmp_path_factory):
    return trained(shapes_data, tmp_path_factory)


def trained(shapes_data, tmp_path_factory, **encoder) -> Path:
    architecture = get_architecture("dfgan")
    settings = validate(
        {**architecture.defaults, "arch": "dfgan", "batch": 8, "kimg": 0.008, "lr_d": 1e-3, "precision": "fp32",
         "text_encoder": "transformer", "encoder": {**ENCODER, **encoder}, "model": architecture.smallest}
    ).check()  # fmt: skip
    facts = {"name": "shapes", "split": "train", "resolution": 16, "fingerprint": shapes_data.fingerprint}
    run = Run.create(tmp_path_factory.mktemp("runs"), settings, facts, "cpu")
    train(settings, shapes_data, run, torch.device("cpu"))
    return run.model


def load(folder: Path) -> TextToImagePipeline:
    return TextToImagePipeline.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def another(shapes_data, tmp_path_factory):
    return trained(shapes_data, tmp_path_factory, vocabulary=280)


def later(model: Path, by: int) -> TextToImagePipeline:
    """The model as a later snapshot would have it: other weights in both halves."""
    pipe = load(model)
    with torch.no_grad():
        for network in (pipe.generator, pipe.text_encoder.encoder):
            next(network.parameters()).add_(by)
    described = {**pipe.description.text_encoder, "sha256": pipe.text_encoder.sha256}
    pipe.description = dataclasses.replace(pipe.description, text_encoder=described)
    return pipe


def pair(pipe: TextToImagePipeline) -> tuple[str, str]:
    return hash_tensors(pipe.generator.state_dict()), pipe.text_encoder.sha256


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_killed_at_every_call_of_a_save_the_folder_holds_one_model(model, another, tmp_path):
    """The next snapshot of its run, and a model with another vocabulary."""
    old, new, newest = later(model, 0), later(model, 1), load(another)
    number, died = 0, True
    while died:
        number += 1
        folder = tmp_path / f"copy{number}"
        shutil.copytree(model, folder)
        died = killed_at(number, lambda folder=folder: new.save_pretrained(folder))
        assert pair(load(folder)) in (pair(old), pair(new))
        killed_at(2 * number // 3 + 1, lambda folder=folder: newest.save_pretrained(folder))
        assert pair(load(folder)) in (pair(old), pair(new), pair(newest))
        newest.save_pretrained(folder)
        assert pair(load(folder)) == pair(newest)
        assert names(folder) == names(another)
        shutil.rmtree(folder)
    assert number > 15
    print(f"{number - 1} kill points")


def test_a_model_that_is_replaced_while_it_is_loaded_is_loaded_whole(model, tmp_path, monkeypatch):
    folder, new, original = shutil.copytree(model, tmp_path / "model"), later(model, 1), module.load_text_encoder

    def replacing(*arguments):  # between the reading of the generator and that of its encoder
        monkeypatch.setattr(module, "load_text_encoder", original)
        new.save_pretrained(folder)
        return original(*arguments)

    monkeypatch.setattr(module, "load_text_encoder", replacing)
    assert pair(load(folder)) == pair(new)
