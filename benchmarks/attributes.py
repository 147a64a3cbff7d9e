"""Does a model trained on drawn shapes obey its prompts? Colour, shape, size and background, read off its pictures.

    python benchmarks/attributes.py RUN_OR_MODEL [RUN_OR_MODEL ...] [--scenes 400]

Prompts name everything ("a small red circle on a grey background"); pairs of colour and shape are those of the
training split (seen) and those held out of it (unseen). Two rulers: the ceiling reads the same attributes off
pictures drawn from the scenes themselves, the floor off the model's pictures with the prompts shuffled.
"""

import argparse
import json

import numpy as np

from t2i import TextToImagePipeline
from t2i.data.shapes import Scene, draw, evaluation_scenes
from t2i.data.shapes_captions import canonical_caption
from t2i.evaluation.attributes import score

SINGLE = ("colour", "shape", "size", "background", "pair", "all")
DOUBLE = ("colours", "objects", "relation", "background", "all")


def pictures(pipe: TextToImagePipeline, scenes: list[Scene]) -> np.ndarray:
    """One picture a scene, each with a seed of its own: uint8 [N, R, R, 3]."""
    import torch

    noise = torch.stack([pipe.noise(seed) for seed in range(len(scenes))])
    condition = pipe.pool(pipe.encode([canonical_caption(scene) for scene in scenes]))
    return torch.cat(list(pipe.draw(noise, condition))).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="run or model folders")
    parser.add_argument("--scenes", type=int, default=400, help="scenes of each kind (400)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a model instead of tables")
    arguments = parser.parse_args()
    for path in arguments.models:
        pipe = TextToImagePipeline.from_pretrained(path)
        results = {}
        for objects, names in ((1, SINGLE), (2, DOUBLE)):
            for seen in (True, False):
                scenes = evaluation_scenes(arguments.scenes, seen, objects)
                drawn = pictures(pipe, scenes)
                shuffled = [scenes[i] for i in np.random.default_rng(0).permutation(len(scenes))]
                group = "single" if objects == 1 else "double"
                for ruler, found in (
                    ("model", score(drawn, scenes)),
                    ("ceiling", score([draw(scene, pipe.resolution) for scene in scenes], scenes)),
                    ("floor", score(drawn, shuffled)),
                ):
                    results[f"{group} {'seen' if seen else 'unseen'} {ruler}"] = {n: found[group][n] for n in names}
        images_seen = pipe.description.training["images_seen"]
        if arguments.json:
            print(json.dumps({"model": path, "images_seen": images_seen, "scenes": arguments.scenes, **results}))
            continue
        print(f"\n{path}: {images_seen:,} images seen, {arguments.scenes} scenes of each kind")
        for label, row in results.items():
            print(f"  {label:22} " + "  ".join(f"{name} {value:.2f}" for name, value in row.items()))


if __name__ == "__main__":
    main()
