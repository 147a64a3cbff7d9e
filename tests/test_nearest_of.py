"""nearest_of: of several noises the one whose drawing is nearest to the caption's own picture is learned from."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from short_runs import assert_same_bits, config, final_tensors, start
from torch import nn

from t2i.losses.adversarial import LOSSES
from t2i.models import list_architectures
from t2i.models.base import Generator
from t2i.training.distributed import ALONE
from t2i.training.drawing import Drawer
from t2i.training.loading import BatchLoader
from t2i.training.objective import GANObjective
from t2i.training.randomness import StepRandom
from t2i.training.state import TrainingState
from t2i.training.text import PreparedText


class Page(Generator):
    """Draws a page of one grey."""

    def pool(self, text):
        return text


class Flat(Page):
    """The grey is the noise."""

    z_dim = 1

    def synthesis(self, z, condition, truncation_psi=1.0):
        return z[:, :, None, None].expand(-1, 3, 32, 32)


def drawn(near, nearest_of, rows=slice(0, 8)):
    drawer = Drawer(Flat(), nearest_of=nearest_of)
    random = StepRandom(0, 0, 8).take(rows)
    z = drawer.noise(random, "G") if near is None else drawer.noise_near(near[rows], None, random, "G").z
    return drawer.draw(z, None, random, "G")


def test_each_picture_is_met_by_the_nearest_noise():
    near = torch.linspace(-1, 1, 8).view(8, 1, 1, 1).expand(8, 3, 32, 32)
    noises = [drawn(None, 1), *(drawn_of(f"G z {number}") for number in (1, 2))]
    nearest = torch.stack([(noise - near).abs().mean((1, 2, 3)) for noise in noises]).min(0).values
    torch.testing.assert_close((drawn(near, 3) - near).abs().mean((1, 2, 3)), nearest)
    assert not torch.equal(drawn(near, 3), drawn(near, 1))
    torch.testing.assert_close(
        drawn(near, 3, slice(2, 5)), drawn(near, 3)[2:5]
    )  # a piece of a batch chooses as the whole


def drawn_of(name):
    return Flat()(StepRandom(0, 0, 8).normal(name, 1), None)


def test_pictures_that_are_not_learned_from_are_drawn_with_the_first_noise():
    assert torch.equal(drawn(None, 3), drawn(None, 1))


@pytest.mark.parametrize("arch", list_architectures())
def test_both_phases_share_pictures_of_the_same_noises(arch, shapes_data, tmp_path, monkeypatch):
    """Whether they are kept or drawn again."""
    settings = config(arch, kimg=0.016, snapshot_kimg=1.0, shared_fakes=True, nearest_of=3)
    kept, _ = start(settings, shapes_data, tmp_path / "kept")
    accumulate = GANObjective.accumulate_gradients
    monkeypatch.setattr(GANObjective, "accumulate_gradients", lambda *given: accumulate(*given[:-1], False))
    again, _ = start(settings, shapes_data, tmp_path / "again")
    assert_same_bits(final_tensors(kept), final_tensors(again))


def test_seeds_share_out_what_pictures_of_one_caption_differ_in(tmp_path):
    """Two pictures, black and white, of one caption: alone, likeness draws grey; the nearest of four, both."""
    pages = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 32, 32)

    class CaptionSampler(Page):
        z_dim = 4

        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 32), nn.GELU(), nn.Linear(32, 1))

        def synthesis(self, z, condition, truncation_psi=1.0):
            return self.net(z)[:, :, None, None].expand(-1, 3, 32, 32)

    spread = {}
    for nearest_of in (1, 4):
        torch.manual_seed(0)
        sampler = CaptionSampler()
        optimizer = torch.optim.Adam(sampler.parameters(), 1e-2)
        objective = GANObjective(sampler, nn.Identity(), loss=LOSSES["hinge"], penalty=None, nearest_of=nearest_of)
        objective.pretraining = True
        batch = SimpleNamespace(images=pages.repeat(16, 1, 1, 1), text=None)
        for step in range(200):
            optimizer.zero_grad()
            objective.accumulate_gradients(SimpleNamespace(name="G"), batch, 1.0, step, StepRandom(0, step, 32))
            optimizer.step()
        with torch.no_grad():
            greys = sampler(torch.randn(500, 4), None)[:, 0, 0, 0]
        spread[nearest_of] = greys.std().item()
    assert spread[4] > 0.7 and spread[1] < 0.5 * spread[4], json.dumps(spread)


@pytest.mark.parametrize("arch", list_architectures())
def test_all_noises_at_once_choose_alike(arch, shapes_data):
    text = PreparedText(shapes_data)
    loader = BatchLoader(shapes_data, text, 0, "cpu")
    batch = loader.load(0, 8)
    loader.close()
    drawer = TrainingState(
        config(arch, nearest_of=3), shapes_data.resolution, text, torch.device("cpu")
    ).objective.drawer
    random, found = StepRandom(0, 0, 8), []
    for at_once in (False, True):
        drawer.noises_at_once = at_once
        found.append(drawer.noise_near(batch.images, batch.text, random, "G").z)
    assert torch.equal(*found)
    assert not torch.equal(found[0], random.normal("G z", drawer.generator.z_dim))


@pytest.fixture
def weights_rounded_once(monkeypatch):
    """Autocast as torch 2.10 has it: what it has rounded once, gradients or not, serves until it ends."""
    rounded, within = {}, []
    clear, enter, leave = torch.clear_autocast_cache, torch.autocast.__enter__, torch.autocast.__exit__

    def keep(weight):
        if weight is None or not torch.is_autocast_enabled("cpu") or not (weight.is_leaf and weight.requires_grad):
            return weight
        return rounded.setdefault(id(weight), weight.bfloat16())

    def through(function):
        return lambda x, weight, bias=None, *rest, **how: function(x, keep(weight), keep(bias), *rest, **how)

    def outermost_forgets(*given):
        within.pop()
        if not within:
            rounded.clear()
        return leave(*given)

    for name in ("linear", "conv2d", "conv_transpose2d"):
        monkeypatch.setattr(F, name, through(getattr(F, name)))
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: (rounded.clear(), clear()))
    monkeypatch.setattr(torch.autocast, "__enter__", lambda self: (within.append(self), enter(self))[1])
    monkeypatch.setattr(torch.autocast, "__exit__", outermost_forgets)


@pytest.mark.usefixtures("weights_rounded_once")
@pytest.mark.parametrize("ways", [{"nearest_of": 3}, {"noise_kl": 0.01, "likeness": 1.0}], ids=str)
@pytest.mark.parametrize("arch", list_architectures())
def test_drawing_without_gradients_first_takes_none_from_what_is_learned_from(arch, ways, shapes_data):
    settings = config(arch, precision="bf16", growing=False, **ways)
    text = PreparedText(shapes_data)
    state = TrainingState(settings, shapes_data.resolution, text, torch.device("cpu"))
    loader = BatchLoader(shapes_data, text, 0, "cpu")
    batch = loader.load(0, 8)
    loader.close()
    (phase,) = (phase for phase in state.phases if phase.name == "G")
    state.accumulate(phase, batch, 1, 0, StepRandom(0, 0, 8), ALONE, 8)
    # What reads text before it is pooled, the discriminator teaches.
    learned = [named for named in state.generator.named_parameters() if not named[0].startswith("pooler.reader")]
    assert [name for name, parameter in learned if parameter.grad is None] == []
