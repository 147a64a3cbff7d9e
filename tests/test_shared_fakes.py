"""shared_fakes: the generator learns from the pictures that the discriminator has just seen."""

import pytest
from short_runs import assert_same_bits, config, final_tensors, start

from t2i.models import list_architectures
from t2i.training.objective import GANObjective


@pytest.mark.parametrize("arch", list_architectures())
def test_pictures_kept_from_phase_to_phase_are_those_drawn_again(arch, shapes_data, tmp_path, monkeypatch):
    """And the generator draws once a step: what sharing is for."""
    drawn = []
    draw = GANObjective._draw
    monkeypatch.setattr(GANObjective, "_draw", lambda *given: drawn.append(1) or draw(*given))
    settings = config(arch, kimg=0.016, snapshot_kimg=1.0, shared_fakes=True)
    kept, _ = start(settings, shapes_data, tmp_path / "kept")
    assert len(drawn) == 2  # of two steps
    accumulate = GANObjective.accumulate_gradients
    never_alone = lambda *given: accumulate(*given[:-1], False)  # noqa: E731
    monkeypatch.setattr(GANObjective, "accumulate_gradients", never_alone)
    redrawn, _ = start(settings, shapes_data, tmp_path / "redrawn")
    assert_same_bits(final_tensors(kept), final_tensors(redrawn))
    assert len(drawn) == 2 + 4
