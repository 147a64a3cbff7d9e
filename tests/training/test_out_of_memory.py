"""Out of memory: training says which --accumulate halves the micro-batch and is taken by --resume."""

import pytest
import torch
from short_runs import CPU, config, start

from t2i.errors import UserError
from t2i.training import trainer
from t2i.training.loop import train
from t2i.training.run import Run, find_runs


@pytest.fixture
def starve(monkeypatch):
    """Has a phase run out of memory with more images than these."""

    def make(fits, phase="discriminator"):
        loss = getattr(trainer, f"{phase}_loss")

        def starving(objective, plan, batch, *rest):
            if len(batch) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return loss(objective, plan, batch, *rest)

        monkeypatch.setattr(trainer, f"{phase}_loss", starving)

    return make


@pytest.mark.parametrize(
    "phase", ["generator", *(pytest.param(name, marks=pytest.mark.slow) for name in ("discriminator", "warm_up"))]
)
def test_what_it_says_halves_the_micro_batch_until_the_run_goes_on(phase, starve, shapes_data, tmp_path):
    starve(2, phase)
    settings = config(schedule__warm_up_kimg=0.03 if phase == "warm_up" else 0.0, loss__energy__weight=1.0)
    with pytest.raises(UserError) as caught:
        start(settings, shapes_data, tmp_path)
    line = "out of memory with a micro-batch of {} at 16 px; t2i train --resume --accumulate {} halves it to {} and "
    assert str(caught.value) == line.format(8, 2, 4) + "keeps the batch of 8"
    run = Run(find_runs(tmp_path)[0])
    with pytest.raises(UserError) as caught:
        train(settings.changed(optim__accumulate=2), shapes_data, run, CPU, resume=True)
    assert str(caught.value) == line.format(4, 4, 2) + "keeps the batch of 8"
    assert train(settings.changed(optim__accumulate=4), shapes_data, run, CPU, resume=True).reason == "done"


@pytest.mark.parametrize("batches, side, words", [
    ((48, 48), 8, "48 at 8 px; t2i train --resume --accumulate 2 halves it to 24 and keeps the batch of 48"),
    ((48, 36), 8, "48 at 8 px; t2i train --resume --accumulate 3 makes it 16 and keeps the batch of 48"),
    ((8, 24), 16, "24 at 16 px; t2i train --resume --accumulate 2 halves it to 12 and keeps the batch of 24"),
    ((48, 4), 8, "48 at 8 px, and no smaller one divides the batches of this run; prepare at a lower"),
])  # fmt: skip
def test_what_it_says_goes_with_the_batches_of_all_stages(batches, side, words, starve, shapes_data, tmp_path):
    """In whole groups of 4, as the discriminator compares images."""
    starve(16)
    stages = [{"resolution": side, "share": 0.5, "batch": batch} for side, batch in zip((8, 16), batches)]
    with pytest.raises(UserError, match=words) as caught:
        start(config("stylegan", optim__batch=48, schedule__stages=stages), shapes_data, tmp_path)
    assert "\n" not in str(caught.value)


def test_pieces_that_are_single_images_cannot_be_halved(starve, shapes_data, tmp_path):
    starve(0)
    with pytest.raises(UserError, match="micro-batch of 1 at 16 px, and no smaller one"):
        start(config(optim__accumulate=8), shapes_data, tmp_path)
