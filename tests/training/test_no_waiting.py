"""A training step asks the device for nothing: a GPU and its host run on side by side."""

import dataclasses

import pytest
import torch
from short_runs import CPU, config
from t2i.training.finite import NotFinite
from t2i.training.state import TrainingState
from torch.utils._python_dispatch import TorchDispatchMode

from t2i.models import list_architectures
from t2i.training.distributed import ALONE
from t2i.training.loading import BatchLoader, gather_pictures
from t2i.training.randomness import StepRandom
from t2i.training.text import PreparedText

ASKS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "equal")


class NoQuestions(TorchDispatchMode):
    """Fails where the host would have to wait for a number, or for a size that depends on numbers."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in ASKS, f"{func} waits for the device"
        if func.overloadpacket.__name__ in ("index", "index_put", "index_put_"):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def make_state(data, **settings):
    state = TrainingState(config(**settings), data.resolution, PreparedText(data), CPU)
    state.check.late = True  # as on CUDA
    return state


def batch_of(data, count=8):
    loader = BatchLoader(data, PreparedText(data), 0, "cpu", mirrors=True)
    batch = loader.load(0, count)
    loader.close()
    return batch


def step(state, batch, number=0):
    random = StepRandom(0, number * len(batch), len(batch))
    for phase in state.phases:
        state.accumulate(phase, batch, 1, number, random, ALONE, len(batch))
        state.update(phase, number * len(batch))
    state.average((number + 1) * len(batch), len(batch))


TERMS = {
    "plain": {},
    "all terms": {
        "contrastive": 1.0, "places": True, "diversity": 1.0, "likeness": 1.0, "noise_kl": 0.01, "shared_fakes": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("arch", list_architectures())
def test_no_step_waits_for_the_device(arch, terms, shapes_data):
    state, batch = make_state(shapes_data, arch=arch, growing=False, **TERMS[terms]), batch_of(shapes_data)
    assert batch.mirror.any()
    with NoQuestions():
        for number in range(2):
            step(state, batch, number)
    assert "gradient_d" in state.objective.statistics.read()


def test_what_waits_is_found():
    with NoQuestions():
        for wait in (lambda x: float(x[0]), lambda x: x[x > 0], lambda x: bool((x > 0).all()), lambda x: x.nonzero()):
            with pytest.raises(AssertionError, match="waits"):
                wait(torch.ones(3))


def test_late_verdict_stops_the_next_step_and_the_weights_are_those_before(shapes_data):
    state, batch = make_state(shapes_data), batch_of(shapes_data)
    step(state, batch)
    before = {name: value.clone() for name, value in state.discriminator.state_dict().items()}
    broken = dataclasses.replace(batch, images=batch.images * float("nan"))
    step(state, broken, 1)
    for name, value in state.discriminator.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(NotFinite, match="gradient of phase D is nan after 8 images"):
        step(state, batch, 2)


def test_late_and_early_checks_take_the_same_steps(shapes_data):
    batch, found = batch_of(shapes_data), []
    for late in (True, False):
        state = make_state(shapes_data)
        state.check.late = late
        for number in range(3):
            step(state, batch, number)
        found.append({**state.discriminator.state_dict(), **state.ema.model.state_dict()})
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_verdicts_of_steps_that_were_taken_back_are_forgotten(shapes_data):
    state, batch = make_state(shapes_data), batch_of(shapes_data)
    step(state, dataclasses.replace(batch, images=batch.images * float("nan")))
    state.check.forget()
    step(state, batch, 1)


def test_pictures_on_the_device_make_the_same_batches(shapes_data):
    plain, resident = (
        BatchLoader(shapes_data, PreparedText(shapes_data), 3, "cpu", resident=pictures)
        for pictures in (None, gather_pictures(shapes_data, CPU, step=100))
    )
    for images_seen in (0, 8, 160):
        a, b = plain.load(images_seen, 8), resident.load(images_seen, 8)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.captions.tokens, b.captions.tokens)
    for loader in (plain, resident):
        loader.close()
