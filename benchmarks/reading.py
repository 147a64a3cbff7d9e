"""Can a network learn from captions which of two objects is where? By the text alone, without images or a game.

    python benchmarks/reading.py [--captions 8000]

Captions of two drawn shapes ("a tiny ring beneath an orange box on grey"), in the words of `t2i prepare --shapes`, as
MiniLM's tokens; the pooler that networks have, and a layer on it, learn to name the colour at the left, right, top and
bottom (two of them in each caption). Right answers are of captions that were not trained on; 0.5 is the share of one
that knows the two colours and not which is where.
"""

import argparse
import random

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from script import run_script
from torch import nn

from t2i.data.shapes import COLOURS, Scene, scene_at
from t2i.data.shapes_captions import caption
from t2i.layers import TextLayer
from t2i.text.encoders import load_encoder
from t2i.text.pooler import AttentionPooler, TextBatch, TextStatistics

SIDES = {"left of": (0, 1), "right of": (1, 0), "above": (2, 3), "below": (3, 2)}
BATCH, HELD_OUT, LOOKS = 32, 1000, (4_000, 8_000, 16_000, 32_000, 64_000)


def scenes_of_two(count: int) -> list[Scene]:
    scenes, number = [], 0
    while len(scenes) < count:
        scene = scene_at(7, number)
        number += 1
        if len(scene.items) == 2:
            scenes.append(scene)
    return scenes


def places(scene: Scene) -> list[int]:
    """The number of the colour at each side, -1 where the caption says nothing."""
    found = [-1] * 4
    for side, item in zip(SIDES[scene.relation], scene.items):
        found[side] = list(COLOURS).index(item.colour)
    return found


def learn(text: TextBatch, answers: torch.Tensor, statistics: TextStatistics, text_layers: int) -> list[float]:
    """The share of right answers after each of LOOKS captions."""
    torch.manual_seed(0)
    pooler = AttentionPooler(statistics, text_layers)
    network = nn.Sequential(pooler, TextLayer(pooler.out_width, 256), nn.Linear(256, 4 * len(COLOURS)))
    adam = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.9, 0.99))
    order = torch.Generator().manual_seed(1)
    right = []
    for step in range(1, LOOKS[-1] // BATCH + 1):
        rows = torch.randint(HELD_OUT, len(answers), (BATCH,), generator=order)
        said = answers[rows] >= 0
        loss = F.cross_entropy(network(text[rows]).unflatten(1, (4, -1))[said], answers[rows][said])
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step * BATCH in LOOKS:
            with torch.no_grad():
                named = network(text[:HELD_OUT]).unflatten(1, (4, -1)).argmax(2)
            said = answers[:HELD_OUT] >= 0
            right.append((named == answers[:HELD_OUT])[said].float().mean().item())
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=8000)
    options = parser.parse_args()
    scenes, dice = scenes_of_two(options.captions + HELD_OUT), random.Random(1)
    text = load_encoder().encode_batch([caption(scene, dice.random) for scene in scenes])
    answers = torch.tensor([places(scene) for scene in scenes])
    tokens = text.tokens[text.mask].float()
    statistics = TextStatistics.identity(tokens.shape[1])
    statistics = statistics._replace(token_mean=tokens.mean(0), token_std=tokens.std(0).clamp(min=1e-3))
    table = Table("text_layers", *(f"{count:,} captions" for count in LOOKS))
    for layers in (0, 1):
        table.add_row(str(layers), *(f"{share:.2f}" for share in learn(text, answers, statistics, layers)))
    Console(width=100).print(table)


if __name__ == "__main__":
    run_script(main)
