"""Does the alpha of drawn shapes agree with their outline, and are circles round?

    python benchmarks/transparency.py MODEL [--count 200]

MODEL: trained on `t2i prepare --shapes N --channels rgba`, of any aspect. Each prompt names a colour, a shape and a
size. The outline of that shape is laid over the alpha where it fits best; both agree where they share 80 % of what
either covers (intersection over union of alpha and the antialiased outline). A circle's roundness is the ratio of the
two second moments of its alpha.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from script import run_script

from t2i.data.shapes import draw, evaluation_scenes
from t2i.pipeline import TextToImagePipeline
from t2i.pixels import PixelFormat, shown

AGREE = 0.8


def outline(scene, pipe: TextToImagePipeline) -> np.ndarray:
    """Alpha of the scene's one object in the middle, [h, w] in [0, 1]."""
    form = PixelFormat("rgba", pipe.description.form.aspect)
    middle = replace(scene, items=(replace(scene.items[0], x=0.5, y=0.5),))
    pixels = torch.from_numpy(draw(middle, pipe.resolution, form).copy())[None]
    return shown(pixels, form)[0, :, :, 3].numpy() / 255


def agreement(alpha: np.ndarray, outline: np.ndarray) -> float:
    """The largest intersection over union over all shifts of the outline by whole pixels."""
    height, width = alpha.shape
    padded = np.pad(outline, ((height, height), (width, width)))
    best = 0.0
    for top in range(height // 2, height + height // 2 + 1):
        for left in range(width // 2, width + width // 2 + 1):
            there = padded[top : top + height, left : left + width]
            both = np.minimum(alpha, there).sum()
            best = max(best, both / max(np.maximum(alpha, there).sum(), 1e-9))
    return float(best)


def roundness(alpha: np.ndarray) -> float:
    """Width over height by second moments."""
    y, x = np.mgrid[: alpha.shape[0], : alpha.shape[1]]
    total = max(alpha.sum(), 1e-9)
    spreads = [np.sqrt((alpha * (axis - (alpha * axis).sum() / total) ** 2).sum() / total) for axis in (x, y)]
    return float(spreads[0] / max(spreads[1], 1e-9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--count", type=int, default=200)
    given = parser.parse_args()
    pipe = TextToImagePipeline.from_pretrained(given.model, "cpu")
    scenes = evaluation_scenes(given.count)
    items = [scene.items[0] for scene in scenes]
    prompts = [f"a {item.size} {item.colour} {item.shape}" for item in items]
    images = np.concatenate([pipe(p, seeds=[n], output_type="np").images for n, p in enumerate(prompts)])
    alphas = images[..., 3] / 255
    found = np.array([agreement(alpha, outline(scene, pipe)) for alpha, scene in zip(alphas, scenes)])
    round_ = np.array([roundness(a) for a, item in zip(alphas, items) if item.shape == "circle"])
    console = Console()
    console.print(f"{pipe.description.form.in_words(pipe.resolution)}, {given.count} drawings of {given.model}")
    console.print(f"alpha and outline: mean {found.mean():.3f}, {(found >= AGREE).mean():.1%} at least {AGREE}")
    for shape in dict.fromkeys(item.shape for item in items):
        mine = found[[item.shape == shape for item in items]]
        console.print(f"  {shape}: mean {mine.mean():.3f}, {(mine >= AGREE).mean():.0%}")
    console.print(f"circles: width over height {np.median(round_):.3f}, {(abs(round_ - 1) < 0.05).mean():.0%} in 5 %")


if __name__ == "__main__":
    run_script(main)
