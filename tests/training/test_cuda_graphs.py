"""Captured steps: the same run, bit for bit. Capturing itself needs CUDA; here a step is done again in its place."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from short_runs import (
    CPU,
    ONE_QUICKLY,
    SMALL_ENCODER,
    assert_same_bits,
    config,
    final_tensors,
    first_batch,
    logged,
    new_trainer,
    plan_of,
    start,
    take_step,
)

from t2i.models import get_architecture, list_architectures
from t2i.text.pooler import TextBatch
from t2i.training import cuda_graphs
from t2i.training.cuda_graphs import FixedRandom, StepGraphs, padded
from t2i.training.loading import BatchLoader
from t2i.training.randomness import StepRandom
from t2i.training.schedule import Schedule
from t2i.training.text import make_text
from t2i.training.trainer import Trainer


class Capture:
    """What capture_on_cuda does, by doing the work again into the same gradients; counts what it replayed."""

    def __init__(self, trainer):
        self.trainer, self.captured, self.replayed = trainer, 0, 0

    def __call__(self, work, pool):
        statistics = self.trainer.statistics
        totals = [*statistics.sums.values(), *statistics.device_weights.values()]
        before = [total.clone() for total in totals]
        work()
        for total, value in zip(totals, before):
            total.copy_(value)
        parameters = [p for phase in self.trainer.phases for p in phase.module.parameters()]
        places = [(p, p.grad) for p in parameters if p.grad is not None]
        self.captured += 1

        def replay():
            weights = dict(statistics.weights)
            work()
            statistics.weights = weights
            for parameter, place in places:
                if parameter.grad is not place:
                    place.copy_(parameter.grad)
            self.replayed += 1

        return replay


@pytest.fixture
def captures(monkeypatch):
    """Every Trainer captures, with a Capture; they are kept in the list."""
    made, init, backward = [], Trainer.__init__, Trainer._backward

    def capturing(self, *arguments, **named):
        init(self, *arguments, **named)
        made.append(Capture(self))
        self.graphs = StepGraphs(self.statistics, self.text.encoder, made[-1])

    def sharing(self, phase, *given):
        # What a replayed phase hands on lies at the same addresses; what was done again does not.
        *given, shared = given
        self.handed_on = backward(self, phase, *given, shared and self.handed_on)
        return self.handed_on

    monkeypatch.setattr(cuda_graphs, "LENGTHS", 1)
    monkeypatch.setattr(Trainer, "__init__", capturing)
    monkeypatch.setattr(Trainer, "_backward", sharing)
    return made


VARIANTS = {
    "plain": {},
    "lazy penalty": {"loss.penalty.every": 3},
    "shared": {"loss.adversarial.shared_fakes": True, "loss.contrastive.weight": 1.0},
    "energy": {"loss.energy.weight": 1.0, "schedule.warm_up_kimg": 0.04, "schedule.warm_up_lr": 1e-2},
    "trained text": {"text.encoder": "transformer", "text.transformer": SMALL_ENCODER},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("arch", list_architectures())
def test_a_captured_run_is_the_same_run(arch, variant, shapes_data, tmp_path, request):
    length = {"schedule.kimg": 0.4, "schedule.fade": 0.2, "run.log_kimg": 0.1, "run.snapshot_kimg": 1.0}
    settings = config(arch, **length, **VARIANTS[variant])
    plain, _ = start(settings, shapes_data, tmp_path / "plain")
    captures = request.getfixturevalue("captures")
    captured, _ = start(settings, shapes_data, tmp_path / "captured")
    assert captures[0].replayed >= captures[0].captured >= 2
    assert_same_bits(final_tensors(plain), final_tensors(captured))
    assert losses(plain) == losses(captured)


def losses(run):
    timing = ("seconds", "images_per_second", "memory_gib")
    return [{name: value for name, value in line.items() if name not in timing} for line in logged(run)]


@pytest.mark.slow
def test_where_a_step_cannot_be_captured_training_says_so_and_goes_on(shapes_data, tmp_path, monkeypatch):
    settings = config(**{"schedule.kimg": 0.08, **VARIANTS["shared"]})
    plain, _ = start(settings, shapes_data, tmp_path / "plain")

    def refuse(work, pool):
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    init, said = Trainer.__init__, []

    def capturing(self, *arguments, **named):
        init(self, *arguments, **named)
        self.graphs = StepGraphs(self.statistics, self.text.encoder, refuse)

    monkeypatch.setattr(cuda_graphs, "LENGTHS", 1)
    monkeypatch.setattr(Trainer, "__init__", capturing)
    refused, outcome = start(settings, shapes_data, tmp_path / "refused", say=said.append)
    assert outcome.reason == "done"
    (line,) = [line for line in said if "captured" in line]
    assert line.startswith("steps cannot be captured here (operation not permitted when stream is capturing")
    assert_same_bits(final_tensors(plain), final_tensors(refused))


@pytest.mark.slow
def test_steps_in_pieces_are_not_captured(shapes_data, tmp_path, captures):
    start(config(schedule__kimg=0.08, optim__accumulate=2), shapes_data, tmp_path)
    assert captures[0].captured == 0


@pytest.mark.slow
@pytest.mark.parametrize("arch", [p for p in ONE_QUICKLY if get_architecture(*p.values).generator.grows])
def test_a_resolution_that_fades_in_does_so_in_captured_steps_too(arch, shapes_data, tmp_path, request):
    stages = [{"resolution": 8, "share": 0.04}, {"resolution": 16, "share": 0.96}]
    times = {"kimg": 0.2, "fade": 1.0, "stages": stages}
    settings = config(arch, schedule=times)
    plain, _ = start(settings, shapes_data, tmp_path / "plain")
    captures = request.getfixturevalue("captures")
    captured, _ = start(settings, shapes_data, tmp_path / "captured")
    assert captures[0].replayed >= captures[0].captured >= 2
    assert_same_bits(final_tensors(plain), final_tensors(captured))


def capturing_trainer(data, **changes):
    trainer = new_trainer(data, **changes)
    trainer.graphs = StepGraphs(trainer.statistics, trainer.text.encoder, Capture(trainer))
    return trainer


def test_each_length_of_captions_is_captured_apart(shapes_data):
    batch, trainer = first_batch(shapes_data), capturing_trainer(shapes_data, **{"loss.penalty.every": 1})
    for length, more in enumerate((0, 8, 16)):
        longer = padded(batch, slice(0, 8))
        tokens, mask = tuple(longer.captions)
        captions = TextBatch(F.pad(tokens, (0, 0, 0, more)), F.pad(mask, (0, more)))
        longer = dataclasses.replace(longer, captions=captions, text=captions[slice(0, 8)])
        for number in range(3):
            take_step(trainer, longer, 1 + 3 * length + number)
    assert trainer.graphs.capture.captured == 6


@pytest.mark.parametrize("length, found", [(3, 8), (16, 16), (17, 20), (20, 20)])
def test_captions_are_padded_to_no_more_than_a_trained_encoder_takes(length, found, shapes_data, tmp_path):
    encoder = {"text.encoder": "transformer", "text.transformer": {**SMALL_ENCODER, "max_tokens": 20}}
    settings = config(**encoder)
    text = make_text(settings, shapes_data, tmp_path)
    trainer = Trainer(settings, shapes_data.resolution, text, CPU)
    trainer.graphs = StepGraphs(trainer.statistics, text.encoder, Capture(trainer))
    captions = TextBatch(torch.full((8, length), 7), torch.ones(8, length, dtype=torch.bool))
    batch = dataclasses.replace(first_batch(shapes_data, text=text), captions=captions, text=captions)
    seen = []
    text.encoder.register_forward_hook(lambda encoder, given, encoded: seen.append(encoded.tokens.shape[1]))
    take_step(trainer, batch)
    assert set(seen) == {found}


def test_padding_changes_gradients_by_rounding_alone(shapes_data, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "LENGTHS", 23)
    batch = first_batch(shapes_data)
    wide = padded(batch, slice(0, 8))
    assert wide.captions.tokens.shape[1] % cuda_graphs.LENGTHS == 0
    assert wide.captions.tokens.shape[1] > batch.captions.tokens.shape[1]
    found, plan = [], dataclasses.replace(plan_of(config(), 0), lr_g=0.0, lr_d=0.0)
    for each in (batch, wide):
        trainer = new_trainer(shapes_data, text__layers=2)
        trainer.step(plan, each, StepRandom(0, 0, 8))
        found.append([p.grad for phase in trainer.phases for p in phase.module.parameters() if p.grad is not None])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


def test_fixed_numbers_are_a_steps_numbers_at_the_places_of_the_last():
    rows = slice(2, 6)
    fixed = FixedRandom(StepRandom(3, 0, 8))
    first = fixed.take(rows).normal("z", 5)
    assert torch.equal(first, StepRandom(3, 0, 8).take(rows).normal("z", 5))
    uniform = fixed.uniform("cut", 4)
    fixed.fill(StepRandom(3, 8, 8))
    assert fixed.take(rows).normal("z", 5) is first
    assert torch.equal(first, StepRandom(3, 8, 8).take(rows).normal("z", 5))
    assert torch.equal(uniform, StepRandom(3, 8, 8).uniform("cut", 4))
    assert np.array_equal(fixed.numpy("order").random(3), StepRandom(3, 8, 8).numpy("order").random(3))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("arch", list_architectures())
def test_on_cuda_a_captured_run_is_the_same_run(arch, variant, shapes_data, tmp_path):
    """In full size: differences of its weights, as shares of how far they came."""
    settings = config(arch, **{**VARIANTS[variant], "schedule.warm_up_kimg": 0.0})
    settings = settings.changed(schedule__growing=False, schedule__warm_up_lr=None)
    plain = settings.changed(optim__cuda_graphs=False)
    untrained, first, again, captured = (
        weights_after(steps, each, shapes_data, tmp_path, "cuda")
        for steps, each in ((0, plain), (9, plain), (9, plain), (9, settings))
    )
    for name, value in first.items():
        far = (value - untrained[name]).abs().max()
        if far > 1e-3 * settings.optim.lr_g:  # else a bias that a norm takes out: rounding
            for other in (again[name], captured[name]):
                assert (other - value).abs().max() <= 1e-6 * far, name


def weights_after(steps, settings, data, folder, device):
    """By name, after so many steps in double precision."""
    text = make_text(settings, data, folder, write=False)
    trainer = Trainer(settings, data.resolution, text, torch.device(device))
    modules = {name: part for name, part in trainer.parts.items() if isinstance(part, torch.nn.Module)}
    for module in modules.values():
        module.double()
    schedule, loader = Schedule(settings, data.resolution), BatchLoader(data, text, 0, device)
    for step in range(steps):
        plan = schedule.plan(step * settings.optim.batch)
        batch = loader.load(plan.images_seen, plan.batch)
        tokens, mask = tuple(batch.captions)
        captions = TextBatch(tokens.double() if tokens.is_floating_point() else tokens, mask)
        batch = dataclasses.replace(
            batch, images=batch.images.double(), captions=captions, text=captions[slice(0, plan.batch)]
        )
        trainer.step(plan, batch, StepRandom(0, plan.images_seen, plan.batch, device=device))
    loader.close()
    if trainer.graphs is not None and steps:
        assert trainer.graphs.refusal is None
        assert any(kind.graphs for kind in trainer.graphs._kinds.values())
    parameters = [(part, *named) for part, module in modules.items() for named in module.named_parameters()]
    return {f"{part}.{name}": value.detach().clone() for part, name, value in parameters}
