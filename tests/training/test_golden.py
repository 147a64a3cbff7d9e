"""A refactor proves equality: the losses of some steps of every loss and every preset stay what they were.

golden/losses.json was written by t2i 0.1, settings under its names. Wanted changes write it anew:
python tests/training/test_golden.py
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from t2i.aliases import rename_settings
from t2i.config import TrainConfig
from t2i.models.growing import real_at
from t2i.text.pooler import TextBatch, TextStatistics
from t2i.text.transformer import TransformerEncoder
from t2i.toml_tables import flatten
from t2i.training.batch import Batch
from t2i.training.ema import EMA
from t2i.training.randomness import StepRandom
from t2i.training.schedule import Schedule
from t2i.training.tables import config_from
from t2i.training.trainer import Trainer

FILE = Path(__file__).parent / "golden" / "losses.json"
GOLDEN = json.loads(FILE.read_text())
WIDTH, BATCH, RESOLUTION = 24, 8, 16
NAMES = {  # metrics of 0.1
    "contrast": "contrastive_d", "contrast_g": "contrastive_g", "places": "word_region_d", "places_g": "word_region_g",
    "mirrored": "flipped_negatives", "loss_likeness": "reconstruction", "loss_perceptual": "perceptual",
    "noise_nats": "posterior_kl",
}  # fmt: skip
PARTS = {"contrast": "contrastive", "places": "word_region", "noise_encoder": "posterior"}
TERMS = ("contrastive", "word_region", "diversity")  # whose logged values had no weight then either


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


@pytest.fixture(autouse=True)
def double_precision():
    """Steps amplify the last bits of fp32, which processors and thread counts do not share."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def config_of(case: dict) -> TrainConfig:
    return config_from(rename_settings(flatten({"batch": BATCH, "kimg": 1.0, "contrastive": None, **case["settings"]})))


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


def train(case: dict) -> tuple[list[dict[str, float]], dict[str, float]]:
    """The metrics of each step, and the sum of each network's absolute weights after them."""
    config = config_of(case)
    text = TrainedText() if config.text.encoder == "transformer" else FrozenText()
    trainer = Trainer(config, RESOLUTION, text, torch.device("cpu"))
    for part in trainer.parts.values():
        if isinstance(part, torch.nn.Module):
            part.double()
    schedule, images_seen, lines = Schedule(config, RESOLUTION), 0, []
    for _ in case["lines"]:
        plan = schedule.plan(images_seen)
        rng = StepRandom(config.run.seed, images_seen, plan.batch)
        batch = make_batch(config, rng)
        trainer.step(plan, batch.with_images(real_at(batch.images, plan.growth)), rng)
        images_seen += plan.batch
        lines.append(trainer.statistics.read())
    parts = {name: part for name, part in trainer.parts.items() if isinstance(part, torch.nn.Module)}
    return lines, {name: sum(p.abs().sum().item() for p in part.parameters()) for name, part in parts.items()}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_losses_are_what_they_were(name):
    case = GOLDEN[name]
    lines, sums = train(case)
    for step, (line, golden) in enumerate(zip(lines, case["lines"], strict=True)):
        expected = {NAMES.get(key, key): value for key, value in golden.items()}
        if "posterior_kl" in expected:  # it was logged without its weight
            expected["posterior_kl"] *= case["settings"]["noise_kl"]
        assert line == pytest.approx(expected, rel=1e-6, abs=1e-8), f"step {step}"
    assert sums == pytest.approx({PARTS.get(key, key): value for key, value in case["sums"].items()}, rel=1e-8)
