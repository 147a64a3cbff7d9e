"""The perceptual term: the distance, and a generator that learns by what a frozen network sees in real pictures."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from short_runs import CPU, assert_same_bits, config, final_tensors, start, train
from torch import nn

from t2i.errors import UsageError
from t2i.losses.adversarial import LOSSES
from t2i.losses.perceptual import perceptual_difference
from t2i.models import get_architecture
from t2i.models.projected import ProjectedDiscriminator
from t2i.text.pooler import TextBatch, TextStatistics
from t2i.training.objective import GANObjective
from t2i.training.randomness import StepRandom
from t2i.training.setup import check_together, new_settings

PERCEPTUAL = {
    "model": {**get_architecture("stylegan2").smallest, "discriminator": "projected"},
    "loss": "hinge", "penalty": "none", "penalty_every": 1, "perceptual": 10.0, "likeness": 10.0,
}  # fmt: skip


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


def test_a_blurred_picture_differs_more_than_a_brighter_one():
    """Pixels say the opposite: that is what the term is for."""
    torch.manual_seed(0)
    discriminator = ProjectedDiscriminator(64, "sentence", TextStatistics.identity(24), input_resolution=64)
    rows = torch.arange(64) // 8 % 2
    board = (rows[:, None] ^ rows).float().expand(2, 3, 64, 64) - 0.5
    flat = torch.zeros_like(board)
    brighter = board + 0.5
    assert (flat - board).abs().mean() == (brighter - board).abs().mean()
    look = discriminator.look
    blurred, bright = (perceptual_difference(look(other), look(board)) for other in (flat, brighter))
    assert (blurred > 1.5 * bright).all()


def test_what_is_kept_from_phase_to_phase_is_what_is_made_anew(shapes_data, tmp_path, monkeypatch):
    """Bit for bit."""
    settings = config("stylegan2", kimg=0.016, snapshot_kimg=1.0, shared_fakes=True, **PERCEPTUAL)
    kept, _ = start(settings, shapes_data, tmp_path / "kept")
    accumulate = GANObjective.accumulate_gradients
    never_alone = lambda *given: accumulate(*given[:-1], False)  # noqa: E731
    monkeypatch.setattr(GANObjective, "accumulate_gradients", never_alone)
    again, _ = start(settings, shapes_data, tmp_path / "again")
    assert_same_bits(final_tensors(kept), final_tensors(again))


def test_real_pictures_are_looked_at_once_a_step(shapes_data, tmp_path, monkeypatch):
    looks = []
    look = ProjectedDiscriminator.look
    monkeypatch.setattr(ProjectedDiscriminator, "look", lambda *given: looks.append(1) or look(*given))
    settings = config("stylegan2", kimg=0.016, snapshot_kimg=1.0, shared_fakes=True, **PERCEPTUAL)
    start(settings, shapes_data, tmp_path)
    assert len(looks) == 2 * 2  # of two steps: real pictures, and generated ones


def test_stopped_and_resumed_it_ends_as_if_never_stopped(shapes_data, tmp_path):
    settings = config("stylegan2", pretrain_kimg=0.02, accumulate=2, batch=8, **PERCEPTUAL)
    whole, _ = start(settings, shapes_data, tmp_path / "whole")
    asked = iter([False, False, True])
    run, _ = start(settings, shapes_data, tmp_path / "parts", stop=lambda: next(asked))
    train(settings, shapes_data, run, CPU, resume=True)
    assert_same_bits(final_tensors(whole), final_tensors(run))


class Page(nn.Module):
    """A generator that is its pictures."""

    z_dim = 1

    def __init__(self):
        super().__init__()
        self.pixels = nn.Parameter(torch.zeros(2, 3, 32, 32))

    def forward(self, z, text):
        return self.pixels


def test_the_generator_draws_what_the_network_sees(shapes_data):
    """Pixels that learn by the term come nearer to the real ones, seen through the network."""
    torch.manual_seed(0)
    discriminator = ProjectedDiscriminator(32, "sentence", TextStatistics.identity(24), input_resolution=64)
    discriminator.requires_grad_(False)
    images = F.interpolate(torch.from_numpy(shapes_data.images([0, 1])).permute(0, 3, 1, 2) / 127.5 - 1, size=(32, 32))
    batch = SimpleNamespace(images=images, text=TextBatch(torch.randn(2, 5, 24), torch.ones(2, 5, dtype=torch.bool)))
    page = Page()
    objective = GANObjective(page, discriminator, loss=LOSSES["hinge"], penalty=None, perceptual_weight=1000.0,
                             augments=("translation",))  # fmt: skip
    optimizer, found = torch.optim.Adam(page.parameters(), 0.02), []
    for step in range(60):
        optimizer.zero_grad()
        objective.accumulate_gradients(SimpleNamespace(name="G"), batch, 1.0, step, StepRandom(0, step, 2))
        optimizer.step()
        found.append(objective.statistics.read()["loss_perceptual"])
    assert found[-1] < 0.8 * found[0], found


def test_without_a_frozen_network_it_is_refused():
    settings = config("stylegan2", perceptual=1.0)
    with pytest.raises(UsageError, match="perceptual looks through a frozen network"):
        check_together(settings)


@pytest.mark.parametrize(
    "lines, weight", [("", 50.0), ("perceptual = 8", 8.0), ('[model]\ndiscriminator = "scratch"', 0.0)]
)
def test_fast_has_it_where_something_frozen_looks(lines, weight, shapes_data, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(lines)
    assert new_settings(shapes_data, {}, file, "cpu")[0].perceptual == weight
