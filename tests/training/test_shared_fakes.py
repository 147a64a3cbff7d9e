"""shared_fakes: the generator learns from the pictures that the discriminator has just seen."""

import pytest
from short_runs import assert_same_bits, config, final_tensors, start
from t2i.training.drawing import Drawer
from t2i.training.objective import GANObjective

from t2i.models import get_architecture, list_architectures
from t2i.models.projected import ProjectedDiscriminator


@pytest.mark.parametrize("arch", list_architectures())
def test_pictures_kept_from_phase_to_phase_are_those_drawn_again(arch, shapes_data, tmp_path, monkeypatch):
    """And the generator draws once a step: what sharing is for."""
    drawn = []
    draw = Drawer.draw
    monkeypatch.setattr(Drawer, "draw", lambda *given: drawn.append(1) or draw(*given))
    settings = config(arch, kimg=0.016, snapshot_kimg=1.0, shared_fakes=True)
    kept, _ = start(settings, shapes_data, tmp_path / "kept")
    assert len(drawn) == 2  # of two steps
    accumulate = GANObjective.accumulate_gradients
    never_alone = lambda *given: accumulate(*given[:-1], False)  # noqa: E731
    monkeypatch.setattr(GANObjective, "accumulate_gradients", never_alone)
    redrawn, _ = start(settings, shapes_data, tmp_path / "redrawn")
    assert_same_bits(final_tensors(kept), final_tensors(redrawn))
    assert len(drawn) == 2 + 4


def test_the_frozen_network_looks_at_kept_pictures_once(shapes_data, tmp_path, monkeypatch):
    """And what it saw is what it would see again: the weights are bit for bit those of looking twice."""
    looks = []
    look = ProjectedDiscriminator.look
    monkeypatch.setattr(ProjectedDiscriminator, "look", lambda *given: looks.append(1) or look(*given))
    model = {**get_architecture("stylegan2").smallest, "discriminator": "projected"}
    settings = config("stylegan2", kimg=0.016, snapshot_kimg=1.0, shared_fakes=True, model=model, loss="hinge",
                      penalty="none", penalty_every=1)  # fmt: skip
    kept, _ = start(settings, shapes_data, tmp_path / "kept")
    assert len(looks) == 2 * 2  # two steps: real pictures, and generated ones
    accumulate = GANObjective.accumulate_gradients
    never_alone = lambda *given: accumulate(*given[:-1], False)  # noqa: E731
    monkeypatch.setattr(GANObjective, "accumulate_gradients", never_alone)
    redrawn, _ = start(settings, shapes_data, tmp_path / "redrawn")
    assert_same_bits(final_tensors(kept), final_tensors(redrawn))
    assert len(looks) == 2 * 2 + 2 * 3
