"""What t2i 0.1 left behind goes on: runs, models, data. make_old_runs.py wrote them with its code."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hash_encoder import HashEncoder
from short_runs import CPU, final_tensors, start

from t2i import TextToImagePipeline
from t2i.cli import run
from t2i.data.prepared import PreparedDataset
from t2i.errors import UsageError, UserError
from t2i.models.folder import load_model
from t2i.models.growing import Growth
from t2i.tensors import load_tensors, save_tensors
from t2i.text.frozen import pad_tokens
from t2i.training.begin_with import find_source
from t2i.training.checkpoint import load_checkpoint, part_file
from t2i.training.run import Run, settings_from
from t2i.training.settings import new_settings, resumed_settings
from t2i.training.text import make_text
from t2i.training.trainer import Trainer

ARCHIVE = Path(__file__).with_name("old_runs.tar.xz")
SEEN = {"dfgan": (32, 64), "stylegan": (24, 56)}  # images: as 0.1 left it, as it went on


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What 0.1 left. Read only."""
    root = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(root, filter="data")
    return root


@pytest.fixture(scope="module")
def old(left):
    return {folder.name.split("-")[1]: folder for folder in left.glob("0*")}


@pytest.fixture(scope="module")
def data(left):
    return PreparedDataset(left / "data")


@pytest.fixture(scope="module")
def resumed(left, old, tmp_path_factory):
    """The same runs after 32 images more."""
    folder = tmp_path_factory.mktemp("resumed")
    found = {arch: shutil.copytree(old[arch], folder / old[arch].name) for arch in old}
    for arch, path in found.items():
        kimg = str(SEEN[arch][1] / 1000)
        command = ["train", str(left / "data"), "--resume", str(path), "--kimg", kimg, "--device", "cpu"]
        assert run(command) == 0
    return found


@pytest.mark.parametrize("arch", SEEN)
def test_a_run_goes_on_as_it_would_have(arch, resumed, left):
    """rtol: what 0.1 made of it was written with 16 bits of mantissa, and processors round apart."""
    expected, found = load_tensors(resumed[arch] / "further.safetensors"), {}
    for name, tensors in final_tensors(Run(resumed[arch])).items():
        found |= {f"{name.removesuffix('.safetensors')}: {key}": value for key, value in tensors.items()}
    renamed = {name.replace(": typical", ": w_avg_samples"): value for name, value in expected.items()}
    assert renamed.keys() == {name for name in found if not name.startswith("optimizer")}
    if arch == "dfgan":  # MA-GP takes another gradient since: near, and no longer equal
        for name, value in renamed.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0.02, msg=name)
        return
    for name, value in renamed.items():
        # A softmax does not see a key's bias, nor AdaIN one: their gradients are rounding, of which Adam makes steps.
        if not name.endswith(("pooler.key.bias", "blocks.4.layer1.bias")):
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("arch", SEEN)
def test_its_models_draw_what_they_drew(arch, old, resumed):
    prompts = ["a red circle"] * 2
    for folder, seen in zip((old[arch], resumed[arch]), SEEN[arch]):
        pipe = TextToImagePipeline.from_pretrained(folder, "cpu")
        assert pipe.description.training["images_seen"] == seen
        text = pipe.encode(prompts) if arch == "dfgan" else pad_tokens(HashEncoder().encode(prompts))
        images = pipe.sampler.images(text, [0, 1]).numpy().astype(int)
        assert images.shape == (2, 16, 16, 3)
    assert np.abs(images - np.load(resumed[arch] / "drawn.npy")).max() <= 1


def test_a_model_that_was_saved_while_it_grew_stands_where_it_stood(old):
    generator, description, _ = load_model(old["stylegan"] / "model")
    assert generator.growth == Growth(16, 0.0) and description.rgb_resolutions == [8, 16]


@pytest.mark.parametrize("arch, snapshots", [("dfgan", [48, 64]), ("stylegan", [32, 48, 56])])
def test_its_snapshots_are_replaced_by_new_ones(arch, snapshots, resumed):
    """An old one has no model of its own."""
    folders = sorted((resumed[arch] / "checkpoints").iterdir())
    assert [int(path.name) for path in folders] == snapshots
    for path in folders:
        assert load_model(path / "model")[1].training["images_seen"] == int(path.name)


