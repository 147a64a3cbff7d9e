"""`train --dry-run` says how long a run takes and how much memory, from a few steps of every kind."""

import pytest
import torch
from short_runs import CPU, config

from t2i.cli import run as t2i
from t2i.training import rehearsal
from t2i.training.loop import Loop
from t2i.training.rehearsal import Part, Rehearsal, rehearse

ENERGY = {"loss.energy.weight": 1.0, "schedule.warm_up_kimg": 0.016}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(rehearsal, "MOST", 2)


def test_every_part_of_a_run_is_timed_and_nothing_is_left(shapes_data, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    settings = config("stylegan2", **{**ENERGY, "schedule.kimg": 0.2, "schedule.fade": 0.5})
    found = rehearse(settings, shapes_data, CPU)
    assert [(part.name, part.images) for part in found.parts] == [
        ("8 px warm-up", 16), ("8 px", 64), ("16 px fading in", 60), ("16 px", 60)
    ]  # fmt: skip
    assert all(part.images_per_second > 0 and part.memory_gib > 0 for part in found.parts)
    assert found.snapshots > 0 and not found.out_of_memory
    assert not [path for path in tmp_path.iterdir() if "torch" not in path.name]  # which keeps folders of its own


def test_without_growing_there_is_a_warm_up_and_the_training(shapes_data):
    settings = config("dfgan", **{**ENERGY, "schedule.kimg": 0.048})
    assert [(part.name, part.images) for part in rehearse(settings, shapes_data, CPU).parts] == [
        ("warm-up", 16), ("training", 32)
    ]  # fmt: skip


def test_a_penalty_that_is_taken_now_and_then_has_its_share(shapes_data, monkeypatch):
    monkeypatch.setattr(rehearsal, "_step_seconds", lambda loop, plan: 9.0 if plan.penalty else 1.0)
    settings = config("stylegan2", growing=False, **{"loss.penalty.every": 4, "schedule.kimg": 0.048})
    (part,) = rehearse(settings, shapes_data, CPU).parts
    assert part.images_per_second == pytest.approx(8 / ((9 + 3 * 1) / 4))


def test_memory_that_will_not_do_is_foreseen(shapes_data, monkeypatch):
    take = Loop.take

    def take_small(loop, plan):
        if plan.growth.resolution == 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        take(loop, plan)

    monkeypatch.setattr(Loop, "take", take_small)
    settings = config("stylegan2")
    found = rehearse(settings, shapes_data, CPU)
    assert [part.name for part in found.parts] == ["8 px"]
    last = found.lines(settings)[-1]
    assert last.startswith("16 px fading in: out of memory with a micro-batch of 8 at 16 px; --accumulate 2 halves it")


def test_what_is_said():
    found = Rehearsal([Part("warm-up", 40_000, 100.0, 1.25), Part("training", 60_000, 50.0, 2.0)], 60.0)
    assert found.minutes == pytest.approx(40_000 / 6000 + 60_000 / 3000 + 1)
    lines = found.lines(config("dfgan", **{"schedule.minutes": 10}))
    assert lines[0] == "warm-up: 100 images a second, 40 kimg in 6.7 minutes, 1.2 GiB"
    assert lines[2] == "in all: 28 minutes, 1.0 of them for snapshots"
    assert lines[3] == "it ends after 10 minutes, before its 0.048 kimg"
    short = Rehearsal([Part("training", 6000, 100.0, 2.0)], 12.0)
    assert short.lines(config("dfgan"))[1] == "in all: 1.2 minutes, 0.2 of them for snapshots"


def test_the_command_says_it_in_comments(minilm_data, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(
        "[model.generator]\nnf = 4\n[model.discriminator]\nkind = 'dfgan'\nnf = 4\n[loss.energy]\nfeatures = 0.0\n"
    )
    assert (
        t2i(["train", str(minilm_data), "--arch", "dfgan", "--config", "small.toml", "--kimg", "1", "--dry-run"]) == 0
    )
    said = capfd.readouterr().out.splitlines()
    assert any(line.startswith("# in all: ") for line in said) and not (tmp_path / "runs").exists()
