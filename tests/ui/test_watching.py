"""The page's second tab without the page: how a run goes, and trainings that are started, stopped and resumed."""

import os
import shutil
import time

import pytest

from t2i.errors import UserError
from t2i.locks import holder, lock
from t2i.training.metrics import read_metrics
from t2i.ui.watching import Trainings, data_sets, list_runs, look

pytestmark = pytest.mark.usefixtures("one_encoder")


def test_a_run_that_has_ended(tiny_run, tmp_path):
    seen = look(tiny_run, tmp_path)
    assert seen.headline.startswith("stopped: 48 of 48 images (100%), 16 px")
    assert "dfgan, preset small, on shapes (fp32)" in seen.headline
    assert seen.plot.parent == seen.samples.parent == tmp_path
    assert seen.samples.read_bytes() == (tiny_run / "samples" / "000000048.png").read_bytes()
    assert "48 images seen" in seen.log and seen.scores == []
    before = seen.plot.stat().st_mtime_ns
    assert look(tiny_run, tmp_path).plot.stat().st_mtime_ns == before  # not drawn again


def test_scores_are_a_table(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "00001-x")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines.append(lines[-1].replace("{", '{"kd_lite2": 0.5, "r_precision": 0.25, ', 1))
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (row,) = look(run, tmp_path).scores
    assert row[0] == 48 and 0.5 in row and 0.25 in row


def test_a_run_that_has_logged_nothing(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "00001-x")
    for path in (run / "metrics.jsonl", run / "log.txt", *run.glob("samples/0*.png")):
        path.unlink()
    seen = look(run, tmp_path)
    assert seen.headline.startswith("stopped: nothing logged yet")
    assert (seen.plot, seen.samples, seen.scores, seen.log) == (None, None, [], "")


def test_who_is_at_work_is_known_while_he_is(tmp_path):
    folder = tmp_path / "x"
    assert holder(folder) is None
    with lock(folder, "training"):
        assert holder(folder).pid == os.getpid() and holder(folder).since <= time.time()
    assert holder(folder) is None
    (tmp_path / ".x.lock").write_text("999999999 here\n")  # another machine's, or of a process that was killed
    assert holder(folder) is None


def test_runs_are_listed_newest_first(tiny_run, tmp_path):
    for number in (2, 10):
        (tmp_path / f"{number:05d}-x").mkdir()
        (tmp_path / f"{number:05d}-x" / "config.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    assert list_runs(tmp_path) == [str(tmp_path / "00010-x"), str(tmp_path / "00002-x")]
    assert list_runs(tmp_path / "nowhere") == []


def test_data_sets_to_train_on(here, minilm_data):
    (here / "t2i-data").mkdir()
    shutil.copytree(minilm_data, here / "t2i-data" / "shapes-train-16")
    assert data_sets() == ["t2i-data/shapes-train-16"]


@pytest.mark.parametrize(
    "arguments, said",
    [pytest.param(("nowhere", "dfgan", 1.0), "nowhere", marks=pytest.mark.slow), (("", "dfgan", 1.0), "no data set")],
)
def test_a_training_that_cannot_begin_is_one_line(here, arguments, said):
    with pytest.raises(UserError, match=said):
        Trainings().start(*arguments)


def test_what_does_not_train_is_not_stopped(tiny_run):
    with pytest.raises(UserError, match="no training is at work there"):
        Trainings().stop(str(tiny_run))


@pytest.mark.slow
def test_a_training_is_started_stopped_and_resumed(here, minilm_data, tmp_path):
    def until(condition):
        end = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.2)

    trainings = Trainings()
    run = trainings.start(str(minilm_data), "dfgan", 20.0)
    assert run == "runs/00000-dfgan-shapes-train-16" and holder(run) is not None
    until(lambda: len(read_metrics(f"{run}/metrics.jsonl")) > 1)
    assert look(run, tmp_path).headline.startswith("**training**: ")
    trainings.stop(run)
    until(lambda: holder(run) is None)
    seen = read_metrics(f"{run}/metrics.jsonl")[-1]["images_seen"]
    assert "stopped by SIGINT" in look(run, tmp_path).log
    assert trainings.resume(run, 20.0) == run
    until(lambda: read_metrics(f"{run}/metrics.jsonl")[-1]["images_seen"] > seen)
    trainings.stop(run)
    until(lambda: holder(run) is None)
