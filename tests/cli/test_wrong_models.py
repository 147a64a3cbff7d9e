"""Models that are none, or damaged, and options of generate and sample-grid: one line, the right exit code."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from t2i.cli import run
from t2i.files import sha256


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no prompt: t2i generate"),
        ([""], "empty"),
        ([" \t "], "empty"),
        (["a table", ""], "empty"),
        (["a table", "--num", "0"], "--num"),
        (["a table", "--seed", "-1"], "--seed"),
        (["a table", "--seed", "9" * 30], "--seed"),
        (["a table", "--batch", "0"], "--batch"),
        (["a table", "--truncation", "nan"], "--truncation nan"),
        (["a table", "--seeds", "1", "--num", "2"], "--seeds excludes"),
        (["a table", "-o", "out.gif"], ".gif"),
        (["a table", "-o", "out.mp4"], ".mp4"),
        (["a table", "--device", "abacus"], "--device abacus"),
        (["a table", "--device", "cuda:99"], "--device cuda:99"),
        *((["a table", "--seeds", seeds], "--seeds") for seeds in ("a", "7-3", "", "0-", "-1", "1,,2", "9" * 5000)),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else None,
)
def test_generate_options_that_make_no_sense(refused, tiny_run, options, words):
    refused(2, words, "generate", *options, "--model", tiny_run)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([""], "empty"),
        (["--cols", "0"], "--cols"),
        (["--cols", "99999999"], "--cols"),
        (["--cols", "9000", "--rows", "2", "a", "b"], "over the limit of 100 megapixels"),
        (["--seeds", ""], "--seeds"),
        (["--truncation", "inf"], "--truncation inf"),
        (["a", "--interpolate", "a", "b"], "--interpolate"),
        (["--interpolate", "a", ""], "empty"),
        (["--interpolate", "a", "b", "--cols", "1"], "--cols"),
        (["--interpolate", "a", "b", "--rows", "2", "--seeds", "5"], "--seeds excludes --rows"),
        (["--cols", "2", "--seeds", "5"], "--seeds excludes --cols"),
        (["--style-mixing", "--cols", "2", "--seeds", "5"], "--seeds excludes --cols"),
        (["--style-mixing", "a", "b", "c"], "--style-mixing takes one prompt"),
        (["--style-mixing", "--truncation-sweep"], "--style-mixing excludes --truncation-sweep"),
        (["--truncation-sweep", "--cols", "2"], "--truncation-sweep excludes --cols"),
        (["--truncation-sweep", "--truncation", "0.5"], "--truncation-sweep excludes --truncation"),
        (["--truncation-sweep", "--seeds", "1,2"], "--truncation-sweep takes one seed"),
        (["-o", "grid.gif"], ".gif"),
        (["-o", "grid"], "suffix"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else None,
)
def test_sample_grid_options_that_make_no_sense(refused, tiny_run, options, words):
    refused(2, words, "sample-grid", *options, "--model", tiny_run)


@pytest.mark.parametrize(
    "content", [None, b"", b"\n \n", b"\xff\xfe\x00\x80"], ids=["missing", "empty", "blank", "binary"]
)
def test_a_prompts_file_that_is_none(refused, here, tiny_run, content):
    if content is not None:
        (here / "prompts.txt").write_bytes(content)
    for command in ("generate", "sample-grid"):
        refused(1, "prompts.txt", command, "--prompts", "prompts.txt", "--model", tiny_run)


def test_a_prompt_of_10000_characters_gives_an_image_and_one_warning(here, capfd, tiny_run):
    assert run(["generate", "a red table " * 833 + "yes", "--model", str(tiny_run), "-o", "out.png"]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("t2i: warning: the prompt was cut to 128 tokens")
    assert Image.open("out.png").size == (16, 16)


def test_a_prompt_of_bytes_that_are_no_text_gives_an_image(here, capfd, tiny_run):
    assert run(["generate", "a \udcff table", "--model", str(tiny_run), "-o", "out.png"]) == 0
    assert capfd.readouterr().err == ""


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _edit_training(folder, **values):
    facts = json.loads((folder / "model_index.json").read_text())["training"]
    _edit(folder / "model_index.json", training={**facts, **values})


def _edit_text(folder, **values):
    facts = json.loads((folder / "generator" / "config.json").read_text())["text"]
    _edit(folder / "generator" / "config.json", text={**facts, **values})


def _write_weights(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """As another tool would: with their hash."""
    save_file(tensors, folder / "generator" / "model.safetensors")
    _edit(folder / "model_index.json", weights_sha256=sha256(folder / "generator" / "model.safetensors"))


def _drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "generator" / "model.safetensors")
    tensors.pop(sorted(tensors)[0])
    _write_weights(folder, tensors)


def _reshape_tensor(folder: Path) -> None:
    tensors = load_file(folder / "generator" / "model.safetensors")
    _write_weights(folder, {**tensors, sorted(tensors)[0]: np.zeros(3, np.float32)})


def _truncate(folder: Path) -> None:
    path = folder / "generator" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "truncated weights": (_truncate, "model.safetensors"),
    "no weights": (lambda f: (f / "generator" / "model.safetensors").unlink(), "model.safetensors"),
    "weights of 0 bytes": (lambda f: (f / "generator" / "model.safetensors").write_bytes(b""), "model.safetensors"),
    "a tensor missing": (_drop_tensor, "does not fit"),
    "a tensor of another shape": (_reshape_tensor, "does not fit"),
    "another architecture": (lambda f: _edit(f / "generator" / "config.json", architecture="vqgan"), "vqgan"),
    "another class": (lambda f: _edit(f / "model_index.json", _class_name="StableDiffusionPipeline"), "Stable"),
    "a later format": (lambda f: _edit(f / "model_index.json", format=99), "format 99"),
    "no text encoder": (lambda f: _edit(f / "model_index.json", text_encoder=None), "text_encoder"),
    "an index that is no JSON": (lambda f: (f / "model_index.json").write_text("{"), "model_index.json"),
    "an index that is a list": (lambda f: (f / "model_index.json").write_text("[]"), "model_index.json"),
    "no config": (lambda f: (f / "generator" / "config.json").unlink(), "config.json"),
    "a garbage config": (lambda f: (f / "generator" / "config.json").write_bytes(b"\x00\xff"), "config.json"),
    "an empty config": (lambda f: (f / "generator" / "config.json").write_text("{}"), "does not fit"),
    "a foreign config": (lambda f: (f / "generator" / "config.json").write_text('{"sample_size": 64}'), "does not fit"),
    "images seen that are none": (lambda f: _edit_training(f, images_seen=None), "images_seen"),
    "prompts that are none": (lambda f: _edit_training(f, prompts={"a": 1}), "prompts"),
    "a prompt that is none": (lambda f: _edit_training(f, prompts=["a", 1]), "prompts"),
    "licences that are a list": (lambda f: _edit_training(f, licences=["MIT"]), "licences"),
    "resolution a text": (lambda f: _edit(f / "generator" / "config.json", resolution="64"), "resolution"),
    "resolution 0": (lambda f: _edit(f / "generator" / "config.json", resolution=0), "resolution"),
    "resolution 2^40": (lambda f: _edit(f / "generator" / "config.json", resolution=2**40), "resolution"),
    "unknown conditioning": (lambda f: _edit_text(f, conditioning="magic"), "magic"),
    "layers a text": (lambda f: _edit_text(f, layers="1"), "text.layers"),
    "no text": (lambda f: _edit(f / "generator" / "config.json", text=None), "text"),
    "unknown option": (lambda f: _edit(f / "generator" / "config.json", generator={"depth": 3}), "depth"),
    "options a list": (lambda f: _edit(f / "generator" / "config.json", generator=[]), "generator"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_model(refused, here, tiny_model, damage):
    shutil.copytree(tiny_model, here / "model")
    spoil, words = DAMAGES[damage]
    spoil(here / "model")
    refused(1, words, "generate", "a table", "--model", "model")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no such model"),
        ("note.txt", "this is a file"),
        ("weights.pt", "never loaded"),
        ("weights.ckpt", "never loaded"),
        ("data set", "prepared data set"),
        ("checkpoint", "this is a checkpoint of an older t2i"),
        ("empty", "model_index.json"),
    ],
)
def test_a_model_that_is_something_else(refused, here, minilm_data, kind, words):
    (here / "note.txt").write_text("hello")
    (here / "weights.pt").write_bytes(b"\x80\x04")
    (here / "weights.ckpt").write_bytes(b"\x80\x04")
    (here / "empty").mkdir()
    (here / "checkpoint").mkdir()
    (here / "checkpoint" / "state.json").write_text("{}")
    model = minilm_data if kind == "data set" else kind
    refused(1, words, "generate", "a table", "--model", model)
    refused(1, words, "sample-grid", "a table", "--model", model)


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("7", "run@7: there is no such snapshot; there are 0, 16, 32, 48"),
        ("last", "run@last: there is no such snapshot; there are 0, 16, 32, 48"),
        ("best", "run@best: none of its snapshots was scored; t2i train --eval-every scores them"),
    ],
)
def test_a_snapshot_that_there_is_not(refused, here, tiny_run, which, words):
    shutil.copytree(tiny_run, here / "run")
    for command in (["generate", "a table", "--model"], ["export"], ["info"]):
        refused(1, words, *command, f"run@{which}")
    shutil.rmtree(here / "run" / "checkpoints" / "000000048")
    (here / "run" / "best.json").write_text('{"snapshot": 48}')
    refused(1, words.replace(", 48", ""), "generate", "a table", "--model", f"run@{which}")


def test_a_run_without_a_snapshot(refused, here, tiny_run):
    (here / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(tiny_run / "config.json", here / "run")
    refused(1, "run@16: there is no such snapshot; there are none", "generate", "a table", "--model", "run@16")
    refused(1, "no model here", "generate", "a table", "--model", "run")
