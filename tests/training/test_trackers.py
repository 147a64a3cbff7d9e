"""Trackers: one curve over kill and resume, the same weights, and a failure that costs a line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from short_runs import CPU, assert_same_bits, config, final_tensors, logged, start

from t2i.aliases import rename_settings
from t2i.errors import UserError
from t2i.training.loop import train
from t2i.training.run import Run
from t2i.training.tables import config_from
from t2i.training.trackers import Trackers


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in that remembers what it was sent: {id: points}."""
    module, sent = ModuleType("wandb"), {}

    def init(id, **how):
        points = sent.setdefault(id, [])
        assert how["resume"] == "allow" and how["name"] and how["config"]["optim"]
        return SimpleNamespace(log=points.append, finish=lambda: None, define_metric=lambda *a, **k: None, offline=True)

    module.init, module.Settings, module.Image = init, lambda **how: how, lambda path: f"sheet {path}"
    monkeypatch.setitem(sys.modules, "wandb", module)
    return sent


def board(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"images": 0}).Reload()


def killed_and_resumed(settings, data, root):
    """A run that is killed between two snapshots, and goes on from the one before."""
    count = iter(range(100))

    def die(status):
        if next(count) == 4:  # at the fifth line, after 40 images: the last snapshot is of 32
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(settings, data, root, on_status=die)
    run = Run(next(root.iterdir()))
    train(settings, data, run, CPU, resume=True)
    return run


@pytest.mark.slow
def test_one_curve_over_kill_and_resume_and_weights_that_are_the_same(shapes_data, tmp_path, wandb):
    pytest.importorskip("tensorboard")
    plain, _ = start(config(), shapes_data, tmp_path / "plain")
    run = killed_and_resumed(config(run__trackers=["tensorboard", "wandb"]), shapes_data, tmp_path / "tracked")
    assert_same_bits(final_tensors(plain), final_tensors(run))
    lines = logged(run)
    steps = [line["images_seen"] for line in lines]
    assert steps == [8, 16, 24, 32, 40, 48]
    curve = board(run).Scalars("loss_g")
    assert [event.step for event in curve] == steps
    assert [event.value for event in curve] == pytest.approx([line["loss_g"] for line in lines])
    ((_, points),) = wandb.items()  # one run, although it was begun twice
    losses = [point for point in points if "loss_g" in point]
    assert {(p["images_seen"], p["loss_g"]) for p in losses} == {
        (line["images_seen"], line["loss_g"]) for line in lines
    }
    sheets = {point["images_seen"] for point in points if "samples" in point}
    assert sheets == {0, 16, 32, 48} == {event.step for event in board(run).Images("samples")}


@pytest.mark.parametrize("broken", ["init", "log"])
def test_a_tracker_that_fails_warns_once_and_training_goes_on(shapes_data, tmp_path, wandb, broken, monkeypatch):
    def fail(*given, **how):
        raise ConnectionError("no route to host")

    init = sys.modules["wandb"].init
    if broken == "init":
        monkeypatch.setattr(sys.modules["wandb"], "init", fail)
    else:
        monkeypatch.setattr(
            sys.modules["wandb"], "init", lambda **how: SimpleNamespace(**{**vars(init(**how)), "log": fail})
        )
    said = []
    run, outcome = start(config(run__trackers=["wandb"]), shapes_data, tmp_path, say=said.append)
    warnings = [line for line in said if "wandb" in line]
    assert warnings == ["warning: wandb failed (no route to host); training goes on without it"]
    assert outcome.reason == "done" and len(logged(run)) == 6


def test_what_wandb_has_surely_kept_is_not_sent_again_but_after_a_rollback(tmp_path, wandb, monkeypatch):
    monkeypatch.setattr("t2i.training.trackers.KEPT", 0)
    trackers = Trackers(config(run__trackers=["wandb"]), tmp_path, pytest.fail)
    for count, loss in ((100, 1.0), (200, 2.0)):
        trackers.metrics({"images_seen": count, "loss_g": loss, "penalty": None})
    trackers.rewind(100, repeats=True)
    trackers.metrics({"images_seen": 200, "loss_g": 2.0})
    trackers.rewind(100, repeats=False)
    trackers.metrics({"images_seen": 200, "loss_g": 5.0})
    ((_, points),) = wandb.items()
    assert [(p["images_seen"], p["loss_g"]) for p in points] == [(100, 1.0), (200, 2.0), (200, 5.0)]
    assert json.loads((tmp_path / "trackers.json").read_text())["metrics"] == 200


@pytest.mark.parametrize("name, module", [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_one_that_is_not_installed_is_one_line_with_the_command(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)  # its import now fails
    with pytest.raises(UserError, match=rf'{name} is not installed .*pip install "t2i\[{name}\]"') as caught:
        Trackers(config(run__trackers=[name]), tmp_path, print)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("old", ["tensorboard", "run.tensorboard"])
def test_the_setting_of_before_is_read(old):
    assert config_from(rename_settings({old: True})).run.trackers == ("tensorboard",)
    assert config_from(rename_settings({old: False})).run.trackers == ()


KILLED = """
import os, sys
from short_runs import config, start
from t2i.data.prepared import PreparedDataset
lines = []
def die(status):
    lines.append(status)
    if len(lines) == 5:
        os._exit(9)
start(config(run__trackers=["wandb"]), PreparedDataset(sys.argv[1]), sys.argv[2], on_status=die)
"""


def history(file):
    """The points in a file that wandb wrote offline: protobuf records in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    raw, place, data, points = file.read_bytes(), 7, b"", []
    while place + 7 <= len(raw):
        if 32768 - place % 32768 < 7:  # no header fits into the rest of a block
            place += 32768 - place % 32768
            continue
        size, kind = int.from_bytes(raw[place + 4 : place + 6], "little"), raw[place + 6]
        data += raw[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record, data = wandb_internal_pb2.Record.FromString(data), b""
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            points.append({key: json.loads(value) for key, value in items.items()})
    return points


@pytest.mark.slow
def test_wandb_itself_writes_one_curve_offline_over_a_kill(shapes_data, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    path = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    killed = [sys.executable, "-c", KILLED, str(shapes_data.path), str(tmp_path)]
    assert subprocess.run(killed, env={**os.environ, "PYTHONPATH": path}).returncode == 9
    run = Run(next(tmp_path.iterdir()))
    train(run.read_config()[0], shapes_data, run, CPU, resume=True)
    files = sorted((run.folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # two sittings of one run
    points = [point for file in files for point in history(file)]
    assert {(p["images_seen"], p["loss_g"]) for p in points if "loss_g" in p} == {
        (line["images_seen"], line["loss_g"]) for line in logged(run)
    }
    assert {p["images_seen"] for p in points if "samples/path" in p} == {0, 16, 32, 48}
