"""Can a discriminator's trunk learn outlines at all? It alone, as a classifier of the eight shapes, without a game.

    python benchmarks/outlines.py DATA VARIANT [VARIANT ...]

DATA: any prepared data set, for the text statistics that a network is made with. VARIANT: see variants.py; "lr_d"
and "beta1" are its optimiser's. 24,000 images of one object, 12,000 of them different; the share of right answers is
of 500 images whose pairs of colour and shape were never trained (chance 0.12).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from script import run_script
from variants import settings_of

from t2i.data.prepared import PreparedDataset
from t2i.data.shapes import SHAPES, draw, evaluation_scenes
from t2i.training.text import PreparedText
from t2i.training.trainer import make_networks

CPU = torch.device("cpu")
BATCH, IMAGES, DIFFERENT, LOOKS = 32, 24_000, 12_000, 4


def draw_scenes(count: int, seen: bool, resolution: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [count, 3, R, R] in [-1, 1], and which of SHAPES each shows, [count]."""
    scenes = evaluation_scenes(count, seen, seed=seed)
    pixels = np.stack([draw(scene, resolution) for scene in scenes])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return images, torch.tensor([SHAPES.index(scene.items[0].shape) for scene in scenes])


def learn(variant: str, data: PreparedDataset, resolution: int) -> tuple[str, list[float]]:
    """The variant's name, and the share of right answers after each quarter."""
    name, settings = settings_of(variant, data, CPU, **{"optim.precision": "fp32"})
    _, trunk = make_networks(settings, resolution, PreparedText(data).statistics)
    images, labels = draw_scenes(DIFFERENT, True, resolution, seed=5)
    unseen, answers = draw_scenes(500, False, resolution, seed=9)
    head = torch.nn.Linear(trunk.features(images[:4]).summary.flatten(1).shape[1], len(SHAPES))
    weights = [*trunk.parameters(), *head.parameters()]
    adam = torch.optim.Adam(weights, settings.optim.lr_d, (settings.optim.beta1, settings.optim.beta2))
    right = []
    for step in range(1, IMAGES // BATCH + 1):
        rows = torch.arange((step - 1) * BATCH, step * BATCH) % DIFFERENT
        loss = F.cross_entropy(head(trunk.features(images[rows]).summary.flatten(1)), labels[rows])
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step * LOOKS % (IMAGES // BATCH) < LOOKS:
            with torch.no_grad():
                found = head(trunk.features(unseen).summary.flatten(1)).argmax(1)
            right.append((found == answers).float().mean().item())
    return name, right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--resolution", type=int, default=32)
    options = parser.parse_args()
    torch.manual_seed(0)
    data = PreparedDataset(options.data)
    counts = [IMAGES * (look + 1) // LOOKS for look in range(LOOKS)]
    table = Table("trunk", *(f"{count:,}" for count in counts))
    for variant in options.variants:
        name, right = learn(variant, data, options.resolution)
        table.add_row(name, *(f"{share:.2f}" for share in right))
    Console(width=100).print(table)


if __name__ == "__main__":
    run_script(main)
