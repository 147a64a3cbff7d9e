"""Does a model trained on drawn shapes obey its prompts? Colour, shape, size and background, read off its pictures.

    python benchmarks/attributes.py RUN_OR_MODEL [RUN_OR_MODEL ...] [--scenes 400]

Prompts name everything ("a small red circle on a grey background"); pairs of colour and shape are those of the
training split (seen) and those held out of it (unseen). Two rulers: the ceiling reads the same attributes off
pictures drawn from the scenes themselves, the floor off the model's pictures with the prompts shuffled.
"""

import argparse
import json

from t2i import TextToImagePipeline
from t2i.evaluation.attributes import accuracy
from t2i.evaluation.painter import Painter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="run or model folders")
    parser.add_argument("--scenes", type=int, default=400, help="scenes of each kind (400)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a model instead of tables")
    arguments = parser.parse_args()
    for path in arguments.models:
        pipe = TextToImagePipeline.from_pretrained(path)
        found = accuracy(Painter.of_pipeline(pipe).prompts, pipe.resolution, arguments.scenes)
        results = {
            f"{group} {pairs} {ruler}": row for (group, pairs), rows in found.items() for ruler, row in rows.items()
        }
        images_seen = pipe.description.training["images_seen"]
        if arguments.json:
            print(json.dumps({"model": path, "images_seen": images_seen, "scenes": arguments.scenes, **results}))
            continue
        print(f"\n{path}: {images_seen:,} images seen, {arguments.scenes} scenes of each kind")
        for label, row in results.items():
            print(f"  {label:22} " + "  ".join(f"{name} {value:.2f}" for name, value in row.items()))


if __name__ == "__main__":
    main()
