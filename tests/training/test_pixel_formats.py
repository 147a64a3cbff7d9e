"""Runs on transparent, grey and not square images, and what their models draw."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from short_runs import ONE_QUICKLY, config, first_batch, new_trainer, start

from t2i.cli import run as t2i
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import PreparedDataset, find_validation
from t2i.data.records import Framing
from t2i.data.sources.shapes import ShapesSource
from t2i.errors import UserError
from t2i.evaluation.sampler import CaptionSampler
from t2i.pipeline import TextToImagePipeline
from t2i.pixels import PixelFormat
from t2i.text.encoders import load_encoder
from t2i.training.randomness import StepRandom
from t2i.training.run import Run
from t2i.training.scoring import held_out

FORMATS = {
    "rgba": PixelFormat("rgba"), "grey": PixelFormat("grey"), "3:2": PixelFormat("rgb", (3, 2)),
    "rgba 9:16": PixelFormat("rgba", (9, 16)),
}  # fmt: skip
FROZEN = {"model__discriminator__kind": "projected", "loss__adversarial__augment": []}


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_bert):
    """A data set of each of FORMATS, 24 images at 16 px, made once."""
    root, made, encoder = tmp_path_factory.mktemp("data"), {}, load_encoder(str(tiny_bert))

    def of(name):
        if name not in made:
            out = root / name.replace(" ", "-").replace(":", "x")
            source = ShapesSource(24, transparent=FORMATS[name].transparent)
            options = PrepareOptions(resolution=16, workers=1, framing=Framing(form=FORMATS[name]))
            prepare(source, out, encoder, options)
            made[name] = PreparedDataset(out)
        return made[name]

    return of


def pipeline(folder):
    return TextToImagePipeline.from_pretrained(folder, "cpu")


@pytest.mark.parametrize("arch", ONE_QUICKLY)
@pytest.mark.parametrize("name", FORMATS)
def test_a_model_draws_what_the_data_set_holds(arch, name, data, tmp_path):
    form = FORMATS[name]
    run, _ = start(config(arch), data(name), tmp_path)
    pipe = pipeline(run.model)
    assert pipe.description.form == form
    width, height = form.size(16)
    images = pipe(["a red circle", "a blue star"], seeds=[0, 1], output_type="np").images
    assert images.shape == (4, height, width, 4 if form.transparent else 3)
    if form.channels == "grey":
        assert (images[..., :1] == images).all()
    assert pipe("a red circle").images[0].size == (width, height)
    sheet = Image.open(next(run.samples.glob("0*.png")))
    assert sheet.mode == "RGB"
    # For scores, what networks see: squares on white.
    sampler = CaptionSampler.of_pipeline(pipe)
    assert sampler.prompts(["a red circle"], [0]).shape == (1, 16, 16, 3)
    sampler.check(data(name))


def test_a_frozen_backbone_sees_a_real_and_a_generated_image_on_the_same_background(data):
    trainer = new_trainer(data("rgba"), "stylegan2", **FROZEN)
    rng = StepRandom(0, 0, 8)
    nothing = torch.full((8, 4, 16, 16), -1.0)
    real, fake, later = (
        trainer.objective.augmented(nothing, numbers, kind)
        for numbers, kind in ((rng, "D real"), (rng, "G"), (StepRandom(0, 8, 8), "G"))
    )
    assert real.shape == (8, 3, 16, 16) and torch.equal(real, fake)
    backgrounds = real[:, :, 0, 0]
    assert (backgrounds == backgrounds[:, :1]).all() and backgrounds.abs().min() >= 0.7 and backgrounds.abs().max() <= 1
    assert (backgrounds > 0).any() and (backgrounds < 0).any()
    assert not torch.equal(fake, later)
    opaque = torch.cat([torch.rand(8, 3, 16, 16), torch.ones(8, 1, 16, 16)], dim=1)
    torch.testing.assert_close(trainer.objective.augmented(opaque, rng, "G"), opaque[:, :3])


@pytest.mark.parametrize("name", ["rgba", "grey"])
@pytest.mark.parametrize("arch", ["stylegan2", "stylegan", "dfgan"])
def test_a_discriminator_from_scratch_sees_the_channels_themselves(arch, name, data):
    """Alpha that is seen on a background alone can be painted: black for some noise and white for other."""
    trainer = new_trainer(data(name), arch, loss__adversarial__augment=[])
    images = first_batch(data(name)).images
    assert torch.equal(trainer.objective.augmented(images, StepRandom(0, 0, 8), "G"), images)
    trainer.discriminator.features(images.requires_grad_(True)).summary.square().sum().backward()
    assert (images.grad.abs().sum((0, 2, 3)) > 0).all()


def test_alpha_learns_from_what_a_frozen_backbone_sees(data):
    trainer = new_trainer(data("rgba"), "stylegan2", **FROZEN)
    images = first_batch(data("rgba")).images.requires_grad_(True)
    rng = StepRandom(0, 0, len(images))
    trainer.objective.augmented(images, rng, "G").square().sum().backward()
    assert images.shape[1] == 4 and (images.grad[:, 3].abs().sum((1, 2)) > 0).all()


def test_other_channels_and_other_shapes_do_not_mix(data, tmp_path):
    run, _ = start(config("stylegan2"), data("3:2"), tmp_path)
    with pytest.raises(UserError, match=r"images are 3:2, those of .* 1:1: prepare the data with --aspect 3:2"):
        CaptionSampler.of_pipeline(pipeline(run.model)).check(data("rgba"))
    settings = config("stylegan2", **{"eval.data": str(data("grey").path), "eval.every": 16})
    with pytest.raises(UserError, match=r"holds 16 px, grey, .* 16 px, rgba"):
        held_out(settings, data("rgba"))
    begun = config("stylegan2", begin_with=str(run.folder))
    from t2i.training.begin_with import find_source

    with pytest.raises(UserError, match="its channels is rgb, here it is rgba"):
        find_source(begun.begin_with).check(begun, data("rgba"))


def test_the_command_line_makes_transparent_icons(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        image = Image.new("RGBA", (30, 20), (0, 0, 0, 0))
        image.paste((20 * number, 90, 200, 255), (8, 4, 22, 16))
        image.save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"a box number {number}")
    prepare = [
        "prepare",
        "--images",
        ".",
        "--channels",
        "rgba",
        "--aspect",
        "6:4",
        "--resolution",
        "16",
        "--workers",
        "1",
    ]
    assert t2i([*prepare, "--val-fraction", "0.2"]) == 0
    said = capfd.readouterr().out
    train, val = sorted((tmp_path / "t2i-data").iterdir())
    assert train.name.endswith("-train-16-rgba-3x2") and "16 x 11 px, rgba" in said
    assert find_validation(PreparedDataset(train)).path == val
    assert t2i(["info", str(train), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["aspect"] == [3, 2]
    (tmp_path / "small.toml").write_text(
        "[model.generator]\nfmap_base = 16\nfmap_max = 8\n[model.discriminator]\nkind = 'stylegan2'\nfmap_base = 16\n"
        "fmap_max = 8\nmatch_width = 16\n[loss.energy]\nfeatures = 0.0\n[schedule]\nwarm_up_kimg = 0.0\n"
    )
    train_line = ["train", str(train), "--arch", "stylegan2", "--config", "small.toml", "--kimg", "0.016"]
    assert t2i([*train_line, "--batch", "8", "--lr-g", "0.001"]) == 0
    assert Run(next((tmp_path / "runs").iterdir())).model is not None
    capfd.readouterr()
    assert t2i(["generate", "a box", "-o", "a.png"]) == 0
    assert t2i(["generate", "a box", "-o", "b.png", "--background", "#ff8000"]) == 0
    assert t2i(["generate", "a box", "-o", "c.jpg"]) == 0
    assert t2i(["sample-grid", "a box", "-o", "grid.png"]) == 0
    alpha, laid, jpeg = (Image.open(name) for name in ("a.png", "b.png", "c.jpg"))
    assert alpha.mode == "RGBA" and alpha.size == laid.size == jpeg.size == (16, 11)
    expected = Image.alpha_composite(Image.new("RGBA", (16, 11), (255, 128, 0, 255)), alpha).convert("RGB")
    assert laid.mode == "RGB" and np.array_equal(np.asarray(laid), np.asarray(expected))
    assert alpha.text["prompt"] == "a box" and jpeg.mode == "RGB"
    assert t2i(["generate", "a box", "--background", "sky"]) == 2
    assert t2i(["generate", "a box", "--model", "emoji", "--background", "white"]) == 2
    assert "opaque" in capfd.readouterr().err


@pytest.mark.parametrize("options, said", [
    (["--channels", "cmyk"], "--channels 'cmyk': rgb, rgba, grey"),
    (["--aspect", "5:1"], "--aspect '5:1': width to height, such as 3:2 or 9:16, up to 4:1"),
    (["--aspect", "wide"], "--aspect 'wide'"),
    (["--channels", "rgba", "--background", "black"], "--channels rgba keeps transparent"),
    (["--fit", "pad"], "--fit, --background, --min-size and --follow-links say nothing of drawn shapes"),
])  # fmt: skip
def test_what_a_user_gets_wrong_is_one_line(options, said, capfd):
    assert t2i(["prepare", "--shapes", "8", *options]) == 2
    assert said in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_onnx_draws_the_same(name, data, tmp_path):
    from onnxruntime import InferenceSession

    from t2i.export import export_onnx

    run, _ = start(config("stylegan2"), data(name), tmp_path / "runs")
    pipe = pipeline(run.model)
    export_onnx(pipe, tmp_path / "onnx")
    text = pipe.text_encoder.tokenizer(["a red circle", "a table on a table"], padding=True, return_tensors="np")
    noise = torch.stack([pipe.sampler.noise(seed) for seed in (0, 1)])
    feeds = {
        "input_ids": text["input_ids"].astype(np.int64), "attention_mask": text["attention_mask"].astype(np.int64),
        "noise": noise.numpy(), "truncation": np.array(1, np.float32),
    }  # fmt: skip
    (drawn,) = InferenceSession(str(tmp_path / "onnx" / "model.onnx")).run(["images"], feeds)
    expected = [
        pipe(prompt, seeds=[seed], output_type="np").images[0]
        for seed, prompt in enumerate(["a red circle", "a table on a table"])
    ]
    assert np.abs(drawn.astype(int) - np.stack(expected)).max() <= 2
