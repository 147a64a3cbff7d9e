"""Can a model count? One to four like shapes on a page, and how many of them a trained model draws.

    python benchmarks/counting.py prepare DATA [--images 20000] [--resolution 32]     # DATA, and DATA-val beside it
    t2i train DATA --arch stylegan2 --preset small --minutes 20
    python benchmarks/counting.py score RUN [RUN ...] [--scenes 400]

Images are those of the drawn shapes (t2i/data/shapes.py), small, of one colour and outline; captions say how many,
in words or digits. Of each number and each colour some pairs are never drawn for training (unseen). An image is right
where so many shapes are found in it, by the checker that reads drawn shapes; the ceiling is what it reads off images
drawn from the scenes themselves, the floor off the model's with the prompts shuffled.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from script import run_script

from t2i import TextToImagePipeline
from t2i.data.image_shards import PrepareOptions
from t2i.data.prepare import prepare
from t2i.data.records import Record
from t2i.data.shapes import BACKGROUNDS, COLOURS, GAP, MARGIN, SHAPES, Item, Scene, ShapesImage, draw, extent
from t2i.data.shapes_captions import BACKGROUND_WORDS, COLOUR_WORDS, SHAPE_WORDS
from t2i.evaluation.attributes import read_image
from t2i.evaluation.sampler import CaptionSampler
from t2i.text.encoders import load_encoder

NUMBERS = {1: ("one", "1", "a single"), 2: ("two", "2", "a pair of"), 3: ("three", "3"), 4: ("four", "4")}
UNSEEN = {(number, colour) for place, colour in enumerate(COLOURS) for number in NUMBERS if place % 4 + 1 == number}
PLURALS = {"box": "boxes", "cross": "crosses", "rhombus": "rhombuses", "plus": "plus signs"}
SENTENCES = ("{}", "{}", "an image of {}", "a drawing with {}", "there {verb} {}", "{} and nothing else")
TRIES = 200


def scene_of(number: int, colour: str, dice: random.Random) -> Scene:
    """So many like shapes that do not touch, anywhere on the page."""
    shape, page = dice.choice(SHAPES), dice.choice(list(BACKGROUNDS))
    width, height = extent(shape, "small")
    while True:
        places: list[tuple[float, float]] = []
        for _ in range(TRIES):
            x, y = (dice.uniform(MARGIN + side / 2, 1 - MARGIN - side / 2) for side in (width, height))
            if all(abs(x - a) > width + GAP or abs(y - b) > height + GAP for a, b in places):
                places.append((x, y))
            if len(places) == number:
                items = tuple(Item(colour, shape, "small", COLOURS[colour], *place) for place in places)
                return Scene(items, page, BACKGROUNDS[page])


def caption_of(scene: Scene, dice: random.Random) -> str:
    """Number, colour and outline, and mostly the ground, in varied words."""
    number, item = len(scene.items), scene.items[0]
    noun = dice.choice(SHAPE_WORDS[item.shape])
    noun = noun if number == 1 else PLURALS.get(noun, noun + "s")
    thing = f"{dice.choice(NUMBERS[number])} {dice.choice(COLOUR_WORDS[item.colour])} {noun}"
    text = dice.choice(SENTENCES).format(thing, verb="is" if number == 1 else "are")
    return text + (f" on {dice.choice(BACKGROUND_WORDS[scene.background])}" if dice.random() < 0.6 else "")


def prompt_of(scene: Scene) -> str:
    """The prompt of a score: always the same words. "three red circles on a white background"."""
    number, item = len(scene.items), scene.items[0]
    noun = item.shape if number == 1 else PLURALS.get(item.shape, item.shape + "s")
    return f"{NUMBERS[number][0]} {item.colour} {noun} on a {scene.background} background"


def scenes(count: int, seen: bool, seed: str) -> list[Scene]:
    """Scenes with every number equally often, of seen or of unseen pairs of number and colour."""
    dice = random.Random(f"counting/{seed}/{seen}")
    found = []
    for index in range(count):
        number = index % len(NUMBERS) + 1
        colour = dice.choice([colour for colour in COLOURS if ((number, colour) in UNSEEN) != seen])
        found.append(scene_of(number, colour, dice))
    return found


class CountingSource:
    """`count` images with three captions each, of seen pairs alone."""

    name, notes = "counting", ()

    def __init__(self, count: int, split: str):
        self.count, self.split = count, split

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Record]:
        dice = random.Random(f"captions/{self.split}")
        for index, scene in enumerate(scenes(self.count, True, self.split)):
            captions = tuple(dict.fromkeys(caption_of(scene, dice) for _ in range(3)))
            yield Record(f"{self.split}-{index:06d}", captions, ShapesImage(scene))

    def describe(self) -> dict[str, Any]:
        return {"kind": "counting", "count": self.count, "split": self.split}


def shares(images: np.ndarray, asked: list[Scene]) -> dict[str, float]:
    """How often the number is right, for each number and over all; and the colour of all shapes found."""
    readings = [read_image(image).objects for image in images]
    right = [len(objects) == len(scene.items) for objects, scene in zip(readings, asked)]
    colours = [
        bool(objects) and all(one.colour == scene.items[0].colour for one in objects)
        for objects, scene in zip(readings, asked)
    ]
    row = {}
    for number in NUMBERS:
        row[str(number)] = float(np.mean([ok for ok, scene in zip(right, asked) if len(scene.items) == number]))
    return row | {"number": float(np.mean(right)), "colour": float(np.mean(colours))}


def score(options: argparse.Namespace) -> None:
    for path in options.models:
        pipe = TextToImagePipeline.from_pretrained(path)
        print(
            f"\n{path}: {pipe.description.training['images_seen']:,} images seen, {options.scenes} scenes of each kind"
        )
        for seen in (True, False):
            asked = scenes(options.scenes, seen, "evaluation")
            drawn = CaptionSampler.of_pipeline(pipe).prompts([prompt_of(scene) for scene in asked], range(len(asked)))
            away = np.random.default_rng(0).permutation(len(asked))
            rulers = {
                "model": shares(drawn, asked),
                "ceiling": shares(np.stack([draw(scene, pipe.resolution) for scene in asked]), asked),
                "floor": shares(drawn, [asked[other] for other in away]),
            }
            for ruler, row in rulers.items():
                shown = "  ".join(f"{name} {value:.2f}" for name, value in row.items())
                print(f"  {'seen' if seen else 'unseen':7} {ruler:8} {shown}")


def make(options: argparse.Namespace) -> None:
    for split, count, out in (
        ("train", options.images, options.data),
        ("val", max(200, options.images // 20), options.data.with_name(options.data.name + "-val")),
    ):
        prepare(CountingSource(count, split), out, load_encoder, PrepareOptions(resolution=options.resolution))
        print(f"{out}: {count:,} images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("prepare")
    maker.add_argument("data", type=Path)
    maker.add_argument("--images", type=int, default=20_000)
    maker.add_argument("--resolution", type=int, default=32)
    scorer = commands.add_parser("score")
    scorer.add_argument("models", nargs="+", help="run or model folders")
    scorer.add_argument("--scenes", type=int, default=400, help="scenes of each kind (400)")
    options = parser.parse_args()
    {"prepare": make, "score": score}[options.command](options)


if __name__ == "__main__":
    run_script(main)
