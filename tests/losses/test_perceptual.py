"""The perceptual loss: the distance, and a generator that learns by a frozen backbone's features of real images."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from short_runs import CPU, assert_same_bits, config, final_tensors, start, train
from small import WIDTH, batch
from torch import nn

from t2i.errors import UsageError
from t2i.losses.perceptual import perceptual_difference
from t2i.models.base import Generator
from t2i.models.projected import ProjectedDiscriminator
from t2i.text.pooler import Conditioning, TextStatistics
from t2i.training import trainer as trainers
from t2i.training.randomness import StepRandom
from t2i.training.schedule import Schedule
from t2i.training.settings import new_settings
from t2i.training.step import Objective
from t2i.training.tables import check_together
from t2i.training.text import FrozenText

PROJECTED = {"model__discriminator__kind": "projected", "loss": "hinge", "penalty": "none"}
PERCEPTUAL = {**PROJECTED, "loss__perceptual__weight": 10.0, "loss__reconstruction__weight": 10.0}
TEXT = Conditioning(TextStatistics.identity(WIDTH), "sentence")


def test_only_directions_count_and_maps_weigh_the_same():
    x, y = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    large = x.expand(1, 2, 4, 4)
    torch.testing.assert_close(perceptual_difference([x], [3 * x]), torch.zeros(1))
    torch.testing.assert_close(perceptual_difference([x], [-x]), torch.full((1,), 4.0))
    torch.testing.assert_close(perceptual_difference([large, x], [large, y]), torch.ones(1))  # (0 + 2) / 2
    half = torch.cat([large[..., :2], y.expand(1, 2, 4, 2)], dim=3)  # wrong in half of the places
    torch.testing.assert_close(perceptual_difference([half], [large]), torch.ones(1))
    found = perceptual_difference([x.bfloat16()], [y])
    assert found.dtype == torch.float32


def test_maps_must_pair_up():
    with pytest.raises(ValueError, match="shorter"):
        perceptual_difference([torch.ones(1, 2, 1, 1)] * 2, [torch.ones(1, 2, 1, 1)])


def test_a_blurred_image_differs_more_than_a_brighter_one():
    """Pixels say the opposite: that is what the term is for."""
    discriminator = ProjectedDiscriminator(64, TEXT, input_resolution=64)
    rows = torch.arange(64) // 8 % 2
    board = (rows[:, None] ^ rows).float().expand(2, 3, 64, 64) - 0.5
    flat = torch.zeros_like(board)
    brighter = board + 0.5
    assert (flat - board).abs().mean() == (brighter - board).abs().mean()
    extract = discriminator.extract
    blurred, bright = (perceptual_difference(extract(other), extract(board)) for other in (flat, brighter))
    assert (blurred > 1.5 * bright).all()


def test_what_is_kept_from_phase_to_phase_is_what_is_made_anew(shapes_data, tmp_path, monkeypatch):
    """Bit for bit."""
    settings = config("stylegan2", kimg=0.016, snapshot_kimg=1.0, shared_fakes=True, **PERCEPTUAL)
    kept, _ = start(settings, shapes_data, tmp_path / "kept")
    monkeypatch.setattr(trainers, "Objective", lambda *nets, **how: Objective(*nets, **{**how, "phases_share": False}))
    again, _ = start(settings, shapes_data, tmp_path / "again")
    assert_same_bits(final_tensors(kept), final_tensors(again))


def test_features_of_real_images_are_extracted_once_a_step(shapes_data, tmp_path, monkeypatch):
    sizes, extract = [], ProjectedDiscriminator.extract
    monkeypatch.setattr(ProjectedDiscriminator, "extract", lambda d, x: sizes.append(len(x)) or extract(d, x))
    settings = config("stylegan2", kimg=0.016, snapshot_kimg=1.0, shared_fakes=True, **PERCEPTUAL)
    start(settings, shapes_data, tmp_path)
    assert sizes == [1] + 2 * [8, 8]  # of a blank image, for its shapes; in each step of generated ones, of real ones


def test_stopped_and_resumed_it_ends_as_if_never_stopped(shapes_data, tmp_path):
    settings = config("stylegan2", schedule__warm_up_kimg=0.02, accumulate=2, **PERCEPTUAL)
    whole, _ = start(settings, shapes_data, tmp_path / "whole")
    asked = iter([False, False, True])
    run, _ = start(settings, shapes_data, tmp_path / "parts", stop=lambda: next(asked))
    train(settings, shapes_data, run, CPU, resume=True)
    assert_same_bits(final_tensors(whole), final_tensors(run))


class Page(Generator):
    """A generator that is its images."""

    z_dim = 1

    def __init__(self):
        super().__init__()
        self.pooler, self.pixels = TEXT.pooler(), nn.Parameter(torch.zeros(2, 3, 32, 32))

    def synthesis(self, z, condition, truncation_psi=1.0, growth=None):
        return self.pixels


def test_generated_images_come_nearer_to_the_real_ones_in_the_backbones_features(shapes_data):
    settings = config("stylegan2", growing=False, batch=2, lr_g=0.02, loss__perceptual__weight=1000.0, **PROJECTED)
    networks = Page(), ProjectedDiscriminator(32, TEXT, input_resolution=64)
    trainer = trainers.Trainer(settings, 32, FrozenText(), CPU, networks=networks)
    images = F.interpolate(torch.from_numpy(shapes_data.images([0, 1])).permute(0, 3, 1, 2) / 127.5 - 1, size=(32, 32))
    plan, found = replace(Schedule(settings, 32).plan(0), reset_optimizers=False, lr_d=0.0), []
    for step in range(60):
        trainer.step(plan, batch(2).with_images(images), StepRandom(0, step, 2))
        found.append(trainer.statistics.read()["perceptual"])
    assert found[-1] < 0.8 * found[0], found


def test_without_a_frozen_backbone_it_is_refused():
    with pytest.raises(UsageError, match=r"loss\.perceptual compares features of a frozen backbone"):
        check_together(config("stylegan2", loss__perceptual__weight=1.0))


@pytest.mark.parametrize(
    "lines, weight",
    [
        ("", 50.0),
        ("loss.perceptual.weight = 8", 8.0),
        ('model.discriminator.kind = "stylegan2"', 0.0),
        ('[model]\ndiscriminator = "scratch"', 0.0),  # as 0.1 said it
    ],
)
def test_fast_has_it_where_there_is_a_frozen_backbone(lines, weight, shapes_data, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(lines)
    settings, _ = new_settings(shapes_data, {}, file, "cpu")
    assert settings.terms.get("perceptual", {"weight": 0.0})["weight"] == weight
