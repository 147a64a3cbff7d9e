"""Animations: a run over time, and the way from one prompt to another."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from t2i.animations import save_animation
from t2i.image_files import read_image_text

pytestmark = pytest.mark.usefixtures("one_encoder")


def frames(path):
    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def durations(path):
    with Image.open(path) as image:
        found = []
        for frame in range(image.n_frames):
            image.seek(frame)
            image.load()
            found.append(image.info["duration"])
        return found


@pytest.fixture
def sheets(monkeypatch):
    """What table_grid is given, sheet by sheet."""
    from t2i import grids

    seen, table_grid = [], grids.table_grid
    monkeypatch.setattr(grids, "table_grid", lambda *given: (seen.append(given), table_grid(*given))[1])
    return seen


def test_a_run_over_time_has_a_frame_for_each_snapshot(here, t2i, tiny_run, sheets):
    said = t2i("sample-grid", "a table", "--cols", "2", "--over-time", "--model", tiny_run, "-o", "run.webp")
    assert said == "wrote run.webp (4 frames of 1 x 2 images)\n"
    assert [title for *_, title in sheets] == ["0 images", "16 images", "32 images", "48 images"]
    for (rows, *_), snapshot in zip(sheets, ("0", "16", "32", "48")):
        t2i("generate", "a table", "--seeds", "0,1", "--model", f"{tiny_run}@{snapshot}", "-o", "one")
        for seed in range(2):
            with Image.open(f"one/00{seed}.png") as image:
                assert (rows[0][seed] == np.asarray(image)).all()
    assert len(frames("run.webp")) == 4
    assert json.loads(t2i("info", "run.webp", "--json"))["prompt"] == "a table"


def test_its_name_and_the_last_frames_time_where_nothing_is_said(here, t2i, tiny_run):
    t2i("sample-grid", "a table", "--over-time", "--model", tiny_run)
    assert durations("over-time.gif") == [500, 500, 500, 2000]
    assert json.loads(t2i("info", "over-time.gif", "--json"))["seeds"] == "0,1,2,3,4,5,6,7"


def test_an_interpolation_goes_there_and_back(here, t2i, tiny_run, sheets):
    t2i("sample-grid", "--interpolate", "a table", "a red circle", "--cols", "4", "--seeds", "3,5",
        "--model", tiny_run, "-o", "way.gif")  # fmt: skip
    assert [labels for _, labels, *_ in sheets] == [
        [label] for label in ("  0%", " 33%", " 67%", "100%", " 67%", " 33%")
    ]
    assert (sheets[1][0][0][0] == sheets[5][0][0][0]).all()
    t2i("generate", "a table", "a red circle", "--seed", "5", "--model", tiny_run, "-o", "ends")
    for sheet, name in ((sheets[0], "000"), (sheets[3], "001")):
        with Image.open(f"ends/{name}.png") as image:
            assert (sheet[0][0][1] == np.asarray(image)).all()


def test_a_model_that_is_no_run_has_no_time(refused, tiny_model, tiny_run):
    refused(2, "needs a run with two snapshots or more", "sample-grid", "--over-time", "--model", tiny_model)
    refused(2, "run.png: the suffix .png names no animation", "sample-grid", "--over-time", "-o", "run.png",
            "--model", tiny_run)  # fmt: skip
    refused(2, "--over-time excludes --truncation-sweep", "sample-grid", "--over-time", "--truncation-sweep")


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_frames_of_several_sizes_and_their_text(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    images = [Image.new("RGB", size, colour) for size, colour in (((20, 31), "red"), ((33, 20), "blue"))]
    save_animation(images, path, [0.1, 0.3], {"prompt": "größer"})
    assert [frame.shape for frame in frames(path)] == [(32, 34, 3)] * 2
    assert read_image_text(path) == {"prompt": "größer"}
    first, second = (frame.astype(int) for frame in frames(path))
    assert np.abs(first[5, 5] - (255, 0, 0)).max() < 12 and np.abs(second[5, 5] - (0, 0, 255)).max() < 12
    assert first[25, 30].min() > 243  # white where the smaller one ends


def test_an_mp4_plays_for_as_long_as_its_frames(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "x.mp4"
    images = [Image.new("RGB", (35, 21), colour) for colour in ("red", "blue", "white")]
    save_animation(images, path, [0.5, 0.5, 2.0], {"prompt": "a b"})
    count, seconds = ffmpeg.count_frames_and_secs(str(path))
    assert count == 72 and abs(seconds - 3) < 0.1
    reader = ffmpeg.read_frames(str(path))
    assert next(reader)["source_size"] == (36, 22)
    first = np.frombuffer(next(reader), np.uint8).reshape(22, 36, 3)
    assert np.abs(first[10, 10].astype(int) - (255, 0, 0)).max() < 12
    reader.close()
    assert [p.name for p in tmp_path.iterdir()] == ["x.mp4"]


def test_without_the_extra_an_mp4_is_refused_before_the_work(refused, tiny_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    refused(2, "pip install 't2i[video]'", "sample-grid", "--over-time", "--model", tiny_run, "-o", Path("x.mp4"))
