"""Losses that are bounded, and penalties that no rescaling of weights can make void."""

import json

import pytest
import torch
from short_runs import CPU, config, start
from training.test_golden import FrozenText, make_batch

from t2i.losses.adversarial import LOSSES
from t2i.training.metrics import read_metrics
from t2i.training.randomness import StepRandom
from t2i.training.schedule import Schedule
from t2i.training.step import discriminate, discriminator_loss, draw_for_discriminator
from t2i.training.trainer import Trainer


@pytest.mark.parametrize("name", LOSSES)
def test_a_wrong_caption_cannot_pay_without_end(name):
    """Nothing but the loss itself bounds the logit of a wrong caption: a gradient penalty looks at images alone."""
    real, lower = torch.zeros(1), torch.tensor([-1e3, -1e6])
    losses = LOSSES[name].mismatch(lower, real)
    assert torch.equal(losses[0], losses[1]) and losses.min() >= 0


def test_rows_without_a_wrong_caption_weigh_their_fake_in_full():
    """Else a Wasserstein critic, whose loss is linear, would drift upwards on them."""
    settings = config("stylegan", loss__adversarial__kind="wgan-gp", schedule__growing=False, schedule__stages=[],
                      loss__penalty__kind="wgan-gp")  # fmt: skip
    for share in (0, 4, 8):
        trainer = Trainer(settings, 16, FrozenText(), CPU)
        rng = StepRandom(0, 0, 8)
        batch = make_batch(settings, rng)
        batch.wrong[:] = torch.arange(8).roll(1)[:, None]
        batch.wrong[:share] = -1
        shift = trainer.discriminator.head.unconditional.bias

        plan = Schedule(settings, 16).plan(0)
        loss, _ = discriminator_loss(trainer.objective, plan, batch, rng)
        (slope,) = torch.autograd.grad(loss, shift)
        # A constant added to every logit changes real, fake and (relative to real) mismatch terms: without a wrong
        # caption they cancel, with one half of the fake's weight is the mismatch's, which does not see it.
        assert slope.item() == pytest.approx(-0.5 * (1 - share / 8), abs=0.02)


@pytest.mark.parametrize("arch", ["dfgan", "stylegan2"])
def test_ma_gp_does_not_change_where_logits_do_not(arch):
    """The pooler's values ten times as large and the head's text weights a tenth: the same discriminator."""
    settings = config(arch, loss__penalty__kind="ma-gp", loss__penalty__weight=2.0, loss__penalty__every=1,
                      schedule__growing=False, schedule__stages=[], text__layers=0)  # fmt: skip
    trainer = Trainer(settings, 16, FrozenText(), CPU)
    plan, rng = Schedule(settings, 16).plan(0), StepRandom(0, 0, 8)
    batch = make_batch(settings, rng)
    d = trainer.discriminator

    def measure():
        fakes = draw_for_discriminator(trainer.objective, plan, batch, rng)
        seen, _ = discriminate(trainer.objective, plan, batch, rng, fakes)
        return seen.real.detach(), trainer.objective.penalty.function(seen.real, seen.images, seen.words).detach()

    logits, penalty = measure()
    with torch.no_grad():
        d.pooler.value.weight *= 10
        d.pooler.value.bias *= 10
        if arch == "dfgan":
            width = d.pooler.out_width
            d.head.conv1.weight[:, -width:] /= 10
        else:  # its text layer normalises the condition
            pass
    scaled_logits, scaled_penalty = measure()
    torch.testing.assert_close(scaled_logits, logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(scaled_penalty, penalty, rtol=1e-2, atol=1e-8)
    assert penalty.min() > 0


@pytest.mark.slow
def test_wgan_gp_trains_20_000_images_with_bounded_logits(shapes_data, tmp_path):
    """The student project's loss: its mismatch logits fell without end, and the penalty exploded."""
    settings = config(
        "stylegan", optim__batch=32, schedule__kimg=20.0, schedule__growing=False, schedule__stages=[],
        loss__adversarial__kind="wgan-gp", loss__penalty__kind="wgan-gp", optim__lr_g=1e-3, optim__lr_d=1e-3,
        run__log_kimg=0.5, run__snapshot_kimg=100.0,
    )  # fmt: skip
    run, _ = start(settings, shapes_data, tmp_path)
    lines = read_metrics(run.folder / "metrics.jsonl")
    assert min(line["logits_mismatch"] for line in lines) > -15, json.dumps(lines[-1])
    assert lines[-1]["penalty"] < 15
