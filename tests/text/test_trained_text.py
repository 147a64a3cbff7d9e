"""A text encoder that trains with the GAN: what the original got wrong is tested here, end to end."""

import os
import subprocess
import sys

import pytest
import torch
from short_runs import CPU, ONE_QUICKLY, SMALL_ENCODER, config, start

from t2i import TextToImagePipeline
from t2i.errors import UserError
from t2i.tensors import load_tensors
from t2i.training.checkpoint import list_checkpoints
from t2i.training.loop import train

TRAINED = {"text_encoder": "transformer", "kimg": 0.016, "snapshot_kimg": 0.008, "contrastive": 1.0}


@pytest.fixture(scope="module", params=ONE_QUICKLY)
def run(request, shapes_data, tmp_path_factory):
    settings = config(request.param, growing=False, lr_d=1e-3, encoder=SMALL_ENCODER, **TRAINED)
    return start(settings, shapes_data, tmp_path_factory.mktemp("runs"))[0]


def test_every_weight_of_the_encoder_moves(run):
    """The original never gave its encoder to an optimiser."""
    before, after = (load_tensors(folder / "text_encoder.safetensors") for folder in list_checkpoints(run.checkpoints))
    assert before.keys() == after.keys()
    for name in before:
        assert not torch.equal(before[name], after[name]), name


@pytest.mark.slow
def test_a_prompt_draws_the_same_image_in_another_process(run):
    """The original rebuilt its vocabulary for each caption and drew a new random projection for each image."""
    code = (
        "import sys, hashlib; from t2i import TextToImagePipeline; "
        "pipe = TextToImagePipeline.from_pretrained(sys.argv[1], device='cpu'); "
        "print(hashlib.sha256(pipe('a red circle', seeds=[3], output_type='np').images.tobytes()).hexdigest())"
    )
    images = {
        subprocess.run(
            [sys.executable, "-c", code, str(run.model)], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(images) == 1


def test_prompts_are_told_apart(run):
    pipe = TextToImagePipeline.from_pretrained(run.model, device="cpu")
    red, blue = pipe.encode(["a red circle", "a blue circle"]).tokens
    assert not torch.allclose(red, blue, atol=1e-3)


def test_a_saved_copy_draws_the_same(run, tmp_path):
    pipe = TextToImagePipeline.from_pretrained(run.model, device="cpu")
    pipe.save_pretrained(tmp_path / "copy")
    copy = TextToImagePipeline.from_pretrained(tmp_path / "copy", device="cpu")
    first, second = (p("a red circle", seeds=[0], output_type="np").images for p in (pipe, copy))
    assert (first == second).all()


def test_another_models_encoder_is_refused(run, tmp_path):
    pipe = TextToImagePipeline.from_pretrained(run.model, device="cpu")
    with torch.no_grad():
        pipe.text_encoder.encoder.embedding.weight += 1
    pipe.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="not the encoder that the generator beside it was trained with"):
        TextToImagePipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("longest, cut", [(4, "288 of 288 captions are cut to 4 tokens"), (100, None)])
def test_captions_that_are_cut_are_said_once(longest, cut, shapes_data, tmp_path):
    said = []
    encoder = {**SMALL_ENCODER, "max_tokens": longest}
    settings = config(encoder=encoder, **TRAINED)
    asked = iter([False, True])
    run, _ = start(settings, shapes_data, tmp_path, say=said.append, stop=lambda: next(asked))
    train(settings, shapes_data, run, CPU, resume=True, say=said.append)
    assert [line[: len(cut or "")] for line in said if "cut to" in line] == [cut] * bool(cut)
