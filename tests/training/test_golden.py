"""A refactor proves equality: the losses of some steps of every loss and every preset stay what they were.

Wanted changes write golden/losses.json anew: python tests/training/test_golden.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from short_runs import smallest

from t2i.config import TrainConfig
from t2i.models import list_architectures
from t2i.models.growing import real_at
from t2i.presets import list_presets, preset_file, read_preset
from t2i.text.pooler import TextBatch, TextStatistics
from t2i.text.transformer import TransformerEncoder
from t2i.training.batch import Batch
from t2i.training.ema import EMA
from t2i.training.randomness import StepRandom
from t2i.training.schedule import Schedule
from t2i.training.tables import config_from
from t2i.training.trainer import Trainer

FILE = Path(__file__).parent / "golden" / "losses.json"
WIDTH, BATCH, RESOLUTION = 24, 8, 16
STAGES = [{"resolution": 8, "share": 0.4, "batch": 8, "lr": 2e-3}, {"resolution": 16, "share": 0.6}]
GROWS = {"schedule.growing": True, "schedule.stages": STAGES, "schedule.kimg": 0.08}
FULL_SIZE = {"schedule.growing": False, "schedule.stages": []}
TRAINED = {"text.encoder": "transformer", "loss.contrastive.weight": 1.0}


def cases() -> dict[str, tuple[int, str, str, dict[str, Any]]]:
    """Name -> steps, architecture, preset, changed settings."""
    found: dict[str, tuple[int, str, str, dict[str, Any]]] = {}
    for arch in list_architectures():
        for preset in list_presets(arch):
            found[f"{arch}-{preset}"] = 6, arch, preset, FULL_SIZE
    both = {"loss.contrastive.weight": 1.0, "loss.word_region.weight": 2.0}
    found |= {
        "word regions": (6, "stylegan2", "small", {**FULL_SIZE, **both}),
        "fast, two pieces": (6, "stylegan2", "fast", {**FULL_SIZE, "optim.accumulate": 2}),
        "shared fakes, three wrong captions": (
            4, "stylegan2", "small",
            {**FULL_SIZE, "loss.adversarial.shared_fakes": True, "loss.adversarial.mismatches": 3},
        ),
        "wrong captions without contrastive": (
            4, "stylegan2", "small",
            {**FULL_SIZE, "loss.contrastive.weight": 0.0, "loss.adversarial.mismatches": 2, "loss.penalty.every": 2},
        ),
        "relativistic": (4, "stylegan2", "small", {**FULL_SIZE, "loss.adversarial.kind": "relativistic"}),
        "stylegan grows": (10, "stylegan", "small", {**GROWS, "loss.contrastive.weight": 0.5}),
        "stylegan2 grows": (10, "stylegan2", "small", GROWS),
        "fast grows": (10, "stylegan2", "fast", {**GROWS, **both, "schedule.warm_up_kimg": 0.032}),
        "dfgan, sentence vector": (4, "dfgan", "small", {"text.conditioning": "sentence", "text.layers": 0,
                                                         "model.generator.output": "tanh"}),
        "trained encoder, two pieces": (4, "stylegan2", "small", {**FULL_SIZE, **TRAINED, "optim.accumulate": 2}),
        "trained encoder, MA-GP": (4, "dfgan", "small", {**TRAINED, "loss.penalty.kind": "ma-gp",
                                                         "loss.penalty.weight": 2.0, "loss.penalty.every": 1}),
        "trained encoder, no contrastive": (4, "stylegan", "small", {**FULL_SIZE, "text.encoder": "transformer"}),
    }  # fmt: skip
    return found


CASES = cases()
LONG = ("-wide", "-published", "stylegan-fast", "dfgan-fast", "fast grows", "two pieces")  # in the slow suite


class FrozenText:
    encoder, cut = None, ""
    statistics = TextStatistics.identity(WIDTH)

    def modules(self):
        return {}

    def average(self, *_):
        pass


class TrainedText:
    cut, statistics = "", TextStatistics.identity(16)

    def __init__(self):
        torch.manual_seed(5)
        self.encoder = TransformerEncoder(40, dropout=0.1, width=16, layers=2, heads=2, feed_forward=32).double()
        self.ema = EMA(self.encoder, 10_000)

    def modules(self):
        return {"text_encoder": self.encoder, "text_encoder_ema": self.ema.model}

    def average(self, images_seen, batch):
        self.ema.update(self.encoder, images_seen, batch)


pytestmark = pytest.mark.usefixtures("double_precision")


def config_of(name: str) -> TrainConfig:
    _, arch, preset, changes = CASES[name]
    settings = read_preset(preset_file(arch, preset), 32)[0]
    kind = settings["model.discriminator.kind"]
    narrow = {n: v for n, v in smallest(arch).items() if kind == arch or not n.startswith("model.discriminator")}
    if kind == "projected":
        narrow["model.discriminator.input_resolution"] = 64
    if settings.get("schedule.warm_up_kimg"):
        narrow["schedule.warm_up_kimg"] = 0.024
    encoder = {f"text.transformer.{n}": v for n, v in
               {"width": 16, "layers": 2, "heads": 2, "feed_forward": 32}.items()}  # fmt: skip
    given = {**settings, "optim.batch": BATCH, "schedule.kimg": 1.0, **narrow, **encoder, **changes}
    return config_from(given)


def make_batch(config: TrainConfig, rng: StepRandom) -> Batch:
    size = rng.batch
    if config.text.encoder == "transformer":
        tokens = (rng.uniform("text", 5) * 38 + 2).long()
    else:
        tokens = rng.normal("text", 5, WIDTH)
    mask = torch.ones(size, 5, dtype=torch.bool)
    mask[::2, 4] = False
    belongs = torch.eye(size, dtype=torch.bool)
    belongs[1, 0] = True
    wrong = torch.stack([torch.arange(size).roll(k + 1) for k in range(config.adversarial.mismatches)], 1)
    wrong[0] = -1
    axes = [0, 3, 2, 0] * (size // 4) if "word_region" in config.terms else [0] * size
    images = rng.uniform("images", 3, RESOLUTION, RESOLUTION) * 2 - 1
    captions = TextBatch(tokens, mask)
    return Batch(images, captions, captions, belongs, wrong, np.array(axes))


def train(name: str) -> tuple[list[dict[str, float]], dict[str, float]]:
    """The metrics of each step, and the sum of each network's absolute weights after them."""
    config = config_of(name)
    text = TrainedText() if config.text.encoder == "transformer" else FrozenText()
    trainer = Trainer(config, RESOLUTION, text, torch.device("cpu"))
    for part in trainer.parts.values():
        if isinstance(part, torch.nn.Module):
            part.double()
    schedule, images_seen, lines = Schedule(config, RESOLUTION), 0, []
    for _ in range(CASES[name][0]):
        plan = schedule.plan(images_seen)
        rng = StepRandom(config.run.seed, images_seen, plan.batch)
        batch = make_batch(config, rng)
        trainer.step(plan, batch.with_images(real_at(batch.images, plan.growth)), rng)
        images_seen += plan.batch
        lines.append(trainer.statistics.read())
    parts = {name: part for name, part in trainer.parts.items() if isinstance(part, torch.nn.Module)}
    return lines, {name: sum(p.abs().sum().item() for p in part.parameters()) for name, part in parts.items()}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n.endswith(LONG) else ()) for n in CASES])
def test_the_losses_are_what_they_were(name):
    golden = json.loads(FILE.read_text())[name]
    lines, sums = train(name)
    for step, (line, expected) in enumerate(zip(lines, golden["lines"], strict=True)):
        assert line == pytest.approx(expected, rel=1e-6, abs=1e-8), f"step {step}"
    assert sums == pytest.approx(golden["sums"], rel=1e-8)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    written = {}
    for name in CASES:
        lines, sums = train(name)
        rounded = [{key: float(f"{value:.9g}") for key, value in line.items()} for line in lines]
        written[name] = {"lines": rounded, "sums": {key: float(f"{value:.9g}") for key, value in sums.items()}}
    FILE.write_text(json.dumps(written))
