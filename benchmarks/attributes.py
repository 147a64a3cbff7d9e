"""Does a model trained on drawn shapes obey its prompts? Colour, shape, size and background, read off its images.

    python benchmarks/attributes.py RUN_OR_MODEL [RUN_OR_MODEL ...] [--scenes 400] [--words]

Prompts name everything ("a small red circle on a grey background"); pairs of colour and shape are those of the
training split (seen) and those held out of it (unseen). Two rulers: the ceiling reads the same attributes off
images drawn from the scenes themselves, the floor off the model's images with the prompts shuffled.

--words: prompts unlike the training captions, too: one attribute in words that stand in none of them ("a small crimson
circle"), and everything named inside of a long sentence.
"""

import argparse
import json
import re
from collections.abc import Iterator

from script import run_script

from t2i import TextToImagePipeline
from t2i.data.shapes import Scene, evaluation_scenes
from t2i.data.shapes_captions import canonical_caption
from t2i.evaluation.attributes import accuracy, score
from t2i.evaluation.sampler import CaptionSampler

# fmt: off
NEW_WORDS = {
    "colour": {
        "red": ("crimson", "scarlet"), "green": ("emerald", "olive"), "blue": ("navy", "cobalt"),
        "yellow": ("golden", "lemon"), "purple": ("lilac", "plum"), "orange": ("tangerine", "apricot"),
        "cyan": ("aqua", "teal"), "pink": ("rosy", "fuchsia"),
    },
    "shape": {
        "circle": ("sphere", "coin"), "square": ("cube", "tile"), "triangle": ("pyramid", "delta"),
        "star": ("pentagram", "starfish"), "heart": ("valentine", "love sign"), "cross": ("crucifix", "addition sign"),
        "diamond": ("lozenge", "kite"), "ring": ("doughnut", "loop"),
    },
    "size": {
        "small": ("minuscule", "petite"), "medium": ("average", "moderate"), "large": ("enormous", "giant"),
    },
    "background": {
        "white": ("snowy", "ivory"), "black": ("ebony", "pitch-dark"), "grey": ("silver", "ash"),
        "beige": ("sand", "tan"),
    },
}
# fmt: on
LONG = (
    "this is one of many simple images which somebody drew on a computer one evening, and what it shows, if you look "
    "at it closely, is {}, with nothing else to be seen in it"
)


def unusual(scenes: list[Scene]) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """Of scenes of one object: a name, the attributes to look at, and a prompt for each scene."""
    prompts = [canonical_caption(scene) for scene in scenes]
    for attribute, words in NEW_WORDS.items():
        new = []
        for number, (prompt, scene) in enumerate(zip(prompts, scenes)):
            name = scene.background if attribute == "background" else getattr(scene.items[0], attribute)
            options = words[name]  # no name of one attribute is part of another's, and "orange" is no background
            prompt = prompt.replace(f"{name} ", f"{options[number % len(options)]} ", 1)
            new.append(re.sub(r"\ban? (?=(\w))", lambda found: "an " if found[1] in "aeiou" else "a ", prompt))
        yield f"new {attribute} words", (attribute,), new
    yield "long sentences", tuple(NEW_WORDS), [LONG.format(prompt) for prompt in prompts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="run or model folders")
    parser.add_argument("--scenes", type=int, default=400, help="scenes of each kind (400)")
    parser.add_argument("--words", action="store_true", help="also prompts in words that were never trained on")
    parser.add_argument("--json", action="store_true", help="print one JSON object a model instead of tables")
    arguments = parser.parse_args()
    for path in arguments.models:
        pipe = TextToImagePipeline.from_pretrained(path)
        draw = CaptionSampler.of_pipeline(pipe).prompts
        found = accuracy(draw, pipe.resolution, arguments.scenes)
        results = {
            f"{group} {pairs} {ruler}": row for (group, pairs), rows in found.items() for ruler, row in rows.items()
        }
        if arguments.words:
            scenes = evaluation_scenes(arguments.scenes, True, 1)
            for name, attributes, prompts in unusual(scenes):
                read = score(draw(prompts, range(len(prompts))), scenes)["single"]
                results[name] = {attribute: read[attribute] for attribute in attributes}
        images_seen = pipe.description.training["images_seen"]
        if arguments.json:
            print(json.dumps({"model": path, "images_seen": images_seen, "scenes": arguments.scenes, **results}))
            continue
        print(f"\n{path}: {images_seen:,} images seen, {arguments.scenes} scenes of each kind")
        for label, row in results.items():
            print(f"  {label:22} " + "  ".join(f"{name} {value:.2f}" for name, value in row.items()))


if __name__ == "__main__":
    run_script(main)
