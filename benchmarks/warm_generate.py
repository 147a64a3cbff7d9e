"""Images a second of a loaded pipeline, against its generator alone and against the generator's convolutions alone.

    python benchmarks/warm_generate.py [MODEL] [--batch 64] [--turns 9]

The three take turns in one process: prompts to images (encoding them included, pixels as uint8), the generator's
forward pass on tokens that are there, and only its convolutions, on the very inputs that they have in that pass.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from script import run_script

from t2i import TextToImagePipeline

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "pink", "black")
THINGS = ("heart", "apple", "car", "leaf", "star", "cat", "flag", "face")


def convolutions_of(draw: Callable[[], object]) -> list[Callable[[], torch.Tensor]]:
    """Every call of conv2d while `draw` runs, to be made again."""
    calls: list[Callable[[], torch.Tensor]] = []
    plain = F.conv2d

    def remembered(*arguments: object, **named: object) -> torch.Tensor:
        calls.append(lambda: plain(*arguments, **named))
        return plain(*arguments, **named)

    with mock.patch.object(F, "conv2d", remembered):
        draw()
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="emoji")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    pipe = TextToImagePipeline.from_pretrained(options.model, "cpu")
    prompts = [f"a {COLOURS[i % 8]} {THINGS[i // 8 % 8]}" for i in range(options.batch)]
    text = pipe.encode(prompts)
    z = torch.randn(options.batch, pipe.generator.z_dim)
    with torch.inference_mode():
        convolutions = convolutions_of(lambda: pipe.generator(z, text))
        ways = {
            "prompts to images": lambda: pipe(prompts, seeds=[0], output_type="np"),
            "the generator": lambda: pipe.generator(z, text),
            "its convolutions": lambda: [call() for call in convolutions],
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(options.turns + 1):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                if turn:
                    taken[name].append(time.perf_counter() - started)
    print(f"{options.model}, {options.batch} prompts, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, values in taken.items():
        ratio = statistics.median(a / b for a, b in zip(values, taken["its convolutions"]))
        print(f"{name:20} {options.batch / statistics.median(values):8.1f} images/s, {ratio:.2f} times the time")


if __name__ == "__main__":
    run_script(main)
