"""fp16: the loss is scaled, a step that overflows is left out, and NaN that lasts still stops a run."""

import pytest
import torch
from short_runs import config, first_batch, new_trainer, start, take_step

from t2i.errors import UserError
from t2i.training.checkpoint import newest_checkpoint
from t2i.training.nan_guard import NotFinite

FP16 = {"optim.precision": "fp16", "optim.batch": 4}


def make_trainer(data, late):
    trainer = new_trainer(data, **FP16)
    trainer.guard.late = late  # True: as on CUDA
    return trainer


def batches_of(data):
    """One, and the same with NaN for images."""
    batch = first_batch(data, 4)
    return batch, batch.with_images(batch.images * float("nan"))


@pytest.mark.slow
def test_nan_that_lasts_takes_a_run_back_and_stops_it(shapes_data, tmp_path):
    times = {"schedule.kimg": 1, "run.snapshot_kimg": 1, "run.log_kimg": 1, "run.on_nan": "rollback"}
    settings, said = config(**times, **FP16, **{"optim.lr_d": 1e20}), []
    with pytest.raises(UserError, match=r"phase [DG] overflows in fp16 at a loss scale of 0\.5 after") as caught:
        start(settings, shapes_data, tmp_path, say=said.append)
    assert "\n" not in str(caught.value)
    assert sum("going back" in line for line in said) == 3


@pytest.mark.parametrize("late", [False, True])
def test_a_step_that_overflows_leaves_weights_and_the_logged_norm_alone(late, shapes_data):
    trainer, (batch, broken) = make_trainer(shapes_data, late), batches_of(shapes_data)
    take_step(trainer, batch, 0)
    expected = trainer.statistics.read()["gradient_d"]
    before = {name: value.clone() for name, value in trainer.discriminator.state_dict().items()}

    take_step(trainer, broken, 1)
    assert "gradient_d" not in trainer.statistics.read()
    for name, value in trainer.discriminator.state_dict().items():
        assert torch.equal(value, before[name]), name

    trainer = make_trainer(shapes_data, late)
    take_step(trainer, batch, 0)
    take_step(trainer, broken, 1)
    assert expected > 0
    assert trainer.statistics.read()["gradient_d"] == pytest.approx(expected)


@pytest.mark.parametrize("late", [False, True])
def test_more_than_seventeen_steps_that_overflow_in_a_row_are_too_many(late, shapes_data):
    trainer, (_, broken) = make_trainer(shapes_data, late), batches_of(shapes_data)
    for number in range(17):
        take_step(trainer, broken, number)
    assert trainer.scalers["D"].get_scale() == 0.5
    with pytest.raises(NotFinite, match="phase D overflows"):
        for number in range(17, 17 + 1 + late):
            take_step(trainer, broken, number)


@pytest.mark.parametrize("late", [False, True])
def test_a_checkpoint_with_a_scale_that_had_fallen_too_far_goes_on(late, shapes_data, tmp_path):
    """It was the scale of steps that overflowed; those to come may not."""
    run, _ = start(config(schedule__kimg=0.008, **FP16), shapes_data, tmp_path)
    folder, facts, _ = newest_checkpoint(run.checkpoints)
    for scaler in facts["scalers"].values():
        scaler["scale"] = 0.25
    trainer, (batch, _) = make_trainer(shapes_data, late), batches_of(shapes_data)
    trainer.load(folder, facts)
    for number in range(3):
        take_step(trainer, batch, number)
    assert trainer.scalers["D"].get_scale() == 1.0
