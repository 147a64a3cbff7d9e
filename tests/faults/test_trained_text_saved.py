"""A generator and the text encoder that trained with it: two files, and never one of them without the other."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from damage import killed_at, one_line
from short_runs import SMALL_ENCODER, config, start

from t2i import TextToImagePipeline
from t2i.errors import UserError
from t2i.tensors import hash_tensors


@pytest.fixture(scope="module")
def model(shapes_data, tmp_path_factory):
    return trained(shapes_data, tmp_path_factory)


@pytest.fixture(scope="module")
def another(shapes_data, tmp_path_factory):
    return trained(shapes_data, tmp_path_factory, vocabulary=280)


def trained(shapes_data, tmp_path_factory, **encoder) -> Path:
    text = {"text.encoder": "transformer", "text.transformer": {**SMALL_ENCODER, "layers": 1, **encoder}}
    settings = config(**{"schedule.kimg": 0.008, "run.snapshot_kimg": 1.0, **text})
    return start(settings, shapes_data, tmp_path_factory.mktemp("runs"))[0].model


def load(folder: Path) -> TextToImagePipeline:
    return TextToImagePipeline.from_pretrained(folder, device="cpu")


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


@pytest.mark.slow
def test_killed_at_every_call_of_a_save_the_folder_holds_one_model(model, another, tmp_path):
    """The model of a later snapshot in its place, and one with another vocabulary: one of them whole, or refused."""
    old, new, newest = later(model, 0), later(model, 1), load(another)

    def which(folder: Path) -> tuple[str, str] | None:
        try:
            return pair(load(folder))
        except UserError as error:
            assert one_line(error).startswith(str(folder))
            return None

    number, died, found = 0, True, []
    while died:
        number += 1
        folder = shutil.copytree(model, tmp_path / f"copy{number}")
        died = killed_at(number, lambda folder=folder: new.save_pretrained(folder))
        found.append(which(folder))
        killed_at(2 * number // 3 + 1, lambda folder=folder: newest.save_pretrained(folder))
        assert which(folder) in (None, pair(old), pair(new), pair(newest))
        newest.save_pretrained(folder)
        assert pair(load(folder)) == pair(newest)
        assert names(folder) == names(another)
        shutil.rmtree(folder)
    assert number > 12
    assert set(found) == {None, pair(old), pair(new)} and found[0] == pair(old) and found[-1] == pair(new)
    print(f"{number - 1} kill points")
