"""Models and runs side by side: sample-grid --models, t2i compare."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i import grids
from t2i.files import read_json, write_json
from t2i.training.metrics import read_metrics
from t2i.training.run import Run

pytestmark = pytest.mark.usefixtures("one_encoder")


@pytest.fixture
def sheet(monkeypatch):
    """What table_grid was given last."""
    seen, table_grid = [], grids.table_grid
    monkeypatch.setattr(grids, "table_grid", lambda *given: (seen.append(given), table_grid(*given))[1])
    return lambda: seen[-1]


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_column_a_model_and_every_cell_is_what_generate_draws(here, t2i, tiny_run, tiny_model, sheet):
    models = [f"{tiny_run}@16", tiny_run, "emoji"]
    said = t2i("sample-grid", "a table", "a red circle", "--models", *models, "--seeds", "0,7", "-o", "x.png")
    assert said == "wrote x.png (4 x 3 images)\n"
    rows, labels, columns, _ = sheet()
    assert labels == [f"{text} (seed {seed})" for text in ("a table", "a red circle") for seed in (0, 7)]
    assert columns == [f"{tiny_run.name}@16", tiny_run.name, "emoji"]
    for column, model in enumerate(models):
        t2i("generate", "a table", "a red circle", "--seeds", "0,7", "--model", model, "-o", "one")
        for row in range(4):
            drawn = pixels(f"one/{row:03}.png")
            factor = len(rows[row][column]) // len(drawn)  # an image of 16 px beside one of 128
            assert (rows[row][column] == drawn.repeat(factor, 0).repeat(factor, 1)).all()
    assert (rows[0][0] != rows[0][1]).any()
    assert json.loads(t2i("info", "x.png", "--json"))["model"].count("sha256:") == 3


def test_what_does_not_go_with_several_models_is_refused(refused, tiny_run):
    models = ["sample-grid", "a", "--models", tiny_run, tiny_run]
    refused(2, "--models excludes --model", *models, "--model", tiny_run)
    refused(2, "--models excludes --cols", *models, "--cols", "2")
    refused(2, "--models excludes --style-mixing", *models, "--style-mixing")
    refused(1, "no such model folder", "sample-grid", "--models", tiny_run, "runs/absent")
    refused(2, "requires an argument", "sample-grid", "--models")


@pytest.fixture
def two_runs(here, tiny_run):
    """A run, and another one that differs in a learning rate, in its length and in its scores."""
    for number, name in enumerate(("first", "second")):
        shutil.copytree(tiny_run, name)
        lines = read_metrics(Path(name) / "metrics.jsonl")
        lines[-1] |= {"kd_lite2": 0.5 + number, "r_precision": 0.25}
        text = "".join(json.dumps(line) + "\n" for line in lines[: len(lines) - 2 * number] + lines[-1:])
        (Path(name) / "metrics.jsonl").write_text(text)
    facts = read_json("second/config.json")
    facts["settings"]["optim"]["lr_g"] = 0.5
    write_json("second/config.json", facts)
    Run("first").write_best({"snapshot": 32, "best_by": "KD-lite2", "score": 0.25, "chosen_on": "x"})
    evaluated = {"data": {"name": "shapes", "split": "val", "fingerprint": "0123456789"}, "samples": 100,
                 "model": {"images_seen": 48}, "scores": [{"name": "FD-lite2", "value": 12.5}]}  # fmt: skip
    Path("first/metrics-eval.jsonl").write_text(json.dumps(evaluated) + "\n")
    return ["first", "second"]


def test_runs_are_compared_by_what_differs_their_scores_and_a_plot(t2i, two_runs):
    said = json.loads(t2i("compare", *two_runs, "--json"))
    assert said["settings"] == {"optim.lr_g": {"first": read_json("first/config.json")["settings"]["optim"]["lr_g"],
                                               "second": 0.5}}  # fmt: skip
    scores = said["scores"]
    assert scores["images seen"] == {"first": 48, "second": 48}
    assert scores["KD-lite2, last"] == {"first": 0.5, "second": 1.5}
    assert scores["KD-lite2, best"] == {"first": 0.25, "second": None}
    assert scores["FD-lite2 on shapes val 01234567, 100 samples"] == {"first": 12.5, "second": None}
    shown = t2i("compare", *two_runs, "-o", "deep/plot.png")
    assert "optim.lr_g" in shown and "KD-lite2, best" in shown and shown.endswith("wrote deep/plot.png\n")
    colours = {tuple(pixel) for pixel in pixels("deep/plot.png").reshape(-1, 3)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours  # a line each


def test_a_run_that_logged_nothing_and_runs_alike_are_said(t2i, here, tiny_run):
    for name in ("a/run", "b/run"):
        shutil.copytree(tiny_run, name)
        (here / name / "metrics.jsonl").unlink()
    said = t2i("compare", "a/run", "b/run")
    assert "settings that differ: none" in said and "no plot: none of them has logged anything yet" in said
    assert "a/run" in said and "b/run" in said and not (here / "compare.png").exists()


def test_what_cannot_be_compared_is_one_line(refused, tiny_run, minilm_data):
    refused(2, "two runs or more", "compare", tiny_run)
    refused(1, "absent: no such run folder", "compare", tiny_run, "absent")
    refused(1, "no run here", "compare", tiny_run, minilm_data)
    refused(2, "the plot is a .png", "compare", tiny_run, tiny_run, "-o", "x.gif")
