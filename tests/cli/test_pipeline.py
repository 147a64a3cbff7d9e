"""TextToImagePipeline: the same pixels alone, in company and after a round trip; strict loading."""

import functools
import itertools
import json
import os
import pickletools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.errors import UsageError, UserError
from t2i.files import sha256
from t2i.models.find import find_model, model_name
from t2i.pipeline import TextToImagePipeline
from t2i.tensors import load_tensors, noise_of_seed, save_tensors
from t2i.text.encoders import load_encoder

PROMPTS = [
    "a table",
    "a large red circle left of a small blue square, both on a plain white background",
    "a chair",
    "x",
    "a small yellow star on a grey background",
    "green",
    "a heart",
    "three purple triangles in the upper right corner of a black background",
    "a dog",
]


@pytest.fixture(scope="module")
def pipe(tiny_model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("t2i.text.encoders.load_encoder", functools.cache(load_encoder))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # images this small only wait for other threads
        yield TextToImagePipeline.from_pretrained(tiny_model, device="cpu")
        torch.set_num_threads(threads)


def draw(pipe: TextToImagePipeline, *arguments, **options) -> np.ndarray:
    return pipe(*arguments, output_type="np", **options).images


# ---- the same image --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_images_are_the_same_alone_and_in_a_batch(pipe, count):
    together = draw(pipe, PROMPTS[:count], seeds=[3])
    for prompt, image in zip(PROMPTS, together):
        assert np.array_equal(draw(pipe, prompt, seeds=[3])[0], image)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_a_seed_gives_the_same_image_whatever_its_company(pipe, count):
    together = draw(pipe, "a table", seeds=range(count))
    assert len(together) == count
    for seed in {0, count // 2, count - 1}:
        assert np.array_equal(draw(pipe, "a table", seeds=[seed])[0], together[seed])


def test_a_generator_gives_what_its_seed_gives(pipe):
    for seed in (0, 7):
        seeded = draw(pipe, "a table", generator=torch.Generator().manual_seed(seed))
        assert np.array_equal(seeded, draw(pipe, "a table", seeds=[seed]))


def test_a_generator_goes_on_and_none_draws_afresh(pipe):
    generator = torch.Generator().manual_seed(1)
    first, second = (draw(pipe, "a table", generator=generator) for _ in range(2))
    assert not np.array_equal(first, second)
    assert not np.array_equal(draw(pipe, "a table"), draw(pipe, "a table"))


def test_images_of_a_prompt_lie_together(pipe):
    images = draw(pipe, ["a table", "a chair"], seeds=[4, 5, 6])
    assert len(images) == 6
    assert np.array_equal(images[4], draw(pipe, "a chair", seeds=[5])[0])
    assert len(draw(pipe, ["a table", "a chair"], num_images_per_prompt=3)) == 6


def test_white_space_does_not_matter_and_words_do(pipe):
    assert np.array_equal(draw(pipe, " a \n table ", seeds=[0]), draw(pipe, "a table", seeds=[0]))
    assert not np.array_equal(draw(pipe, "a red circle", seeds=[0]), draw(pipe, "a table", seeds=[0]))


def test_output_types(pipe):
    (image,) = pipe("a table", seeds=[0]).images
    array, tensor = draw(pipe, "a table", seeds=[0]), pipe("a table", seeds=[0], output_type="pt").images
    assert isinstance(image, Image.Image) and (image.mode, image.size) == ("RGB", (16, 16))
    assert (array.dtype, array.shape) == (np.uint8, (1, 16, 16, 3))
    assert (tensor.dtype, tensor.shape) == (torch.float32, (1, 3, 16, 16))
    assert np.array_equal(np.asarray(image), array[0])
    assert torch.equal(tensor, torch.from_numpy(array).permute(0, 3, 1, 2) / 255)
    with pytest.raises(UsageError, match="output_type"):
        pipe("a table", output_type="latent")


def test_arguments_that_make_no_sense(pipe):
    for prompt in ("", " \n", [], ["a table", ""]):
        with pytest.raises(UsageError, match=r"empty|no prompt"):
            pipe(prompt)
    for options in (
        {"seeds": []}, {"seeds": [-1]}, {"seeds": 3}, {"seeds": [1.5]}, {"seeds": ["x"]},
        {"num_images_per_prompt": 0}, {"num_images_per_prompt": 1.5},
        {"truncation_psi": "x"}, {"truncation_psi": float("nan")}, {"truncation_psi": None},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            pipe("a table", **options)


def test_seeds_may_be_numpys(pipe):
    images = [pipe("a table", seeds=seeds, output_type="np").images for seeds in ([2, 3], np.arange(2, 4))]
    assert np.array_equal(*images)


# ---- files -----------------------------------------------------------------------------------------------------


def test_a_round_trip_draws_the_same_pixels(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    again = TextToImagePipeline.from_pretrained(tmp_path / "model", device="cpu")
    again._text_encoder = pipe.text_encoder
    assert np.array_equal(draw(again, PROMPTS[:3], seeds=[0]), draw(pipe, PROMPTS[:3], seeds=[0]))
    assert again.description == pipe.description
    again.save_pretrained(tmp_path / "twice")
    for name in ("generator/model.safetensors", "generator/config.json", "model_index.json"):
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_half_precision_weights_take_half_the_room_and_draw_nearly_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "whole")
    pipe.save_pretrained(tmp_path / "half", torch.float16)
    sizes = [(tmp_path / name / "generator/model.safetensors").stat().st_size for name in ("whole", "half")]
    assert 0.5 <= sizes[1] / sizes[0] < 0.55
    again = TextToImagePipeline.from_pretrained(tmp_path / "half", device="cpu")
    assert {value.dtype for value in again.generator.state_dict().values()} == {torch.float32}
    images = [draw(model, PROMPTS[:4], seeds=[3]).astype(int) for model in (pipe, again)]
    assert np.abs(images[0] - images[1]).max() <= 4  # of 255
    assert np.abs(images[0] - images[1]).mean() < 0.5


def test_a_run_folder_stands_for_its_newest_snapshot(pipe, tiny_run):
    from_run = TextToImagePipeline.from_pretrained(str(tiny_run), device="cpu")
    assert from_run.weights_sha256 == pipe.weights_sha256 and len(pipe.weights_sha256) == 64
    earlier = TextToImagePipeline.from_pretrained(f"{tiny_run}@16", device="cpu")
    assert earlier.weights_sha256 != pipe.weights_sha256
    assert (earlier.description.training["images_seen"], pipe.description.training["images_seen"]) == (16, 48)


def test_what_names_a_snapshot(tiny_run, tmp_path, monkeypatch):
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "best.json").write_text('{"snapshot": 32}')
    monkeypatch.chdir(tmp_path)
    names = {
        "run": 48, "run@16": 16, "run@000000016": 16, "run@0": 0, "./run@048": 48, "run@best": 32,
        "run/checkpoints/000000032": 32, "run/checkpoints/000000016": 16, "run/checkpoints/000000000/model": 0,
    }  # fmt: skip
    for name, images_seen in names.items():
        found = find_model(name)
        assert found.resolve() == (tmp_path / "run" / "checkpoints" / f"{images_seen:09d}" / "model").resolve()
        assert model_name(found.resolve()) == f"{tmp_path / 'run'}@{images_seen}"
    (tmp_path / "run@16").symlink_to(tmp_path / "run" / "checkpoints" / "000000048" / "model")
    assert find_model("run@16") == Path("run@16")  # a model that lies there comes before a name


def test_a_run_of_0_1_has_its_model_and_its_best_beside_the_checkpoints(tiny_run, tiny_model, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(tiny_run / "config.json", run)
    assert find_model(run) == run
    for name in ("model", "best"):
        shutil.copytree(tiny_model, run / name)
    assert (find_model(run), find_model(f"{run}@best")) == (run / "model", run / "best")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_follow_the_umask(pipe, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        pipe.save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    names = ["README.md", "generator/config.json", "generator/model.safetensors", "model_index.json"]
    assert sorted(str(path.relative_to(tmp_path / "model")) for path in files) == names
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}


def test_no_file_of_a_run_holds_a_pickle(tiny_run):
    for path in tiny_run.rglob("*"):
        if path.is_file():
            assert path.suffix not in (".pt", ".pth", ".pkl", ".bin")
            assert path.read_bytes()[:2] != b"PK"  # torch.save's zip
            with pytest.raises(ValueError, match=r"."):
                list(pickletools.genops(path.read_bytes()))


def test_loading_is_strict(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "generator" / "model.safetensors"
    whole = load_tensors(weights)
    name = sorted(whole)[0]
    for tensors in (
        {key: value for key, value in whole.items() if key != name},
        {**whole, "extra": torch.zeros(1)},
        {**whole, name: torch.zeros(1, 2, 3)},
    ):
        save_tensors(weights, tensors)
        with pytest.raises(UserError, match="damaged"):
            TextToImagePipeline.from_pretrained(tmp_path / "model")
        index = json.loads((tmp_path / "model" / "model_index.json").read_text())
        index["weights_sha256"] = sha256(weights)  # as another tool would
        (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match="does not fit"):
            TextToImagePipeline.from_pretrained(tmp_path / "model")


def test_another_text_encoder_than_the_trained_one_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(index.read_text().replace(pipe.text_encoder.sha256, "f" * 64))
    other = TextToImagePipeline.from_pretrained(tmp_path / "model", device="cpu")
    with pytest.raises(UserError, match=r"is not the one that this model was trained with \(ffffffffffff\)"):
        other("a table")


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such model folder"):
        TextToImagePipeline.from_pretrained(tmp_path / "missing")
    shutil.copy(__file__, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="never loaded"):
        TextToImagePipeline.from_pretrained(tmp_path / "weights.pt")


def test_every_bit_of_a_seed_counts():
    """torch's generator uses 32 of them; a small seed gives the numbers that it gives elsewhere."""
    seeds = [3, 3 + 2**32, 3 + 2**33, 2**63 - 1]
    noises = [noise_of_seed(seed, 8) for seed in seeds]
    assert torch.equal(noises[0], torch.randn(8, generator=torch.Generator().manual_seed(3)))
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(noises, 2))
    assert torch.equal(noises[1], noise_of_seed(seeds[1], 8))