@pytest.mark.parametrize("arch", SEEN)
def test_info_knows_them(arch, old, capfd):
    seen = SEEN[arch][0]
    for path, kind in ((old[arch], "run"), (old[arch] / "model", "model"),
                       (old[arch] / "checkpoints" / f"{seen:09d}", "checkpoint")):  # fmt: skip
        assert run(["info", str(path), "--json"]) == 0
        facts = json.loads(capfd.readouterr().out)
        assert (facts["kind"], facts["architecture"], facts["images_seen"]) == (kind, arch, seen)


@pytest.mark.parametrize("name", ["{}", "{}/model"])
def test_a_run_begins_with_them(name, old, data, tmp_path):
    """With the whole of a run, with the generator of a model."""
    name, whole = name.format(old["stylegan"]), name == "{}"
    settings, _ = new_settings(data, {"begin_with": name, "preset": "small", "schedule.kimg": 0.016}, None, "cpu")
    find_source(name).check(settings, data)
    assert settings.schedule.growing and settings.generator == Run(old["stylegan"]).read_config()[0].generator
    began, _ = start(settings, data, tmp_path, stop=lambda: True)
    found, theirs = final_tensors(began), load_tensors(old["stylegan"] / "model" / "generator" / "model.safetensors")
    theirs["w_avg_samples"] = theirs.pop("typical")
    assert all(torch.equal(found["ema.safetensors"][key], value) for key, value in theirs.items())
    if whole:
        theirs = load_tensors(old["stylegan"] / "checkpoints" / "000000024" / "discriminator.safetensors")
        assert all(torch.equal(found["discriminator.safetensors"][key], value) for key, value in theirs.items())


def test_none_begins_with_a_text_encoder_that_was_trained(old, data):
    settings, _ = new_settings(data, {"begin_with": str(old["dfgan"])}, None, "cpu")
    with pytest.raises(UsageError, match="the vocabulary of a trained one is its run's own"):
        find_source(str(old["dfgan"])).check(settings, data)


@pytest.mark.parametrize("name", ["dfgan", "stylegan", "stylegan2", "stylegan2, projected"])
def test_every_part_of_a_checkpoint_has_the_tensors_that_it_had(name, left, data, tmp_path):
    """Also where it is called otherwise by now."""
    layout = json.loads((left / "layouts.json").read_text())[name]
    for part, shapes in layout["parts"].items():
        save_tensors(tmp_path / f"{part}.safetensors", {key: torch.full(shape, 0.5) for key, shape in shapes.items()})
    settings = settings_from(layout["settings"])
    trainer = Trainer(settings, data.resolution, make_text(settings, data, tmp_path, write=False), CPU)
    parts = dict(trainer.parts)
    if "noise_encoder" in layout["parts"]:  # it went with 0.1, and the run cannot be resumed
        del parts["optimizer_g"], layout["parts"]["noise_encoder"], layout["parts"]["optimizer_g"]
    assert {part_file(tmp_path, part).stem for part in parts} == set(layout["parts"])
    load_checkpoint(tmp_path, parts)
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            assert all((value == 0.5).all() for value in part.state_dict().values())
        else:
            states = part.state_dict()["state"]
            parameters = [parameter for group in part.param_groups for parameter in group["params"]]
            assert states.keys() == set(range(len(parameters)))
            assert [states[n]["exp_avg"].shape for n in sorted(states)] == [p.shape for p in parameters]


def test_a_run_trained_by_what_is_gone_is_not_resumed_but_one_begins_with_it(left, tmp_path):
    layout = json.loads((left / "layouts.json").read_text())["stylegan2"]
    (tmp_path / "config.json").write_text(json.dumps({"settings": layout["settings"], "data": {}}))
    with pytest.raises(UserError, match=r"was trained with likeness, noise_kl, gone since 0.2: .* --begin-with "):
        resumed_settings(Run(tmp_path), [], {}, None)
