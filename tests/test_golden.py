"""A refactor proves equality: the losses of twenty steps, for each architecture, stay what they were.

Wanted changes write new ones: python tests/test_golden.py
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from t2i.config import TrainConfig, resolve
from t2i.models import get_architecture, list_architectures
from t2i.text.pooler import TextBatch, TextStatistics
from t2i.training.batch import Batch
from t2i.training.objective import Phase
from t2i.training.randomness import StepRandom
from t2i.training.state import make_adam, make_objective

FOLDER = Path(__file__).parent / "golden"
WIDTH, BATCH, STEPS = 24, 8, 20


@pytest.fixture(autouse=True)
def double_precision():
    """Twenty steps amplify the last bits of fp32, which processors and thread counts do not share."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def losses(arch: str) -> list[dict[str, float]]:
    architecture = get_architecture(arch)
    config: TrainConfig = resolve(("test", {**architecture.defaults, "arch": arch, "batch": BATCH, "lr_g": 1e-3}))[0]
    options = {**architecture.model_options, **architecture.smallest}
    generator, discriminator = architecture.build(16, "attention", TextStatistics.identity(WIDTH), options, 0)
    generator.double(), discriminator.double()
    objective = make_objective(config, generator, discriminator)
    objective.penalty_weight = 2.0
    cpu = torch.device("cpu")
    phases = [
        Phase("D", discriminator, make_adam(discriminator, config.lr_d, config, cpu)),
        Phase("G", generator, make_adam(generator, config.lr_g, config, cpu)),
    ]
    lines = []
    for step in range(STEPS):
        random = StepRandom(0, step * BATCH, BATCH)
        text = TextBatch(random.normal("text", 5, WIDTH), torch.ones(BATCH, 5, dtype=torch.bool))
        images = random.uniform("images", 3, 16, 16) * 2 - 1
        ids = torch.arange(BATCH)
        batch = Batch(images, text, text, torch.eye(BATCH, dtype=torch.bool), ids.roll(1)[:, None], np.zeros(BATCH))
        for phase in phases:
            generator.requires_grad_(phase.name == "G")
            discriminator.requires_grad_(phase.name == "D")
            phase.optimizer.zero_grad()
            objective.accumulate_gradients(phase, batch, 1.0, step, random)
            phase.optimizer.step()
        lines.append({name: round(value, 6) for name, value in objective.statistics.read().items()})
    return lines


@pytest.mark.parametrize("arch", list_architectures())
def test_twenty_steps_have_the_golden_losses(arch):
    golden = json.loads((FOLDER / f"{arch}.json").read_text())
    found = losses(arch)
    assert len(found) == len(golden)
    for step, (line, expected) in enumerate(zip(found, golden)):
        assert line == pytest.approx(expected, rel=1e-5, abs=2e-6), f"step {step}"


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    for name in list_architectures():
        text = ",\n".join(json.dumps(line) for line in losses(name))
        (FOLDER / f"{name}.json").write_text(f"[\n{text}\n]\n")
