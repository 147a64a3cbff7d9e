"""Does the alpha of drawn shapes agree with their outline, and are circles round?

    python benchmarks/transparency.py MODEL [--count 200]

MODEL: trained on `t2i prepare --shapes N --channels rgba`, of any aspect. Each prompt names a colour, a shape and a
size. The outline of that shape is drawn where the alpha has its centre; both agree where they share 80 % of what either
covers (intersection over union of alpha and the antialiased outline). A circle's roundness is the ratio of the two
second moments of its alpha.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from script import run_script

from t2i.data.shapes import Scene, draw, evaluation_scenes
from t2i.pipeline import TextToImagePipeline
from t2i.pixels import PixelFormat, shown

AGREE = 0.8


def outline(scene: Scene, resolution: int, form: PixelFormat, x: float, y: float) -> np.ndarray:
    """Alpha of the scene's one object at (x, y), shares of the image: [h, w] in [0, 1]."""
    moved = replace(scene, items=(replace(scene.items[0], x=x, y=y),))
    pixels = torch.from_numpy(draw(moved, resolution, form).copy())[None]
    return shown(pixels, form)[0, :, :, 3].numpy() / 255


def centre(alpha: np.ndarray) -> tuple[float, float]:
    """Of what is more than half opaque, shares of the image; the middle where nothing is."""
    opaque = np.where(alpha > 0.5, alpha, 0.0)
    height, width = alpha.shape
    y, x = np.mgrid[:height, :width]
    if not (total := opaque.sum()):
        return 0.5, 0.5
    return ((opaque * x).sum() / total + 0.5) / width, ((opaque * y).sum() / total + 0.5) / height


def agreement(alpha: np.ndarray, scene: Scene, resolution: int, form: PixelFormat) -> float:
    """Intersection over union of alpha and the outline with the same centre."""
    x, y = wanted = centre(alpha)
    for _ in range(3):  # the point that a scene names is not the centre of a heart
        there = outline(scene, resolution, form, x, y)
        found = centre(there)
        x, y = x + wanted[0] - found[0], y + wanted[1] - found[1]
    return float(np.minimum(alpha, there).sum() / max(np.maximum(alpha, there).sum(), 1e-9))


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
    form = pipe.description.form
    found = np.array([agreement(a, scene, pipe.resolution, form) for a, scene in zip(alphas, scenes)])
    round_ = np.array([roundness(a) for a, item in zip(alphas, items) if item.shape == "circle"])
    console = Console()
    console.print(f"{form.in_words(pipe.resolution)}, {given.count} drawings of {given.model}")
    console.print(f"alpha and outline: mean {found.mean():.3f}, {(found >= AGREE).mean():.1%} at least {AGREE}")
    for shape in dict.fromkeys(item.shape for item in items):
        mine = found[[item.shape == shape for item in items]]
        console.print(f"  {shape}: mean {mine.mean():.3f}, {(mine >= AGREE).mean():.0%}")
    console.print(f"circles: width over height {np.median(round_):.3f}, {(abs(round_ - 1) < 0.05).mean():.0%} in 5 %")


if __name__ == "__main__":
    run_script(main)
