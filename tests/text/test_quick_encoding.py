"""Captions in bf16 where the processor has it: near those in fp32, recorded; encoders that lie in a folder."""

import json
import shutil

import numpy as np
import pytest
import torch

from t2i.cli import run
from t2i.errors import UserError
from t2i.models.folder import load_model
from t2i.pipeline import TextToImagePipeline
from t2i.text import frozen
from t2i.text.encoders import load_encoder, load_recorded

CAPTIONS = ["a red circle", "the petals are yellow and the stamen is long", "two dogs on a table", "a", "日本"] * 3


@pytest.fixture
def bf16(monkeypatch):
    """A processor that has it, whatever this one is: the arithmetic is the same, only slower."""
    monkeypatch.setattr(frozen, "has_quick_bf16", lambda device: True)


def test_bf16_is_near_fp32_and_the_same_on_every_run(bf16):
    exact, quick, again = load_encoder(), load_encoder("minilm", "cpu", True), load_encoder("minilm", "cpu", True)
    assert quick.describe() == {**exact.describe(), "precision": "bf16"}
    for one, two, three in zip(exact.encode(CAPTIONS), quick.encode(CAPTIONS), again.encode(CAPTIONS)):
        assert two.dtype == np.float16 and np.array_equal(two, three)
        assert np.linalg.norm(one.astype(np.float32) - two) < 0.015 * np.linalg.norm(one.astype(np.float32))


def test_hub_encoders_are_quickened_too(bf16, tiny_bert):
    exact, quick = load_encoder(str(tiny_bert)), load_encoder(str(tiny_bert), "cpu", True)
    assert quick.sha256 == exact.sha256 and quick.precision == "bf16"
    for one, two in zip(exact.encode(["a red circle"]), quick.encode(["a red circle"])):
        assert 0 < np.abs(one.astype(np.float32) - two).max() < 0.05


def test_without_bf16_nothing_changes(monkeypatch):
    monkeypatch.setattr(frozen, "has_quick_bf16", lambda device: False)
    exact, same = load_encoder(), load_encoder("minilm", "cpu", True)
    assert same.describe() == exact.describe()
    assert all(map(np.array_equal, exact.encode(CAPTIONS), same.encode(CAPTIONS)))


@pytest.mark.parametrize("there", [True, False])
def test_prepare_records_the_precision(there, monkeypatch, here, capfd):
    monkeypatch.setattr(frozen, "has_quick_bf16", lambda device: there)
    call = ["prepare", "--shapes", "8", "--val-fraction", "0", "--resolution", "16", "--workers", "1", "--out", "o"]
    assert run(call) == 0
    text = json.loads((here / "o/dataset.json").read_text())["text"]
    if text.get("device"):
        pytest.skip("there is a GPU here")
    assert text.get("precision") == ("bf16" if there else None)
    assert "captions: 0 of" in capfd.readouterr().out


def test_an_encoder_in_a_folder_is_found_wherever_it_lies_by_its_hash(tiny_bert, here, capfd):
    shutil.copytree(tiny_bert, here / "enc/mine")
    call = ["prepare", "--shapes", "16", "--val-fraction", "0", "--resolution", "16", "--workers", "1", "--out", "data"]
    assert run([*call, "--text-encoder", "enc/mine"]) == 0
    text = json.loads((here / "data/dataset.json").read_text())["text"]
    assert (text["name"], text["folder"], text["sha256"]) == ("enc/mine", True, load_encoder(str(tiny_bert)).sha256)
    (here / "tiny.toml").write_text(
        'arch = "dfgan"\npreset = "small"\n[model]\ngenerator.nf = 4\ndiscriminator.nf = 4\n'
    )
    train = ["train", "data", "--kimg", "0.008", "--batch", "8", "--config", "tiny.toml", "--out", "runs"]
    assert run([*train, "--device", "cpu"]) == 0
    (folder,) = (here / "runs").iterdir()
    shutil.move(here / "enc", here / "elsewhere")
    capfd.readouterr()
    draw = ["generate", "a red circle", "--model", str(folder), "--device", "cpu", "--out", "out.png"]
    assert run(draw) == 1
    errors = capfd.readouterr().err
    assert "was a folder, 'enc/mine', which is not here: give it with --text-encoder DIR" in errors
    assert run([*draw, "--text-encoder", "elsewhere/mine"]) == 0 and (here / "out.png").is_file()
    pipe = TextToImagePipeline.from_pretrained(folder, "cpu", text_encoder=here / "elsewhere/mine")
    state = torch.random.get_rng_state()
    assert pipe.text_encoder.width == 16
    other = shutil.copytree(tiny_bert, here / "other")
    from transformers import BertModel

    model = BertModel.from_pretrained(other)
    torch.nn.init.ones_(model.pooler.dense.weight)
    model.save_pretrained(other)
    with pytest.raises(UserError, match="is not the one that this model was trained with"):
        load_recorded(pipe.description.text_encoder, "cpu", other)
    torch.random.set_rng_state(state)
    _ = TextToImagePipeline.from_pretrained(folder, "cpu", text_encoder=here / "elsewhere/mine").text_encoder
    assert torch.equal(state, torch.random.get_rng_state())
    assert load_model(pipe_folder(folder))[1].text_encoder["folder"] is True


def pipe_folder(folder):
    from t2i.models.find import find_model

    return find_model(folder)
