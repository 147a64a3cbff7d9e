"""The reconstruction loss, of coarse differences alone; and a generator that learns by it alone at first."""

import json

import pytest
import torch
from short_runs import CPU, config, start
from small import batch, networks

from t2i.cli.progress import describe
from t2i.losses.reconstruction import coarse_difference
from t2i.tensors import load_tensors
from t2i.training.checkpoint import list_checkpoints
from t2i.training.randomness import StepRandom
from t2i.training.schedule import Schedule
from t2i.training.text import FrozenText, PreparedText
from t2i.training.trainer import Trainer


def test_only_coarse_differences_count():
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    checker = 0.5 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2 - 1.0)
    torch.testing.assert_close(coarse_difference(image + checker, image), torch.zeros(2))
    torch.testing.assert_close(coarse_difference(image + 0.25, image), torch.full((2,), 0.25))


def test_a_patch_counts_by_its_share_at_each_scale():
    first, second = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    first[:, 0, :2, :2] = 1.0  # one pixel of 16 x 16, a quarter of one of 8 x 8
    expected = (1 / 3 / 16**2 + 0.25 / 3 / 8**2) / 2
    torch.testing.assert_close(coarse_difference(first, second), torch.tensor([expected]))


def test_half_precision_is_compared_in_fp32():
    first, second = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    found = coarse_difference(first.bfloat16(), second)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, coarse_difference(first.bfloat16().float(), second))


def test_small_images_are_compared_at_their_own_size():
    first, second = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(
        coarse_difference(first, second, (8, 16, 32)), coarse_difference(first, second, (8, 16, 16))
    )


def test_the_warm_up_leaves_the_discriminator_alone_and_brings_the_generator_near(shapes_data, tmp_path):
    said = []
    settings = config(
        "stylegan2", schedule__warm_up_kimg=0.4, kimg=0.8, lr_g=1e-3, growing=False, log_kimg=0.2, snapshot_kimg=0.4
    )
    run, _ = start(settings, shapes_data, tmp_path, on_status=lambda status: said.append(describe(status)))
    states = [folder / "discriminator.safetensors" for folder in list_checkpoints(run.checkpoints)]
    fresh = Trainer(settings, shapes_data.resolution, PreparedText(shapes_data), CPU).discriminator.state_dict()
    warmed_up, trained = (load_tensors(path) for path in states[-2:])
    assert all(torch.equal(value, warmed_up[name]) for name, value in fresh.items())
    assert not all(torch.equal(value, trained[name]) for name, value in fresh.items())
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [("reconstruction" in line, "loss_d" in line) for line in lines] == [(True, False)] * 2 + [(False, True)] * 2
    assert lines[1]["reconstruction"] < 0.9 * lines[0]["reconstruction"]
    assert "warm-up  reconstruction " in said[0]
    assert "logits real" in said[-1]


@pytest.mark.parametrize("warm_up_lr, expected", [(None, [2e-4, 2e-4, 2e-4]), (5e-3, [5e-3, 2.6e-3, 2e-4])])
def test_the_warm_up_has_a_learning_rate_of_its_own_that_falls_to_the_runs(warm_up_lr, expected):
    warm_up = {"schedule__warm_up_kimg": 0.1, "schedule__warm_up_lr": warm_up_lr}
    schedule = Schedule(config("stylegan2", lr_g=2e-4, **warm_up), 16)
    assert [schedule.plan(images_seen).lr_g for images_seen in (0, 50, 104)] == pytest.approx(expected)


def test_the_optimiser_begins_anew_where_the_warm_up_ends():
    settings = config("stylegan2", schedule__warm_up_kimg=0.1, schedule__warm_up_lr=5e-3, batch=16, growing=False)
    trainer, taken = Trainer(settings, 16, FrozenText(), CPU, networks=networks("stylegan2")), []
    optimizer = trainer.phases[1].optimizer
    for images_seen in (80, 96, 112, 128):  # 96: the last step of the warm-up
        plan = Schedule(settings, 16).plan(images_seen)
        trainer.step(plan, batch(16), StepRandom(0, images_seen, 16))
        taken.append(int(optimizer.state[trainer.generator.constant]["step"]))
        assert optimizer.param_groups[0]["lr"] == plan.lr_g
    assert taken == [1, 2, 1, 2]
