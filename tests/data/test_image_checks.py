"""Checks of a set before it is accepted: what it says, of what, and when it is silent."""

import json
import re

import numpy as np
import pytest
from hash_encoder import HashEncoder
from PIL import Image
from source_checks import write

from t2i.cli import run
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import PreparedDataset
from t2i.data.records import Framing
from t2i.data.sources import FolderPairSource
from t2i.data.sources.shapes import ShapesSource


def noise(number, size=(32, 32), alpha=False):
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    if alpha:  # white drawn on nothing
        drawn = (pixels[..., :1] > 128) * np.uint8(255)
        pixels = np.concatenate([np.full_like(pixels, 255), drawn], axis=2)
    return Image.fromarray(pixels)


def looked(folder, images, captions=None, **options):
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number:03d}.png")
        write(folder / f"{number:03d}.txt", captions[number] if captions else f"caption {number}")
    return prepare(
        FolderPairSource(folder), folder.with_name("out"), HashEncoder(), PrepareOptions(32, workers=1, **options)
    )


def test_a_good_set_is_not_remarked_on(tmp_path):
    summary = looked(tmp_path / "set", [noise(number, (64, 40)) for number in range(20)])
    assert summary.remarks == []
    assert summary.checks == {"one_colour": 0, "equal": 0, "enlarged": 0, "beyond_2_to_1": 0, "common_caption": 0.05}
    assert json.loads((tmp_path / "out/dataset.json").read_text())["checks"] == summary.checks
    assert not list((tmp_path / "out").glob("checks-*"))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (lambda n: noise(n, alpha=True), "100% of the images are of one colour.*--background black"),
        (lambda n: noise(n % 15), "25% of the images are equal to another one"),
        (
            lambda n: noise(n, (16, 16) if n < 10 else (32, 32)),
            "50% of the images are smaller than 32 px.*--min-size 32",
        ),
        (
            lambda n: noise(n, (80, 36) if n % 4 else (32, 32)),
            "75% of the images have another shape.*--fit pad.*--aspect",
        ),
    ],
)
def test_what_is_wrong_with_a_set_is_said_with_the_option_that_helps(tmp_path, images, said):
    remarks = looked(tmp_path / "set", [images(number) for number in range(20)]).remarks
    assert re.search(said, remarks[0]), remarks


def test_captions_that_are_all_the_same_are_said(tmp_path):
    captions = ["untitled"] * 12 + [f"caption {number}" for number in range(8)]
    summary = looked(tmp_path / "set", [noise(number) for number in range(20)], captions)
    assert summary.remarks[0].startswith("60% of the captions are the same text")


def test_the_options_help(tmp_path):
    drawn = [noise(number, (80, 36), alpha=True) for number in range(9)]
    summary = looked(tmp_path / "set", drawn, framing=Framing("pad", (0, 0, 0)))
    assert summary.remarks == [] and summary.checks["one_colour"] == 0
    assert json.loads((tmp_path / "out/dataset.json").read_text())["framing"] == {"fit": "pad", "background": [0, 0, 0]}


def test_drawn_shapes_are_not_looked_at(tmp_path):
    summary = prepare(ShapesSource(20), tmp_path / "out", HashEncoder(), PrepareOptions(resolution=16, workers=1))
    assert summary.checks == {} and summary.remarks == []


def test_a_run_that_goes_on_has_looked_at_all(tmp_path, monkeypatch):
    from t2i.data import image_shards

    monkeypatch.setattr(image_shards, "shard_entries", lambda resolution: 8)
    steps = iter(range(100))

    def interrupt(stage, done, total):
        if done >= 16 and next(steps) == 0:
            raise KeyboardInterrupt

    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(24):
        noise(number % 12).save(folder / f"{number:03d}.png")
        write(folder / f"{number:03d}.txt", f"caption {number}")
    options = PrepareOptions(32, workers=1)
    with pytest.raises(KeyboardInterrupt):
        prepare(FolderPairSource(folder), tmp_path / "out", HashEncoder(), options, interrupt)
    summary = prepare(FolderPairSource(folder), tmp_path / "out", HashEncoder(), options)
    assert summary.resumed_at >= 8 and summary.checks["equal"] == 0.5


def test_the_command_line_says_it_and_takes_the_options(here, monkeypatch, capfd):
    monkeypatch.setattr("t2i.text.encoders.load_encoder", lambda name, *rest: HashEncoder())
    (here / "home").mkdir()
    monkeypatch.setenv("HOME", str(here / "home"))
    (here / "set").mkdir()
    for number in range(10):
        noise(number, (20, 48), alpha=True).save(here / f"set/{number}.png")
        write(here / f"set/{number}.txt", f"caption {number}")
    call = ["prepare", "--images", "set", "--resolution", "16", "--workers", "1"]
    assert run([*call, "--out=~/white"]) == 0
    said, errors = capfd.readouterr()
    assert "check     100% of the images are of one colour" in said and not errors
    assert (here / "home/white/dataset.json").is_file() and not (here / "~").exists()
    options = ["--background", "#102030", "--fit", "pad", "--out", "blue", "--json"]
    assert run([*call, *options]) == 0
    assert json.loads(capfd.readouterr().out)["checks"]["one_colour"] == 0
    assert PreparedDataset("blue").images([0])[0, 0, 0].tolist() == [16, 32, 48]
    assert run([*call, "--min-size", "21", "--out", "none"]) == 1
    assert "10 smaller than --min-size" in capfd.readouterr().err
    for wrong, word in {
        "--fit squash": "crop or pad", "--background red": "#rrggbb", "--min-size -1": "not negative",
        "--caption-from mood": "folder or name", "--metadata x.csv": "--imagefolder",
        "--caption-template a{}": "--caption-from", "--caption-from name --captions x": "exclude each other",
        "--caption-from name --caption-template photo": "write {}", "--parquet x": "exclude each other",
    }.items():  # fmt: skip
        assert run([*call, *wrong.split()]) == 2
        said, errors = capfd.readouterr()
        assert word in errors and errors.count("\n") == 1, errors
    assert run(["prepare", "--shapes", "9", "--fit", "pad"]) == 2
