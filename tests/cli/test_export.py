"""`t2i export`: what other tools draw with the files is what t2i draws with the model."""

import json
import math
import re
import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from shape_captions import PROMPTS
from tokenizers import Tokenizer
from untrained import pipeline, trained_encoder

from t2i import export as module
from t2i.cli import run
from t2i.errors import UserError
from t2i.export import SMALL, export_onnx, pack
from t2i.models import list_architectures
from t2i.models.growing import Growth
from t2i.pipeline import TextToImagePipeline
from t2i.text.encoders import load_encoder

pytestmark = pytest.mark.usefixtures("one_encoder")


@pytest.fixture(scope="module")
def encoder():
    return trained_encoder()


def generated_elsewhere(folder, prompts, noise, truncation=1.0):
    """Images by onnxruntime and tokenizers, uint8 [N, R, R, 3]."""
    read = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(prompts)
    feeds = {
        "input_ids": np.array([caption.ids for caption in read], np.int64),
        "attention_mask": np.array([caption.attention_mask for caption in read], np.int64),
        "noise": noise.numpy(),
        "truncation": np.array(truncation, np.float32),
    }
    return InferenceSession(folder / "model.onnx").run(["images"], feeds)[0]


def assert_draws_the_same(pipe, folder, prompts, within=1):
    for truncation in (1, 0.6, 0):
        ours = pipe(prompts, seeds=[5], truncation_psi=truncation, output_type="np").images
        noise = torch.stack([pipe.sampler.noise(5)] * len(prompts))
        theirs = generated_elsewhere(folder, prompts, noise, truncation)
        assert theirs.dtype == np.uint8 and theirs.shape == ours.shape
        assert np.abs(theirs.astype(int) - ours).max() <= within  # rounding
        assert ours.std() > 1


@pytest.mark.slow
@pytest.mark.parametrize("arch", list_architectures())
def test_every_architecture_gives_the_same_images_as_onnx(arch, encoder, tmp_path):
    pipe = pipeline(arch, encoder)
    export_onnx(pipe, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "model.onnx", "tokenizer.json"]
    assert_draws_the_same(pipe, tmp_path, PROMPTS)  # of several lengths, the longest is cut
    assert_draws_the_same(pipe, tmp_path, ["a red circle"])


@pytest.mark.slow
def test_weights_in_sixteen_bits_are_half_the_size_and_draw_the_same(encoder, tmp_path):
    pipe = pipeline("stylegan2", encoder)
    export_onnx(pipe, tmp_path / "whole")
    export_onnx(pipe, tmp_path / "half", half=True)
    assert_draws_the_same(pipe, tmp_path / "half", PROMPTS, within=2)
    whole, half = (onnx.load(tmp_path / name / "model.onnx").graph.initializer for name in ("whole", "half"))
    large = {tensor.name: len(tensor.raw_data) for tensor in whole if math.prod(tensor.dims) >= SMALL}
    packed = {tensor.name.removesuffix(".packed"): len(tensor.raw_data) for tensor in half}
    assert large and all(packed[name] == size / 2 for name, size in large.items())


def test_a_weight_is_stored_in_the_nearest_sixteen_bits():
    values = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    exact = values.astype(np.float16).astype(np.float32)
    assert pack(exact)[1] is None and (pack(exact)[0] == exact).all()
    rows = values * 10.0 ** np.arange(-4, 4).repeat(8)[:, None].astype(np.float32)
    rows[3] = 0
    for value in (rows, rows.T, rows.reshape(64, 4, 4, 6)):
        packed, scale = pack(value)
        assert packed.dtype == np.int16 and scale.size in (64, 96)
        error = np.abs(packed * scale - value).max() / np.abs(value).max()
        assert error < 2e-5 and not np.any((packed * scale)[value == 0])
    assert np.isfinite(pack(values * 1e6)[0]).all()  # fp16 ends at 65504


@pytest.mark.slow
def test_a_generator_that_is_growing_and_sentence_conditioning_go_too(encoder, tmp_path):
    pipe = pipeline("stylegan", encoder, "sentence", rgb_resolutions=[8, 16, 32], growth=[16, 0.5])
    assert pipe.grown == Growth(16, 0.5)
    export_onnx(pipe, tmp_path)
    assert_draws_the_same(pipe, tmp_path, PROMPTS)


@pytest.mark.slow
def test_a_hugging_face_encoder_goes_too(tiny_bert, tmp_path):
    pipe = pipeline("dfgan", load_encoder(str(tiny_bert)))
    export_onnx(pipe, tmp_path)
    assert_draws_the_same(pipe, tmp_path, ["a red circle", "two dogs on a table", "a " * 20])


@pytest.mark.slow
def test_the_readme_gives_the_image_of_its_seed(tiny_run, tmp_path, monkeypatch, t2i):
    assert "model.onnx" in t2i("export", tiny_run, "--format", "onnx", "-o", tmp_path / "out")
    pipe = TextToImagePipeline.from_pretrained(tiny_run, device="cpu")
    assert_readme_draws(pipe, tmp_path / "out", monkeypatch)


@pytest.mark.slow
def test_so_it_does_where_a_caption_reads_like_a_special_token(encoder, tmp_path, monkeypatch):
    pipe = pipeline("dfgan", encoder)
    pipe.description.training["prompts"] = ["a red [PAD] circle"]
    export_onnx(pipe, tmp_path)
    assert_readme_draws(pipe, tmp_path, monkeypatch)


