"""fp16: the loss is scaled, a step that overflows is left out, and NaN that lasts still stops a run."""

import dataclasses

import pytest
import torch
from short_runs import CPU, config, start
from t2i.training.finite import NotFinite
from t2i.training.state import TrainingState

from t2i.errors import UserError
from t2i.training.checkpoint import newest_checkpoint
from t2i.training.distributed import ALONE
from t2i.training.loading import BatchLoader
from t2i.training.randomness import StepRandom
from t2i.training.text import PreparedText

FP16 = {"precision": "fp16", "batch": 4}


def make_state(data, late):
    state = TrainingState(config(**FP16), data.resolution, PreparedText(data), CPU)
    state.check.late = late  # True: as on CUDA
    return state


def batch_of(data):
    loader = BatchLoader(data, PreparedText(data), 0, "cpu")
    batch = loader.load(0, 4)
    loader.close()
    return batch, dataclasses.replace(batch, images=batch.images * float("nan"))


def step(state, batch, number):
    for phase in state.phases:
        state.accumulate(phase, batch, 1, number, StepRandom(0, 4 * number, 4), ALONE, 4)
        state.update(phase, 4 * number)


def test_nan_that_lasts_takes_a_run_back_and_stops_it(shapes_data, tmp_path):
    settings, said = config(lr_d=1e20, kimg=1, snapshot_kimg=1, log_kimg=1, on_nan="rollback", **FP16), []
    with pytest.raises(UserError, match=r"phase [DG] overflows in fp16 at a loss scale of 0\.5 after") as caught:
        start(settings, shapes_data, tmp_path, say=said.append)
    assert "\n" not in str(caught.value)
    assert sum("going back" in line for line in said) == 3


@pytest.mark.parametrize("late", [False, True])
def test_a_step_that_overflows_leaves_weights_and_the_logged_norm_alone(late, shapes_data):
    state, (batch, broken) = make_state(shapes_data, late), batch_of(shapes_data)
    step(state, batch, 0)
    expected = state.objective.statistics.read()["gradient_d"]
    before = {name: value.clone() for name, value in state.discriminator.state_dict().items()}

    step(state, broken, 1)
    assert "gradient_d" not in state.objective.statistics.read()
    for name, value in state.discriminator.state_dict().items():
        assert torch.equal(value, before[name]), name

    state = make_state(shapes_data, late)
    step(state, batch, 0)
    step(state, broken, 1)
    assert expected > 0
    assert state.objective.statistics.read()["gradient_d"] == pytest.approx(expected)


@pytest.mark.parametrize("late", [False, True])
def test_more_than_seventeen_steps_that_overflow_in_a_row_are_too_many(late, shapes_data):
    state, (_, broken) = make_state(shapes_data, late), batch_of(shapes_data)
    for number in range(17):
        step(state, broken, number)
    assert state.scalers["D"].get_scale() == 0.5
    with pytest.raises(NotFinite, match="phase D overflows"):
        for number in range(17, 17 + 1 + late):
            step(state, broken, number)


@pytest.mark.parametrize("late", [False, True])
def test_a_checkpoint_with_a_scale_that_had_fallen_too_far_goes_on(late, shapes_data, tmp_path):
    """It was the scale of steps that overflowed; those to come may not."""
    run, _ = start(config(kimg=0.008, **FP16), shapes_data, tmp_path)
    folder, facts, _ = newest_checkpoint(run.checkpoints)
    for scaler in facts["scalers"].values():
        scaler["scale"] = 0.25
    state, (batch, _) = make_state(shapes_data, late), batch_of(shapes_data)
    state.load(folder, facts)
    for number in range(3):
        step(state, batch, number)
    assert state.scalers["D"].get_scale() == 1.0
