"""A training step asks the device for nothing: a GPU and its host run on side by side."""

import pytest
import torch
from short_runs import CPU, first_batch, new_trainer, take_step
from torch.utils._python_dispatch import TorchDispatchMode

from t2i.models import list_architectures
from t2i.training.loading import BatchLoader, gather_images
from t2i.training.nan_guard import NotFinite
from t2i.training.text import PreparedText

ASKS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "equal")


class NoQuestions(TorchDispatchMode):
    """Fails where the host would have to wait for a number, or for a size that depends on numbers."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in ASKS, f"{func} waits for the device"
        if func.overloadpacket.__name__ in ("index", "index_put", "index_put_"):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def make_trainer(data, **changes):
    trainer = new_trainer(data, **changes)
    trainer.guard.late = True  # as on CUDA
    return trainer


LOSSES = {
    "plain": {},
    "all terms": {
        "loss.contrastive.weight": 1.0, "loss.word_region.weight": 1.0, "loss.energy.weight": 1.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("arch", list_architectures())
def test_no_step_waits_for_the_device(arch, losses, shapes_data):
    trainer = make_trainer(shapes_data, arch=arch, schedule__growing=False, **LOSSES[losses])
    batch = first_batch(shapes_data, flips=True)
    assert batch.flip_axis.any()
    with NoQuestions():
        for number in range(2):
            take_step(trainer, batch, number)
    assert "gradient_d" in trainer.statistics.read()


def test_what_waits_is_found():
    with NoQuestions():
        for wait in (lambda x: float(x[0]), lambda x: x[x > 0], lambda x: bool((x > 0).all()), lambda x: x.nonzero()):
            with pytest.raises(AssertionError, match="waits"):
                wait(torch.ones(3))


def test_late_verdict_stops_the_next_step_and_the_weights_are_those_before(shapes_data):
    trainer, batch = make_trainer(shapes_data), first_batch(shapes_data)
    take_step(trainer, batch)
    before = {name: value.clone() for name, value in trainer.discriminator.state_dict().items()}
    broken = batch.with_images(batch.images * float("nan"))
    take_step(trainer, broken, 1)
    for name, value in trainer.discriminator.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(NotFinite, match="gradient of phase D is nan after 8 images"):
        take_step(trainer, batch, 2)


def test_late_and_early_checks_take_the_same_steps(shapes_data):
    batch, found = first_batch(shapes_data), []
    for late in (True, False):
        trainer = make_trainer(shapes_data)
        trainer.guard.late = late
        for number in range(3):
            take_step(trainer, batch, number)
        found.append({**trainer.discriminator.state_dict(), **trainer.ema.model.state_dict()})
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_verdicts_of_steps_that_were_taken_back_are_forgotten(shapes_data):
    trainer, batch = make_trainer(shapes_data), first_batch(shapes_data)
    take_step(trainer, batch.with_images(batch.images * float("nan")))
    trainer.guard.clear()
    take_step(trainer, batch, 1)


def test_images_on_the_device_make_the_same_batches(shapes_data):
    plain, resident = (
        BatchLoader(shapes_data, PreparedText(shapes_data), 3, "cpu", resident=images)
        for images in (None, gather_images(shapes_data, CPU, step=100))
    )
    for images_seen in (0, 8, 160):
        a, b = plain.load(images_seen, 8), resident.load(images_seen, 8)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.captions.tokens, b.captions.tokens)
    for loader in (plain, resident):
        loader.close()
