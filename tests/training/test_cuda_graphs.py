"""Recorded steps: the same run, bit for bit. Recording itself needs CUDA; here a step is done again in its place."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from short_runs import CPU, ONE_QUICKLY, SMALL_ENCODER, assert_same_bits, config, final_tensors, start

from t2i.models import get_architecture, list_architectures
from t2i.text.pooler import TextBatch
from t2i.training import graphs
from t2i.training.distributed import ALONE
from t2i.training.graphs import FixedRandom, StepGraphs, padded
from t2i.training.growth import Schedule
from t2i.training.loading import BatchLoader
from t2i.training.randomness import StepRandom
from t2i.training.state import TrainingState
from t2i.training.text import PreparedText, make_text


class Recorder:
    """What record_on_cuda does, by doing the work again into the same gradients; counts what it played."""

    def __init__(self, state):
        self.state, self.recorded, self.played = state, 0, 0

    def __call__(self, work, pool):
        statistics = self.state.objective.statistics
        totals = [*statistics.sums.values(), *statistics.device_weights.values()]
        before = [total.clone() for total in totals]
        work()
        for total, value in zip(totals, before):
            total.copy_(value)
        parameters = [p for phase in self.state.phases for p in phase.module.parameters()]
        places = [(p, p.grad) for p in parameters if p.grad is not None]
        self.recorded += 1

        def play():
            weights = dict(statistics.weights)
            work()
            statistics.weights = weights
            for parameter, place in places:
                if parameter.grad is not place:
                    place.copy_(parameter.grad)
            self.played += 1

        return play


@pytest.fixture
def recorders(monkeypatch):
    """Every TrainingState records, with a Recorder; they are kept in the list."""
    made, init = [], TrainingState.__init__

    def recording(self, *arguments):
        init(self, *arguments)
        made.append(Recorder(self))
        self.graphs = StepGraphs(self.objective, made[-1])

    monkeypatch.setattr(graphs, "LENGTHS", 1)
    monkeypatch.setattr(TrainingState, "__init__", recording)
    return made


VARIANTS = {
    "plain": {},
    "lazy penalty": {"penalty_every": 3},
    "shared, pretrained": {"shared_fakes": True, "pretrain_kimg": 0.04, "likeness": 1.0, "pretrain_lr": 1e-2},
    "told": {"shared_fakes": True, "pretrain_kimg": 0.04, "likeness": 1.0, "noise_kl": 0.01},
    "words": {"contrastive": 1.0, "diversity": 1.0, "blur_kimg": 0.03, "nearest_of": 2},
    "trained text": {"text_encoder": "transformer", "encoder": SMALL_ENCODER},
}


# Each architecture and each set of losses is met in the quick suite; the slow one has all pairs.
PAIRS = [
    pytest.param(arch, variant, marks=() if variant == "plain" or arch == "stylegan2" else pytest.mark.slow)
    for arch in list_architectures()
    for variant in VARIANTS
]


@pytest.mark.parametrize("arch, variant", PAIRS)
def test_a_recorded_run_is_the_same_run(arch, variant, shapes_data, tmp_path, request):
    settings = config(arch, kimg=0.4, log_kimg=0.1, snapshot_kimg=1.0, fade=0.2, **VARIANTS[variant])
    plain, _ = start(settings, shapes_data, tmp_path / "plain")
    recorders = request.getfixturevalue("recorders")
    recorded, _ = start(settings, shapes_data, tmp_path / "recorded")
    assert recorders[0].played >= recorders[0].recorded >= 2
    assert_same_bits(final_tensors(plain), final_tensors(recorded))
    lines = [(run.folder / "metrics.jsonl").read_text().splitlines() for run in (plain, recorded)]
    for first, second in zip(*map(losses, lines), strict=True):
        assert first == second


def losses(lines):
    timing = ("seconds", "images_per_second", "memory_gib")
    return [{name: value for name, value in json.loads(line).items() if name not in timing} for line in lines]


def test_where_a_step_cannot_be_recorded_training_says_so_and_goes_on(shapes_data, tmp_path, monkeypatch):
    settings = config(kimg=0.08, shared_fakes=True)
    plain, _ = start(settings, shapes_data, tmp_path / "plain")

    def refuse(work, pool):
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    init, said = TrainingState.__init__, []

    def recording(self, *arguments):
        init(self, *arguments)
        self.graphs = StepGraphs(self.objective, refuse)

    monkeypatch.setattr(graphs, "LENGTHS", 1)
    monkeypatch.setattr(TrainingState, "__init__", recording)
    refused, outcome = start(settings, shapes_data, tmp_path / "refused", say=said.append)
    assert outcome.reason == "done"
    (line,) = [line for line in said if "recorded" in line]
    assert line.startswith("steps cannot be recorded here (operation not permitted when stream is capturing")
    assert_same_bits(final_tensors(plain), final_tensors(refused))


def test_steps_in_pieces_are_not_recorded(shapes_data, tmp_path, recorders):
    start(config(kimg=0.08, accumulate=2), shapes_data, tmp_path)
    assert recorders[0].recorded == 0


@pytest.mark.parametrize("arch", [p for p in ONE_QUICKLY if get_architecture(*p.values).grows])
def test_a_resolution_that_fades_in_does_so_in_recorded_steps_too(arch, shapes_data, tmp_path, request):
    stages = [{"resolution": 8, "share": 0.04}, {"resolution": 16, "share": 0.96}]
    settings = config(arch, kimg=0.2, fade=1.0, stages=stages, blur_kimg=0.1)
    plain, _ = start(settings, shapes_data, tmp_path / "plain")
    recorders = request.getfixturevalue("recorders")
    recorded, _ = start(settings, shapes_data, tmp_path / "recorded")
    assert recorders[0].played >= recorders[0].recorded >= 4
    assert_same_bits(final_tensors(plain), final_tensors(recorded))


def test_what_a_wider_blur_was_recorded_with_is_forgotten(shapes_data):
    text = PreparedText(shapes_data)
    settings = config(kimg=1.0, penalty="none", blur_kimg=0.3)
    state = TrainingState(settings, shapes_data.resolution, text, CPU)
    state.graphs = StepGraphs(state.objective, Recorder(state))
    loader, schedule, reaches = BatchLoader(shapes_data, text, 0, "cpu"), Schedule(settings, 16), set()
    for seen in range(0, 400, 40):
        state.enter(schedule.at(seen), seen)
        batch = loader.load(0, 8)  # the same captions, of one length
        for phase in state.due:
            state.accumulate(phase, batch, 1, 0, StepRandom(0, seen, 8), ALONE, 8)
        reaches.add(state.objective.drawer.blur_reach)
        assert len(state.graphs._kinds) == 1
    loader.close()
    assert len(reaches) == 3


def test_each_length_of_captions_has_its_recording(shapes_data):
    text = PreparedText(shapes_data)
    loader = BatchLoader(shapes_data, text, 0, "cpu")
    batch = loader.load(0, 8)
    loader.close()
    state = TrainingState(config(), shapes_data.resolution, text, CPU)
    recorder = Recorder(state)
    state.graphs = StepGraphs(state.objective, recorder)
    for more in (0, 8, 16):
        longer = padded(batch, slice(0, 8))
        tokens, mask = tuple(longer.captions)
        captions = TextBatch(F.pad(tokens, (0, 0, 0, more)), F.pad(mask, (0, more)))
        longer = dataclasses.replace(longer, captions=captions, text=captions[slice(0, 8)])
        for number in range(3):
            for phase in state.due:
                state.accumulate(phase, longer, 1, number, StepRandom(0, 8 * number, 8), ALONE, 8)
    assert recorder.recorded == 6


@pytest.mark.parametrize("length, found", [(3, 8), (16, 16), (17, 20), (20, 20)])
def test_captions_are_padded_to_no_more_than_a_trained_encoder_takes(length, found, shapes_data, tmp_path):
    settings = config(text_encoder="transformer", encoder={**SMALL_ENCODER, "max_tokens": 20})
    text = make_text(settings, shapes_data, tmp_path)
    state = TrainingState(settings, shapes_data.resolution, text, CPU)
    state.graphs = StepGraphs(state.objective, Recorder(state))
    loader = BatchLoader(shapes_data, text, 0, "cpu")
    batch = loader.load(0, 8)
    loader.close()
    captions = TextBatch(torch.full((8, length), 7), torch.ones(8, length, dtype=torch.bool))
    batch = dataclasses.replace(batch, captions=captions, text=captions)
    seen = []
    text.encoder.register_forward_hook(lambda encoder, given, encoded: seen.append(encoded.tokens.shape[1]))
    for phase in state.due:
        state.accumulate(phase, batch, 1, 0, StepRandom(0, 0, 8), ALONE, 8)
    assert set(seen) == {found}


def test_padding_changes_gradients_by_rounding_alone(shapes_data, monkeypatch):
    monkeypatch.setattr(graphs, "LENGTHS", 23)
    text = PreparedText(shapes_data)
    loader = BatchLoader(shapes_data, text, 0, "cpu")
    batch = loader.load(0, 8)
    loader.close()
    wide = padded(batch, slice(0, 8))
    assert wide.captions.tokens.shape[1] % graphs.LENGTHS == 0
    assert wide.captions.tokens.shape[1] > batch.captions.tokens.shape[1]
    found = []
    for each in (batch, wide):
        state = TrainingState(config(model={"text_layers": 2}), shapes_data.resolution, text, CPU)
        for phase in state.phases:
            state.accumulate(phase, each, 1, 0, StepRandom(0, 0, 8), ALONE, 8)
        found.append([p.grad for phase in state.phases for p in phase.module.parameters() if p.grad is not None])
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


@pytest.fixture
def double_precision():
    """In fp32 Adam takes whole steps by the last bits of gradients, in which two runs on a GPU differ."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("arch", list_architectures())
