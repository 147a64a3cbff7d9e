"""shared_fakes: the generator learns from the images that the discriminator has just seen."""

import pytest
from short_runs import assert_same_bits, config, final_tensors, start

from t2i.models import list_architectures
from t2i.models.projected import ProjectedDiscriminator
from t2i.training import trainer
from t2i.training.step import Objective

SHORT = {"schedule.kimg": 0.016, "run.snapshot_kimg": 1.0, "loss.adversarial.shared_fakes": True}  # two steps
PROJECTED = {
    "model.discriminator.kind": "projected", "loss.adversarial.kind": "hinge", "loss.penalty.kind": "none",
}  # fmt: skip


def count_calls(monkeypatch, owner, name):
    """A list that grows by one at each call of a method."""
    calls, method = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given, **how: calls.append(1) or method(*given, **how))
    return calls


def run_twice(settings, data, folder, monkeypatch, calls):
    """How often the method was called in a run, and in one whose phases hand nothing on; both end the same."""
    kept, _ = start(settings, data, folder / "kept")
    first = len(calls)
    monkeypatch.setattr(trainer, "Objective", lambda *given, **how: Objective(*given, **{**how, "phases_share": False}))
    redrawn, _ = start(settings, data, folder / "redrawn")
    assert_same_bits(final_tensors(kept), final_tensors(redrawn))
    return first, len(calls) - first


@pytest.mark.parametrize("arch", list_architectures())
def test_images_kept_from_phase_to_phase_are_those_drawn_again(arch, shapes_data, tmp_path, monkeypatch):
    """And the generator draws once a step: what sharing is for."""
    drawn = count_calls(monkeypatch, Objective, "draw")
    assert run_twice(config(arch, **SHORT), shapes_data, tmp_path, monkeypatch, drawn) == (2, 4)


@pytest.mark.slow
def test_the_frozen_backbone_sees_kept_images_once(shapes_data, tmp_path, monkeypatch):
    """And what it extracts is what it would extract again: the weights are bit for bit those of doing so twice."""
    extracted = count_calls(monkeypatch, ProjectedDiscriminator, "extract")
    settings = config("stylegan2", **SHORT, **PROJECTED)
    # Two steps: real images, and generated ones.
    assert run_twice(settings, shapes_data, tmp_path, monkeypatch, extracted) == (2 * 2, 2 * 3)
