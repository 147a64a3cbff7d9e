"""Models on the Hugging Face hub, here on a stand-in: pushed, drawn with by name, kept for when there is no network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stand_in import COMMIT, hub

from t2i.cli import run
from t2i.errors import UserError
from t2i.hub import fetch, is_hub_name
from t2i.models.find import find_model

pytestmark = pytest.mark.usefixtures("one_encoder")
NAME = "someone/shapes"


def in_a_process(endpoint, cache, *arguments, **environment):
    """`t2i ...` with this hub: huggingface_hub reads its environment when it is imported."""
    there = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_TOKEN": "hf_x",
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    command = [sys.executable, "-m", "t2i", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **there})
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_model_is_pushed_and_drawn_with_by_its_name(here, t2i, tiny_run):
    store = here / "store"
    store.mkdir()
    t2i("generate", "a red circle", "--seed", "5", "--model", tiny_run, "-o", "own.png")
    with hub(store, NAME, "models") as (endpoint, asked):
        code, out, err = in_a_process(endpoint, "cache", "push", tiny_run, NAME, "--private", "--licence", "cc-by-4.0")
        assert (code, err) == (0, ""), err
        assert out.splitlines()[0].startswith("pushed to ") and out.splitlines()[1].endswith(f"--model {NAME}")
        assert any('"visibility":"private"' in line.replace(" ", "") for line in asked), asked
        card = (store / "README.md").read_text()
        assert card.startswith(
            "---\nlibrary_name: t2i\npipeline_tag: text-to-image\nlicense: cc-by-4.0\n---\n# shapes\n"
        )
        assert "(samples.png)" in card and f'from_pretrained("{NAME}")' in card and "`t2i train " in card
        files = sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.is_file())
        assert files == [
            "README.md",
            "generator/config.json",
            "generator/model.safetensors",
            "model_index.json",
            "samples.png",
        ]

        (store / "evil.py").write_text("raise SystemExit")
        (store / "weights.bin").write_bytes(b"pickle")
        command = ("generate", "a red circle", "--seed", "5", "--model", f"{NAME}@main", "-o", "hub.png")
        assert in_a_process(endpoint, "cache", *command)[::2] == (0, "")
        assert Path("hub.png").read_bytes() == Path("own.png").read_bytes()
        fetched = [path.name for path in Path("cache").rglob("*")]
        assert "model.safetensors" in fetched and not {"evil.py", "weights.bin", "samples.png"} & set(fetched)
    # Without the hub, and where nobody may ask for it, from the cache; what is not there is one line.
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        Path("hub.png").unlink()
        assert in_a_process(endpoint, "cache", *command, **environment)[0] == 0
        assert Path("hub.png").read_bytes() == Path("own.png").read_bytes()
        code, _, err = in_a_process(endpoint, "empty", *command, **environment)
        assert code == 1 and len(err.splitlines()) == 1
        assert err.startswith(f"t2i: {NAME}@main: no such folder here, and not in the Hugging Face hub's cache either")


@pytest.mark.slow
def test_what_the_hub_does_not_have_is_one_line(here, tiny_model):
    (here / "store").mkdir()
    with hub(here / "store", NAME, "models") as (endpoint, _):
        for name in ("someone/else", f"{NAME}@v9"):
            code, _, err = in_a_process(endpoint, "cache", "generate", "a", "--model", name)
            assert code == 1 and len(err.splitlines()) == 1 and err.startswith(f"t2i: {name}: no such folder here"), err
        code, _, err = in_a_process(endpoint, "cache", "generate", "a", "--model", NAME)
        assert code == 1 and "no model of t2i" in err and len(err.splitlines()) == 1
        code, _, err = in_a_process(endpoint, "cache", "push", tiny_model, NAME, HF_TOKEN="")
        assert code == 1 and err.startswith("t2i: you are not logged in to the Hugging Face hub"), err


def test_a_folder_of_that_name_wins(here, tiny_model):
    (here / "org").mkdir()
    (here / "org" / "name").symlink_to(tiny_model)
    assert find_model("org/name") == Path("org/name")
    (here / "org" / "empty").mkdir()
    assert find_model("org/empty") == Path("org/empty")  # and is said to hold no model


@pytest.mark.parametrize(
    "name, is_one",
    [("a/b", True), ("a-1/b.c_d@v1.0", True), (f"a/b@{COMMIT}", True), ("a", False), ("a/b/c", False), ("/a/b", False),
     ("../b", False), ("a/b@", False), ("a b/c", False)],
)  # fmt: skip
def test_the_form_of_a_name(name, is_one):
    assert is_hub_name(name) == is_one


def test_a_name_of_another_form_is_refused(refused, tiny_model):
    with pytest.raises(UserError, match="a name on the hub is ORG/NAME"):
        fetch("a/b/c")
    refused(2, "a name on the hub is ORG/NAME", "push", tiny_model, "a/b@v1")


def test_the_scores_of_a_run_are_in_its_card(here, tiny_run, monkeypatch):
    """Those of the weights that are pushed, not of a snapshot before."""
    import shutil

    from t2i import pipeline

    copy = shutil.copytree(tiny_run, here / "00001-x")
    digest = json.loads((find_model(copy) / "model_index.json").read_text())["weights_sha256"]
    lines = [
        {"model": {"sha256": sha}, "scores": [{"name": "FD-lite2", "value": value, "better": "lower", "ceiling": 31.0}]}
        for sha, value in (("0", 99.0), (digest, 44.5))
    ]
    (copy / "metrics-eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cards = []
    monkeypatch.setattr(
        pipeline, "upload", lambda folder, name, private: cards.append((folder / "README.md").read_text()) or "there"
    )
    assert run(["push", str(copy), "a/b"]) == 0
    assert "| FD-lite2 | 44.5 | 31 | lower |" in cards[0] and "99" not in cards[0]
