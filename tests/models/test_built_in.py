"""The built-in model: there without a run, small, licensed, and it does what is asked."""

import argparse
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2i import TextToImagePipeline, generate_image_from_text
from t2i.cli import run
from t2i.data.prepared import PreparedDataset
from t2i.models.find import find_model
from t2i.training.settings import new_settings

SCRIPTS = Path(__file__).parents[2] / "scripts"
COLOURS = {
    "a red heart": (221, 46, 68), "a green heart": (120, 177, 89), "a blue heart": (66, 150, 230),
    "a purple heart": (150, 90, 200), "a yellow heart": (253, 203, 88), "an orange heart": (244, 144, 12),
}  # fmt: skip


@pytest.fixture(scope="module")
def pipe():
    return TextToImagePipeline.from_pretrained(device="cpu")


def test_without_a_run_generate_uses_it_and_says_so(tmp_path, monkeypatch, capfd, pipe):
    monkeypatch.chdir(tmp_path)
    assert run(["generate", "a red apple", "-o", "out.png"]) == 0
    said = capfd.readouterr()
    assert "model: emoji (built in; no run here has a model; choose another with --model)" in said.out
    assert said.err == ""
    image = np.asarray(Image.open("out.png"))
    assert image.shape == (pipe.resolution, pipe.resolution, 3)
    assert np.array_equal(image, np.asarray(pipe("a red apple", seeds=[0]).images[0]))
    assert np.array_equal(image, np.asarray(generate_image_from_text("a red apple")))
    assert run(["sample-grid", "--rows", "1", "--cols", "1"]) == 0 and Path("grid.png").is_file()


def test_it_has_a_name_but_a_model_that_lies_there_comes_first(tmp_path, tiny_run, monkeypatch, capfd, pipe):
    monkeypatch.chdir(tmp_path)
    assert run(["generate", "a red apple", "-o", "out.png", "--model", "emoji"]) == 0
    assert run(["info", "emoji"]) == 0
    assert "CC BY 4.0" in capfd.readouterr().out
    Path("emoji").mkdir()  # somebody's images
    assert TextToImagePipeline.from_pretrained("emoji", "cpu").weights_sha256 == pipe.weights_sha256
    shutil.copytree(find_model(tiny_run), "emoji", dirs_exist_ok=True)
    assert TextToImagePipeline.from_pretrained("emoji", "cpu").resolution == 16
    assert TextToImagePipeline.from_pretrained(device="cpu").weights_sha256 == pipe.weights_sha256


def test_it_is_small_and_its_card_names_the_licences():
    folder = find_model("emoji")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 25e6
    card = (folder / "README.md").read_text()
    assert all(name in card for name in ("Noto", "Twemoji", "Fluent", "Apache-2.0", "CC BY 4.0", "MIT"))


@pytest.mark.parametrize("prompt", COLOURS)
def test_images_have_the_colour_of_their_prompt(prompt, pipe):
    """Of the six, the colour asked for is the nearest to that of the image, the page left out, with most seeds."""
    images = pipe(prompt, seeds=range(8), output_type="np").images.astype(float)
    names, colours = list(COLOURS), np.array(list(COLOURS.values()), float)
    right = 0
    for image in images:
        own = image[image.min(axis=2) < 200]
        right += len(own) > 0 and names[np.linalg.norm(colours - own.mean(0), axis=1).argmin()] == prompt
    assert right >= 6


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("emoji_model", SCRIPTS / "emoji_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_scripts_that_trained_it_can_be_started(minilm_data, tmp_path, script):
    for name, device in (("emoji_model.toml", "cpu"), ("emoji_model_gpu.toml", "cuda")):
        settings, _ = new_settings(PreparedDataset(minilm_data), {}, SCRIPTS / name, device)
        assert "energy" in settings.terms and settings.discriminator_kind == "projected"
    script.page(argparse.Namespace(out=tmp_path / "page.png"))
    width, height = Image.open(tmp_path / "page.png").size
    assert width > 10 * 64 and height > 10 * 64


def test_a_model_is_packed_with_some_of_what_it_began_with(tmp_path, tiny_run, monkeypatch, script):
    monkeypatch.setattr(script, "BUILT_IN", tmp_path / "packed")
    pipe = TextToImagePipeline.from_pretrained(tiny_run, "cpu")
    before = {name: value.clone() for name, value in pipe.generator.named_parameters()}
    with torch.no_grad():
        for value in pipe.generator.parameters():
            value *= 3
    pipe.save_pretrained(tmp_path / "after")
    script.pack(argparse.Namespace(work=tmp_path / "after", begun_with=tiny_run, share=0.25))
    packed = TextToImagePipeline.from_pretrained(tmp_path / "packed", "cpu")
    for name, value in packed.generator.named_parameters():
        torch.testing.assert_close(value, 2.5 * before[name], rtol=1e-3, atol=1e-4)
    assert packed.description.training["images_seen"] == 2 * pipe.description.training["images_seen"]
    assert "Twemoji" in (tmp_path / "packed" / "README.md").read_text()
