"""How fast do small networks learn from captions what lies where? Perceptrons from pooled text to 16 x 16 images.

    python benchmarks/sketch.py DATA [--images 64000] [--only NAME]

No GAN: the mean absolute difference to the caption's own image, averaged down to 16 x 16, over each quarter of the
run. The variants differ in their activation, their depth, and in whether weights have an equalised learning rate (those
of size 1, with steps of 1e-2) or torch's own (with steps of 1e-3). All begin with attention over MiniLM's tokens.
"""

import argparse
import statistics
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from script import run_script
from torch import Tensor, nn

from t2i.data.prepared import PreparedDataset
from t2i.layers import EqualLinear, leaky_relu
from t2i.text.pooler import Conditioning, TextBatch, TextStatistics
from t2i.training.loading import BatchLoader
from t2i.training.text import PreparedText

SIDE, BATCH = 16, 32


class Perceptron(nn.Module):
    def __init__(
        self,
        statistics: TextStatistics,
        linear: Callable[[int, int], nn.Module],
        activation: Callable[[Tensor], Tensor],
        text_lr: float,
        hidden: tuple[int, ...],
    ):
        super().__init__()
        self.pooler = Conditioning(statistics, lr_multiplier=text_lr).pooler()
        widths = (self.pooler.out_width, *hidden, 3 * SIDE * SIDE)
        self.layers = nn.ModuleList(linear(a, b) for a, b in pairwise(widths))
        self.activation = activation

    def forward(self, text: TextBatch) -> Tensor:
        first, *others = self.layers
        x = first(self.pooler(text))
        for layer in others:
            x = layer(self.activation(x))
        return x.unflatten(1, (3, SIDE, SIDE))


PLAIN, EQUALISED = (nn.Linear, 1.0, 1e-3), (EqualLinear, 0.1, 1e-2)  # layers, how fast the pooler learns, Adam's rate
VARIANTS = {
    "plain, GELU": (PLAIN, F.gelu, (512, 512)),
    "plain, leaky ReLU 0.2": (PLAIN, leaky_relu, (512, 512)),
    "plain, GELU, four hidden layers": (PLAIN, F.gelu, (256, 256, 512, 512)),
    "equalised, GELU": (EQUALISED, F.gelu, (512, 512)),
    "equalised, leaky ReLU 0.2": (EQUALISED, leaky_relu, (512, 512)),
}


def quarters(name: str, data: PreparedDataset, images: int) -> list[float]:
    (linear, text_lr, rate), activation, hidden = VARIANTS[name]
    text = PreparedText(data)
    torch.manual_seed(0)
    network = Perceptron(text.statistics, linear, activation, text_lr, hidden)
    optimizer = torch.optim.Adam(network.parameters(), rate, betas=(0.0, 0.99), fused=True)
    loader, losses = BatchLoader(data, text, 0, "cpu"), []
    for seen in range(0, images, BATCH):
        batch = loader.load(seen, BATCH)
        loss = (network(batch.text) - F.adaptive_avg_pool2d(batch.images, SIDE)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    loader.close()
    size = len(losses) // 4
    return [statistics.mean(losses[start : start + size]) for start in range(0, 4 * size, size)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=64_000)
    parser.add_argument("--only", choices=VARIANTS)
    options = parser.parse_args()
    data = PreparedDataset(options.data)
    for name in [options.only] if options.only else VARIANTS:
        found = quarters(name, data, options.images)
        print(f"{name:36}" + "  ".join(f"{value:.4f}" for value in found), flush=True)


if __name__ == "__main__":
    run_script(main)
