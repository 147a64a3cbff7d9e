"""Out of memory: what training says has been tried, as the step that failed would have gone."""

import dataclasses

import pytest
import torch
from short_runs import CPU, config, start
from t2i.training.objective import GANObjective

from t2i.errors import UserError
from t2i.models import get_architecture
from t2i.training.loop import train
from t2i.training.run import Run, find_runs

SMALLEST = get_architecture("stylegan2").smallest
KINDS = {
    "scratch": {"likeness": 1.0},
    "projected": {
        "model": {**SMALLEST, "discriminator": "projected", "input_resolution": 64}, "loss": "hinge",
        "penalty": "none", "penalty_every": 1, "perceptual": 1.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("fits, words", [
    (2, r"out of memory with a micro-batch of 8 at 16 px; 2 fits: .* --accumulate 4, which keeps the batch of 8"),
    (0, r"out of memory with a micro-batch of 8 at 16 px, and no smaller one that divides the batches of its run fits"),
])  # fmt: skip
def test_out_of_memory_says_what_fits(fits, words, shapes_data, tmp_path, monkeypatch):
    gradients = GANObjective.accumulate_gradients

    def starve(objective, phase, batch, *rest):
        if len(batch) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        gradients(objective, phase, batch, *rest)

    monkeypatch.setattr(GANObjective, "accumulate_gradients", starve)
    with pytest.raises(UserError, match=words) as caught:
        start(config(), shapes_data, tmp_path)
    assert "\n" not in str(caught.value)
    if fits:  # what it says works, and the run ends where it would have
        run = Run(find_runs(tmp_path)[0])
        settings = dataclasses.replace(config(), accumulate=4)
        assert train(settings, shapes_data, run, CPU, resume=True).reason == "done"


@pytest.mark.parametrize("last, words", [
    (48, r"16 fits: .* --accumulate 3, which"), (32, r"12 fits: .* --accumulate 4, which"), (4, "and no smaller one"),
])  # fmt: skip
def test_what_is_recommended_divides_the_batches_of_all_stages(last, words, shapes_data, tmp_path, monkeypatch):
    """Of the first stage's 48 pictures 16 fit; the last one has a batch of its own."""
    gradients = GANObjective.accumulate_gradients

    def starve(objective, phase, batch, *rest):
        if len(batch) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        gradients(objective, phase, batch, *rest)

    monkeypatch.setattr(GANObjective, "accumulate_gradients", starve)
    stages = [{"resolution": 8, "share": 0.4}, {"resolution": 16, "share": 0.6, "batch": last}]
    with pytest.raises(UserError, match=words):
        start(config("stylegan", batch=48, stages=stages), shapes_data, tmp_path)


@pytest.mark.parametrize("stage, failing, phases", [(8, "D", "DG"), (8, "G", "DG"), (16, "G", "DG"), (8, "G", "G")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_try_has_the_sizes_and_the_gradients_of_the_step_that_failed(
    kind, stage, failing, phases, shapes_data, tmp_path, monkeypatch
):
    """In a stage of growing, whichever phase it was: each learns in its turn, from what the last one left behind."""
    tried = []
    gradients = GANObjective.accumulate_gradients

    def starve(objective, phase, batch, *rest):
        if phase.name == failing and batch.images.shape[-1] == stage and len(batch) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(batch) == 4:
            assert objective._kept is None  # it takes memory
        gradients(objective, phase, batch, *rest)
        if len(batch) == 4:
            trained = [p.grad is not None for p in phase.module.parameters() if p.requires_grad]
            tried.append((phase.name, batch.images.shape[-1], any(trained)))

    monkeypatch.setattr(GANObjective, "accumulate_gradients", starve)
    pretrain_kimg = 0.03 if phases == "G" else 0.0
    settings = config("stylegan2", shared_fakes=True, pretrain_kimg=pretrain_kimg, **KINDS[kind])
    with pytest.raises(UserError, match=rf"micro-batch of 8 at {stage} px; 4 fits: .* --accumulate 2"):
        start(settings, shapes_data, tmp_path)
    assert tried == [(name, stage, True) for name in phases for _ in range(2)]
