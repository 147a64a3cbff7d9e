"""evaluate --images: images that were drawn before, by whatever model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.cli import run
from t2i.evaluation.protocol import Evaluator, Options
from t2i.evaluation.saved import SavedSamples, place_captions


@pytest.fixture(scope="module")
def saved(data, sampler, evaluator, tmp_path_factory):
    """The samples of a model as files in an order of their own, and a list of their captions."""
    folder = tmp_path_factory.mktemp("saved")
    lines = []
    for rows, images in sampler.draw_dataset(data, evaluator.caption_ids, evaluator.seeds):
        for number, image in zip(range(*rows.indices(evaluator.samples)), images):
            Image.fromarray(image).save(folder / f"{number:03}.png")
            caption = data.caption(int(evaluator.caption_ids[number]))
            lines.append(json.dumps({"file_name": f"{number:03}.png", "text": caption}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
def test_a_models_saved_samples_score_as_the_model_does(here, t2i, saved, sampler, evaluator, tmp_path):
    said = json.loads(t2i("evaluate", "--images", saved, "--captions", saved / "captions.jsonl",
                          "t2i-data/shapes-val-32", "--train-data", "t2i-data/shapes-train-32", "--metrics",
                          "fd,kd,prdc,r-precision", "--json", "--out", tmp_path, "--device", "cpu"))  # fmt: skip
    assert {s["name"]: s["value"] for s in said["scores"]} == evaluator.score(sampler).values()
    assert said["samples"] == 100 and said["images"]["path"] == str(saved)
    assert json.loads((tmp_path / "metrics-eval.jsonl").read_text())["scores"] == said["scores"]


def test_in_any_order_they_are_put_in_the_protocols(data, evaluator):
    texts = [data.caption(int(caption)) for caption in evaluator.caption_ids]
    order = np.random.default_rng(0).permutation(len(texts))
    found, images, captions = place_captions(
        data, [texts[number] for number in order], evaluator.images, evaluator.caption_ids
    )
    assert [texts[order[number]] for number in found] == texts
    assert (images == evaluator.images).all() and (captions == evaluator.caption_ids).all()
    twice, *_ = place_captions(data, [texts[3]] * 3 + [texts[0]], evaluator.images, evaluator.caption_ids)
    assert sorted(twice.tolist()) == [0, 1, 2, 3] and twice[0] == 3  # one more sample of a caption is a sample too


def test_large_images_are_resized_as_prepare_does_it_and_that_is_said(here, t2i, saved, data, evaluator, tmp_path):
    shutil.copytree(saved, tmp_path / "large")
    for path in (tmp_path / "large").glob("*.png"):
        with Image.open(path) as image:
            image.resize((64, 64), Image.Resampling.NEAREST).save(path)
    large = SavedSamples.read(tmp_path / "large", tmp_path / "large" / "captions.jsonl")
    ((_, images),) = large.draw_dataset(data, evaluator.caption_ids[:5], np.arange(5))
    for number, image in enumerate(images):
        with Image.open(saved / f"{number:03}.png") as small:
            assert np.abs(image.astype(int) - np.asarray(small)).mean() < 12
    said = t2i("evaluate", "--images", tmp_path / "large", "--captions", tmp_path / "large/captions.jsonl", data.path,
               "--metrics", "kd", "--device", "cpu")  # fmt: skip
    assert "note: 100 of the images are not 32 px: they were cropped and resized as t2i prepare does" in said


def test_scores_that_draw_for_themselves_are_left_out_and_said(here, data, saved, capfd):
    given = SavedSamples.read(saved, saved / "captions.jsonl")
    evaluator = Evaluator(data, None, Options(), captions=given.captions)
    assert "variety" not in evaluator.metrics and "attributes" not in evaluator.metrics
    assert any(note.startswith("variety left out: saved images are not enough") for note in evaluator.notes)


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (["--images", "x"], 2, "--images needs --captions FILE"),
        (["--captions", "x"], 2, "--captions goes with --images"),
        (["--images", "x", "--captions", "y"], 2, "t2i evaluate --images DIR --captions FILE DATA"),
        (["--images", "x", "--captions", "y", "a", "b"], 2, "--images takes the place of a model"),
        (["--images", "x", "--captions", "y", "a", "--samples", "9"], 2, "--samples does nothing here"),
        (["--images", "{}", "--captions", "{}/gone.jsonl", "t2i-data/shapes-val-32"], 1, "999.png: missing file"),
        (
            ["--images", "{}", "--captions", "{}/other.jsonl", "t2i-data/shapes-val-32"],
            1,
            "1 of 100 captions are not in",
        ),
        (["--images", "{}", "--captions", "{}/bad.jsonl", "t2i-data/shapes-val-32", "--metrics", "kd"], 1, "bad.png"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(here, capfd, saved, tmp_path, data, arguments, code, says):
    shutil.copytree(saved, tmp_path / "images")
    caption = data.caption(0)
    (tmp_path / "images/bad.png").write_bytes(b"no image")
    names = [f"{number:03}.png" for number in range(100)]
    right = [(name, caption) for name in names]
    lists = {"gone": [("999.png", caption), *right], "other": [("000.png", "a map"), *right[1:]],
             "bad": [("bad.png", caption), *right]}  # fmt: skip
    for name, rows in lists.items():
        lines = [json.dumps({"file_name": file, "text": text}) for file, text in rows]
        Path(tmp_path / f"images/{name}.jsonl").write_text("\n".join(lines))
    assert run(["evaluate", *(part.replace("{}", str(tmp_path / "images")) for part in arguments)]) == code
    err = capfd.readouterr().err
    assert says in err and err.startswith("t2i: ") and err.count("\n") == 1