def assert_readme_draws(pipe, folder, monkeypatch):
    monkeypatch.chdir(folder)
    code = re.search(r"```python\n(.+?)```", (folder / "README.md").read_text(), re.S)[1]
    names: dict = {}
    exec(code, names)
    noise = np.random.default_rng(0).standard_normal((1, pipe.generator.z_dim), np.float32)
    condition = pipe.sampler.pool(pipe.encode(names["prompts"]))
    ours = next(pipe.sampler.draw(torch.from_numpy(noise), condition)).numpy()
    from PIL import Image

    assert np.abs(np.asarray(Image.open("000.png")).astype(int) - ours[0]).max() <= 1
    assert names["prompts"] == pipe.known_prompts[:1]


def test_half_precision_safetensors_are_a_model_of_half_the_size(tiny_run, tiny_model, t2i, here):
    sizes = json.loads(t2i("export", tiny_run, "--json"))
    folder = here / "t2i-export" / "safetensors"
    assert sizes["path"] == "t2i-export/safetensors"
    whole = (tiny_model / "generator" / "model.safetensors").stat().st_size
    assert 0.45 * whole < sizes["bytes"]["generator/model.safetensors"] < 0.55 * whole
    half, full = (
        TextToImagePipeline.from_pretrained(path, device="cpu")("a table", seeds=[0], output_type="np").images
        for path in (folder, tiny_run)
    )
    assert np.abs(half.astype(int) - full).max() < 8
    t2i("export", tiny_run)  # again: it is replaced


# ---- what can go wrong -----------------------------------------------------------------------------------------


def test_a_format_that_there_is_not(refused, tiny_run):
    refused(2, "--format is safetensors, onnx or web, not 'gguf'", "export", tiny_run, "--format", "gguf")


def test_an_option_of_another_format(refused, tiny_run):
    refused(2, "safetensors is in 16 bits anyway", "export", tiny_run, "--half")
    refused(2, "--runtime is for --format web", "export", tiny_run, "--format", "onnx", "--runtime", ".")


def test_a_folder_with_other_things_in_it_is_left_alone(refused, tiny_run, here):
    (here / "README.md").write_text("mine")
    for kind in ("safetensors", "onnx", "web"):
        refused(2, "not empty, and no earlier export", "export", tiny_run, "--format", kind, "-o", here)


def test_what_a_failed_export_left_does_not_stop_the_next_one(tiny_run, t2i, here):
    (here / "out" / "generator").mkdir(parents=True)
    assert "wrote out: " in t2i("export", tiny_run, "--format", "safetensors", "-o", "out")


def test_so_is_the_model_of_another_tool(refused, tiny_run, here):
    (here / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    refused(2, "not empty, and no earlier export", "export", tiny_run, "-o", here)


def test_a_model_is_not_exported_onto_itself(refused, tiny_run, tiny_model):
    refused(2, "is the model itself", "export", tiny_run, "-o", tiny_model)


def test_nor_is_the_newest_run_s_that_nobody_named(refused, tiny_run, tiny_model, here):
    (here / "runs").symlink_to(tiny_run.parent)
    place = here / "runs" / tiny_model.relative_to(tiny_run.parent)
    refused(2, "is the model itself", "export", "-o", place)


def test_without_the_packages_it_says_what_to_install(refused, tiny_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused(1, 'pip install "t2i[onnx]"', "export", tiny_run, "--format", "onnx")


@pytest.mark.slow
def test_a_model_that_onnx_has_no_words_for_is_one_line(encoder, tmp_path):
    pipe = pipeline("dfgan", encoder)
    pipe.generator.synthesis = lambda z, condition: z if z.sum() > 0 else condition
    with pytest.raises(UserError, match="cannot be written as ONNX") as caught:
        export_onnx(pipe, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_leaves_the_earlier_export(encoder, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    (tmp_path / "model.onnx").write_bytes(b"earlier")
    monkeypatch.setattr(module, "onnx_model", lambda *_: b"half")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="no space left"):
        export_onnx(pipeline("dfgan", encoder), tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.onnx", b"earlier")]


def test_the_built_in_model_is_there_by_its_name(here, t2i):
    assert run(["export", "emoji", "-o", "half"]) == 0
    assert TextToImagePipeline.from_pretrained(here / "half", device="cpu").resolution == 128


@pytest.mark.parametrize("place", ["new", "checkpoints/000000016/model", "checkpoints/000000016", "checkpoints/new"])
def test_a_run_is_no_place_for_an_export(refused, tiny_run, here, place):
    run = shutil.copytree(tiny_run, here / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    words = "not empty, and no earlier export" if place == "checkpoints/000000016" else "belongs to a run"
    refused(2, words, "export", run, "-o", run / place)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_an_export_has_no_text_encoder_of_an_earlier_one(tiny_run, t2i, here):
    t2i("export", tiny_run, "-o", "out")
    (here / "out" / "text_encoder").mkdir()
    (here / "out" / "text_encoder" / "model.safetensors").write_bytes(b"another model's")
    t2i("export", tiny_run, "-o", "out")
    assert (here / "out" / "text_encoder" / "model.safetensors").is_file()  # not ours to remove
    (here / "out" / "text_encoder" / "config.json").write_text('{"kind": "transformer"}')
    assert "text_encoder" not in t2i("export", tiny_run, "-o", "out")
    assert not (here / "out" / "text_encoder").exists()