def test_on_cuda_a_recorded_run_is_the_same_run(arch, variant, shapes_data, tmp_path):
    settings = config(arch, **{**VARIANTS[variant], "pretrain_kimg": 0.0, "blur_kimg": 0.0})
    assert_recording_changes_nothing(settings, shapes_data, tmp_path, "cuda")


def assert_recording_changes_nothing(settings, data, folder, device, bound=1e-6):
    """Differences of a run's weights from those of a recorded one, as shares of how far the weights came."""
    plain = dataclasses.replace(settings, cuda_graphs=False)
    untrained, first, again, recorded = (
        weights_after(steps, each, data, folder, device)
        for steps, each in ((0, plain), (9, plain), (9, plain), (9, settings))
    )
    for name, value in first.items():
        far = (value - untrained[name]).abs().max()
        if far > 1e-3 * settings.lr_g:  # else a bias that a norm takes out: rounding
            for other in (again[name], recorded[name]):
                assert (other - value).abs().max() <= bound * far, name


def weights_after(steps, settings, data, folder, device):
    """By name, after so many steps in double precision."""
    text = make_text(settings, data, folder, write=False)
    state = TrainingState(settings, data.resolution, text, torch.device(device))
    modules = {name: part for name, part in state.parts.items() if isinstance(part, torch.nn.Module)}
    for module in modules.values():
        module.double()
    span = Schedule(settings, data.resolution).spans[-1]
    loader = BatchLoader(data, text, 0, device)
    for step in range(steps):
        state.enter(span, seen := span.faded + step * span.batch)
        batch = loader.load(seen, span.batch)
        tokens, mask = tuple(batch.captions)
        captions = TextBatch(tokens.double() if tokens.is_floating_point() else tokens, mask)
        batch = dataclasses.replace(
            batch, images=batch.images.double(), captions=captions, text=captions[slice(0, span.batch)]
        )
        for phase in state.due:
            random = StepRandom(0, seen, span.batch, device=device)
            state.accumulate(phase, batch, 1, step, random, ALONE, span.batch)
            state.update(phase, seen)
        state.average(seen + span.batch, span.batch)
    loader.close()
    assert state.graphs is None or state.graphs.refusal is None
    parameters = [(part, *named) for part, module in modules.items() for named in module.named_parameters()]
    return {f"{part}.{name}": value.detach().clone() for part, name, value in parameters}
