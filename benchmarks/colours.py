"""Are colour words obeyed? "a blue car", "a purple dog": how often is the colour asked for the image's largest?

    python benchmarks/colours.py MODEL [MODEL ...] [--seeds 3]

Every colour with every thing, of which few are ever seen so. A pixel has the colour by which scripts/emoji_images.py
names it; those of the page, nearly white, are left out. The chance is how often a colour is the largest in images
that another one was asked for.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from t2i import TextToImagePipeline

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
from emoji_images import COLOURS, colour_name, in_colour
from script import run_script

ASKED = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black")
THINGS = (
    "car", "apple", "heart", "hat", "cat", "dog", "book", "balloon", "ball", "flower", "bird", "cup", "house", "shirt",
    "star", "fish", "shoe", "bag", "truck", "square", "circle", "butterfly",
)  # fmt: skip
PAGE = 200  # a pixel whose darkest channel is at least that bright


def largest_colour(image: np.ndarray) -> str:
    """uint8 [R, R, 3] -> a name of COLOURS, or "white" where nothing is drawn."""
    small = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX)).reshape(-1, 3)
    own = small[small.min(axis=1) < PAGE] / 255
    names = [colour_name(*rgb) for rgb in own]
    return max(COLOURS, key=names.count) if names else "white"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    pairs = list(product(ASKED, THINGS))
    print(f"the largest colour is the one asked for, of {len(pairs) * options.seeds} images")
    for model in options.models:
        pipe = TextToImagePipeline.from_pretrained(model, "cpu")
        prompts = [in_colour(thing, colour) for colour, thing in pairs]
        images = pipe(prompts, seeds=range(options.seeds), output_type="np").images
        found = np.array([largest_colour(image) for image in images]).reshape(len(ASKED), len(THINGS), -1)
        right = found == np.array(ASKED)[:, None, None]
        chance = np.mean([(found[np.arange(len(ASKED)) != row] == colour).mean() for row, colour in enumerate(ASKED)])
        print(f"{model}: {right.mean():.1%}, by chance {chance:.1%}")
        for names, shares in ((ASKED, right.mean((1, 2))), (THINGS, right.mean((0, 2)))):
            print("  " + ", ".join(f"{name} {share:.0%}" for name, share in zip(names, shares)))


if __name__ == "__main__":
    run_script(main)
