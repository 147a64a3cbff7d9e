"""What could a network know of words that no caption of its training says ("crimson")? By the text alone.

    python benchmarks/unknown_words.py [--captions 1500]

The pooler that networks have, and a linear layer for each attribute, learn from captions of one drawn shape to name its
colour, shape, size and background, as far as the caption says them; then they read the prompts of `attributes.py
--words`, with one word that no such caption holds. Also with noise on the tokens (in their standard deviations) and
with a share of their numbers dropped, which should keep a network from holding on to the words that it knows.
"""

import argparse
import random

import torch
import torch.nn.functional as F
from attributes import NEW_WORDS, unusual
from rich.console import Console
from rich.table import Table
from script import run_script
from torch import Tensor, nn

from t2i.data import shapes_captions
from t2i.data.shapes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene, evaluation_scenes
from t2i.text.encoders import load_encoder
from t2i.text.pooler import AttentionPooler, TextBatch, TextStatistics

NAMES = {"colour": list(COLOURS), "shape": list(SHAPES), "size": list(SIZES), "background": list(BACKGROUNDS)}
WORDS = {attribute: getattr(shapes_captions, f"{attribute.upper()}_WORDS") for attribute in NAMES}
STEPS, BATCH, PROMPTS = 700, 64, 300


def name_of(scene: Scene, attribute: str) -> str:
    return scene.background if attribute == "background" else getattr(scene.items[0], attribute)


def answers(scenes: list[Scene], attribute: str) -> Tensor:
    return torch.tensor([NAMES[attribute].index(name_of(scene, attribute)) for scene in scenes])


def said(scenes: list[Scene], captions: list[str], attribute: str) -> Tensor:
    """Does the caption name the attribute? bool [N]."""
    words = (WORDS[attribute][name_of(scene, attribute)] for scene in scenes)
    return torch.tensor([any(word in caption for word in known) for known, caption in zip(words, captions)])


def learn(
    text: TextBatch,
    known: dict[str, Tensor],
    told: dict[str, Tensor],
    statistics: TextStatistics,
    noise: float,
    drop: float,
) -> tuple[nn.Module, nn.ModuleDict]:
    torch.manual_seed(0)
    pooler = AttentionPooler(statistics, lr_multiplier=0.1)
    layers = nn.ModuleDict({name: nn.Linear(pooler.out_width, len(NAMES[name])) for name in NAMES})
    adam = torch.optim.Adam([{"params": pooler.parameters(), "lr": 1e-2}, {"params": layers.parameters(), "lr": 1e-3}])
    for _ in range(STEPS):
        rows = torch.randint(len(text.mask), (BATCH,))
        read = pooler.read(text[rows])
        tokens = F.dropout(read.tokens + noise * torch.randn_like(read.tokens), drop)
        condition = pooler.pool(TextBatch(tokens, read.mask))
        losses = [
            F.cross_entropy(layers[name](condition)[told[name][rows]], known[name][rows][told[name][rows]])
            for name in NAMES
        ]
        adam.zero_grad()
        sum(losses).backward()
        adam.step()
    return pooler, layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=1500)
    options = parser.parse_args()
    encoder, dice = load_encoder(), random.Random(0)
    scenes = evaluation_scenes(options.captions, True, 1)
    captions = [shapes_captions.caption(scene, dice.random) for scene in scenes]
    text = encoder.encode_batch(captions).to("cpu")
    tokens = text.tokens[text.mask]
    statistics = TextStatistics.identity(tokens.shape[1])
    std = tokens.std(0)
    statistics = statistics._replace(token_mean=tokens.mean(0), token_std=std.clamp(min=0.1 * float(std.mean())))
    known = {name: answers(scenes, name) for name in NAMES}
    told = {name: said(scenes, captions, name) for name in NAMES}
    asked = evaluation_scenes(PROMPTS, True, 1)
    prompts = [(attributes[0], encoder.encode_batch(p).to("cpu")) for _, attributes, p in unusual(asked)][: len(NAMES)]
    table = Table("noise", "dropped", *(f"new {name} words" for name in NEW_WORDS))
    for noise, drop in ((0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (0.0, 0.5)):
        pooler, layers = learn(text, known, told, statistics, noise, drop)
        with torch.no_grad():
            right = [
                (layers[name](pooler(read)).argmax(1) == answers(asked, name)).float().mean() for name, read in prompts
            ]
        table.add_row(f"{noise:g}", f"{drop:g}", *(f"{share:.2f}" for share in right))
    Console(width=100).print(table)


if __name__ == "__main__":
    run_script(main)
