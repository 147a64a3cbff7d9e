"""Snapshots: each one a model to draw with, the last two to resume from, the older ones thinned out."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from short_runs import SMALL_ENCODER, config, start

from t2i.errors import UserError
from t2i.models import list_architectures
from t2i.models.find import find_model, list_snapshots
from t2i.models.folder import load_model
from t2i.tensors import load_tensors
from t2i.text.transformer import load_text_encoder
from t2i.training.checkpoint import list_checkpoints, newest_checkpoint, save_checkpoint, to_drop, verify

MODEL = "model/weights"


def save(root, images, **how):
    """A snapshot of next to nothing."""

    def save_model(folder):
        folder.mkdir()
        (folder / "weights").write_text(str(images))

    return save_checkpoint(root, {"images_seen": images}, {"generator": torch.nn.Linear(3, 3)}, save_model, **how)


def seen(root):
    return [int(folder.name) for folder in list_snapshots(root)]


@pytest.mark.parametrize("arch", list_architectures())
@pytest.mark.parametrize("text", [
    pytest.param({}, id="prepared"),
    pytest.param(
        {"text.encoder": "transformer", "text.transformer": SMALL_ENCODER}, id="trained", marks=pytest.mark.slow
    ),
])  # fmt: skip
def test_every_snapshot_is_a_model_and_older_ones_are_that_alone(arch, text, shapes_data, tmp_path):
    run, _ = start(config(arch, **{"run.snapshot_kimg": 0.008, "schedule.kimg": 0.032, **text}), shapes_data, tmp_path)
    assert seen(run.checkpoints) == [0, 8, 16, 24, 32]
    assert [int(folder.name) for folder in list_checkpoints(run.checkpoints)] == [24, 32]
    assert run.model == run.checkpoints / "000000032" / "model"
    for folder in list_snapshots(run.checkpoints):
        model, number = folder / "model", int(folder.name)
        assert find_model(f"{run.folder}@{number}") == find_model(folder) == model
        _, description, _ = load_model(model)
        assert (description.architecture, description.training["images_seen"]) == (arch, number)
        if text:
            load_text_encoder(model, description.text_encoder["sha256"])
        names = {path.name for path in folder.iterdir()}
        if number < 24:
            assert names == {"model"}
        else:
            assert {"state.json", "discriminator.safetensors", "optimizer_g.safetensors"} < names
            assert "ema.safetensors" not in names  # it lies in the model
            verify(folder)
    first, last = (load_tensors(run.checkpoints / name / "model" / "generator" / "model.safetensors")
                   for name in ("000000000", "000000032"))  # fmt: skip
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_a_run_keeps_as_many_as_it_is_told_to(shapes_data, tmp_path):
    times = {"run.snapshot_kimg": 0.008, "schedule.kimg": 0.08, "run.keep_snapshots": 4}
    run, _ = start(config(**times), shapes_data, tmp_path)
    assert len(seen(run.checkpoints)) == 4 and seen(run.checkpoints)[-2:] == [72, 80]


# ---- which ones go ----


@given(st.sets(st.integers(0, 10**6), max_size=30), st.integers(2, 12), st.data())
def test_the_last_two_and_the_best_are_never_dropped(numbers, keep, data):
    numbers = sorted(numbers)
    spare = data.draw(st.sampled_from([None, *numbers]))
    dropped = to_drop(numbers, keep, spare)
    left = [number for number in numbers if number not in dropped]
    assert len(set(dropped)) == len(dropped) and set(dropped) <= set(numbers)
    assert left[-2:] == numbers[-2:] and (spare is None or spare in left)
    stays = {*numbers[-2:], *([] if spare is None else [spare])}
    assert len(left) == min(len(numbers), max(keep, len(stays)))


@pytest.mark.parametrize("keep", [5, 6, 10, 20])
def test_those_that_stay_are_spread_over_the_run(keep):
    """At any time, of snapshots that come at equal distances: no gap is twice as long as the mean of all."""
    left = []
    for number in range(300):
        left.append(number)
        for gone in to_drop(left, keep):
            left.remove(gone)
        assert left[0] == 0 and len(left) == min(number + 1, keep)
        if number >= keep:
            gaps = [b - a for a, b in itertools.pairwise(left[:-1])]
            assert max(gaps) < 2 * (number - 1) / len(gaps)


def test_the_closest_to_their_neighbours_go_first():
    numbers = [0, 10, 20, 21, 30, 40, 50]
    assert [to_drop(numbers, 6), to_drop(numbers, 6, spare=21), to_drop(numbers, 5)] == [[21], [20], [21, 10]]


# ---- on the disk ----


def test_of_older_snapshots_the_model_stays_and_what_comes_back_is_the_same(tmp_path):
    for images in range(0, 60, 10):
        save(tmp_path, images, keep=4, spare=10)
    assert [int(folder.name) for folder in list_checkpoints(tmp_path)] == [40, 50]
    numbers = seen(tmp_path)
    assert len(numbers) == 4 and 10 in numbers
    for folder in list_snapshots(tmp_path):
        assert (folder / MODEL).read_text() == str(int(folder.name))
        assert int(folder.name) >= 40 or [path.name for path in folder.iterdir()] == ["model"]


def test_a_flipped_bit_is_found(tmp_path):
    folder = save(tmp_path, 5)
    assert verify(folder)["images_seen"] == 5
    for name in ("generator.safetensors", MODEL):
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name}: damaged"):
            verify(folder)
        data[-1] ^= 1
        (folder / name).write_bytes(data)


def test_the_newest_checkpoint_falls_back_and_says_so(tmp_path):
    for images in (5, 10, 15):
        save(tmp_path, images)
    (tmp_path / "000000015" / "generator.safetensors").write_bytes(b"")
    folder, state, complaints = newest_checkpoint(tmp_path)
    assert (folder.name, state["images_seen"], len(complaints)) == ("000000010", 10, 1)
    with pytest.raises(UserError, match="no checkpoint"):
        newest_checkpoint(tmp_path / "none")
