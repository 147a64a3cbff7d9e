"""noise_kl: a caption's own picture tells the noise that it is drawn with, and pays for each nat."""

import json
from types import SimpleNamespace

import pytest
import torch
from short_runs import assert_same_bits, config, final_tensors, start
from test_nearest_of import Page
from torch import nn
from torch.distributions import Normal, kl_divergence

from t2i.errors import UsageError
from t2i.losses.adversarial import LOSSES
from t2i.losses.noise import TOLD, NoiseEncoder, nats, relief
from t2i.models import list_architectures
from t2i.training.drawing import Drawer
from t2i.training.objective import GANObjective
from t2i.training.randomness import StepRandom
from t2i.training.setup import new_settings


def test_nats_are_the_divergence_from_plain_noise():
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(torch.zeros(5, 7), torch.ones(5, 7)))
    torch.testing.assert_close(nats(mean, log_variance), expected.sum(1))
    assert nats(torch.zeros(1, 7), torch.zeros(1, 7)) == 0


class CaptionSampler(Page):
    """A slope from left to right, how steep by a perceptron from noise."""

    z_dim = 4

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 32), nn.GELU(), nn.Linear(32, 1))

    def pool(self, text):
        return text.new_zeros(len(text), 2)

    def synthesis(self, z, condition, truncation_psi=1.0):
        return self.net(z)[:, :, None, None] * torch.linspace(-1, 1, 32).expand(len(z), 3, 32, 32)


# Light and dark from left to right, the more the later in a batch.
SLOPES = torch.linspace(-1, 1, 8)[:, None, None, None] * torch.linspace(-1, 1, 32).expand(8, 3, 32, 32)


def told(rows=slice(0, 8), z_dim=12):
    torch.manual_seed(0)
    sampler = CaptionSampler()
    sampler.z_dim = z_dim
    drawer = Drawer(sampler, noise_encoder=NoiseEncoder(2, z_dim))
    random = StepRandom(0, 0, 8).take(rows)
    return drawer.noise(random, "G"), drawer.noise_near(SLOPES[rows], SLOPES[rows], random, "G")


def test_pictures_tell_the_first_numbers_of_their_noise_and_the_others_are_plain():
    plain, noise = told()
    assert torch.equal(noise.z[:, TOLD:], plain[:, TOLD:])
    assert not (noise.z == plain)[:, :TOLD].any()
    assert (noise.nats > 0).all()
    plain, noise = told(z_dim=4)  # all of it
    assert noise.z.shape == plain.shape and not (noise.z == plain).any()


def test_a_piece_of_a_batch_is_told_as_the_whole():
    whole, piece = told()[1], told(slice(3, 6))[1]
    for a, b in zip(whole, piece):
        torch.testing.assert_close(a[3:6], b)


def test_a_relief_knows_no_tints():
    picture = (torch.rand(1, 3, 8, 8) - 0.5).repeat_interleave(4, 2).repeat_interleave(4, 3)
    tint = torch.tensor([0.2, -0.1, 0.05])[:, None, None]
    for other in (picture + tint, 0.5 * picture - tint):
        torch.testing.assert_close(relief(other), relief(picture), rtol=0.1, atol=0.3)
    assert (relief(-picture) - relief(picture)).abs().mean() > 1
    assert (relief(torch.ones(1, 3, 32, 32)) == 0).all()


@pytest.mark.parametrize("noise_kl, low, high", [(0.03, 0.5, 1.5), (10.0, 0.0, 0.4)])
def test_noise_carries_what_pictures_of_one_caption_differ_in(noise_kl, low, high):
    """Two pictures, lighter to the right and to the left, of one caption: plain noise draws both, unless a nat costs
    too much."""
    pages = SLOPES[[0, 7]].repeat(16, 1, 1, 1)
    torch.manual_seed(0)
    sampler, encoder = CaptionSampler(), NoiseEncoder(2, 4)
    objective = GANObjective(
        sampler, nn.Identity(), loss=LOSSES["hinge"], penalty=None, noise_encoder=encoder, noise_kl=noise_kl
    )
    objective.pretraining = True
    optimizer = torch.optim.Adam([*sampler.parameters(), *encoder.parameters()], 1e-2)
    batch = SimpleNamespace(images=pages, text=pages)
    for step in range(200):
        optimizer.zero_grad()
        objective.accumulate_gradients(SimpleNamespace(name="G"), batch, 1.0, step, StepRandom(0, step, 32))
        optimizer.step()
    with torch.no_grad():
        drawn = sampler(torch.randn(500, 4), torch.zeros(500, 1))
    slopes = (drawn[..., -1] - drawn[..., 0]).mean((1, 2)) / 2
    assert low <= slopes.std().item() <= high, slopes.std()
    assert "noise_nats" in objective.statistics.read()


@pytest.mark.parametrize("arch", list_architectures())
def test_both_phases_share_told_pictures(arch, shapes_data, tmp_path, monkeypatch):
    """Whether they are kept or drawn again; and the encoder learns, and is in the checkpoint."""
    settings = config(arch, kimg=0.016, snapshot_kimg=1.0, shared_fakes=True, likeness=4.0, noise_kl=0.01)
    begin, _ = start(settings, shapes_data, tmp_path / "begin", stop=lambda: True)
    kept, _ = start(settings, shapes_data, tmp_path / "kept")
    accumulate = GANObjective.accumulate_gradients
    monkeypatch.setattr(GANObjective, "accumulate_gradients", lambda *given: accumulate(*given[:-1], False))
    again, _ = start(settings, shapes_data, tmp_path / "again")
    assert_same_bits(final_tensors(kept), final_tensors(again))
    before, after = (final_tensors(run)["noise_encoder.safetensors"] for run in (begin, kept))
    assert all(not torch.equal(before[name], after[name]) for name in before), json.dumps(sorted(before))


def test_a_run_with_it_begins_with_the_networks_of_one_without_and_of_one_with(shapes_data, tmp_path):
    terms = {"kimg": 0.008, "likeness": 1.0}
    without, _ = start(config(**terms), shapes_data, tmp_path / "a")
    its_own, _ = start(config(**terms, noise_kl=0.01, begin_with=str(without.folder)), shapes_data, tmp_path / "b")
    settings = config(**terms, noise_kl=0.01, begin_with=str(its_own.folder), seed=1)
    taken, _ = start(settings, shapes_data, tmp_path / "c", stop=lambda: True)
    for name in ("generator", "noise_encoder"):
        assert_same_bits(*({name: final_tensors(run)[f"{name}.safetensors"]} for run in (its_own, taken)))


@pytest.mark.parametrize("flags, found", [
    ({}, 0.003), ({"noise_kl": 0.1}, 0.1),
    ({"nearest_of": 4}, 0.0), ({"likeness": 0.0}, 0.0), ({"preset": "small"}, 0.0),
])  # fmt: skip
def test_fast_has_it_where_no_other_way_was_chosen(flags, found, shapes_data):
    assert new_settings(shapes_data, flags, None, "cpu")[0].noise_kl == found
    with pytest.raises(UsageError, match="noise_kl and nearest_of do not go together"):
        new_settings(shapes_data, {"noise_kl": 0.1, "nearest_of": 2}, None, "cpu")
