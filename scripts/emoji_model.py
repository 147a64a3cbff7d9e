"""Trains the built-in model, emoji from captions, and puts it into the package.

    python scripts/emoji_images.py WORK --recoloured 2
    python scripts/emoji_model.py train WORK --minutes 60     # again: resumes the run
    python scripts/emoji_model.py pack WORK                   # or a model folder; into t2i/assets/emoji, in fp16
    python scripts/emoji_model.py page OUT.png                # images of emoji_prompts.txt by the packed model

WORK holds the images, the prepared data (WORK/t2i-data) and the run (in WORK/runs). The settings of the run are in
emoji_model.toml, those of the packed model in emoji_model_gpu.toml (--config, --resolution 128).
"""

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

import torch

from t2i import TextToImagePipeline
from t2i.grids import captioned_grid
from t2i.image_files import save_image
from t2i.models.find import BUILT_IN
from t2i.prompts import read_prompts
from t2i.training.checkpoint import list_checkpoints
from t2i.training.run import find_runs, newest_resumable

HERE = Path(__file__).parent
PROMPTS = (
    "a red apple", "a purple heart", "a grinning face", "a dog", "a blue car", "a green leaf", "a rocket", "a cat",
)  # fmt: skip
FACTS = {
    "data": "emoji in three styles: Noto Emoji, Twemoji and Fluent Emoji 3D; names and tags from emojibase",
    "licences": "Noto Emoji: Google, Apache-2.0. Twemoji: Twitter and contributors, CC BY 4.0 "
    "(https://creativecommons.org/licenses/by/4.0/). Fluent Emoji: Microsoft, MIT. emojibase: MIT",
}


def t2i(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "t2i", *map(str, arguments)], check=True)


def train(options: argparse.Namespace) -> None:
    data, runs = options.work / "t2i-data", options.work / "runs"
    for split in ("train", "val"):
        if not (out := data / f"emoji-{split}-{options.resolution}").is_dir():
            folder = options.work / split / "emoji"
            t2i("prepare", "--images", folder / "images", "--captions", folder / "captions", "--split", split,
                "--resolution", options.resolution, "--out", out)  # fmt: skip
    if any(list_checkpoints(run / "checkpoints") for run in find_runs(runs)):
        t2i("train", "--resume", newest_resumable(runs).folder, "--minutes", options.minutes)
    else:
        t2i("train", data / f"emoji-train-{options.resolution}", "--config", options.config,
            "--minutes", options.minutes, "--out", runs)  # fmt: skip


def pack(options: argparse.Namespace) -> None:
    runs = options.work / "runs"
    model = newest_resumable(runs).model if runs.is_dir() else options.work
    pipe = TextToImagePipeline.from_pretrained(model, "cpu")
    seen = pipe.description.training["images_seen"]
    if options.begun_with:
        first = TextToImagePipeline.from_pretrained(options.begun_with, "cpu")
        seen += first.description.training["images_seen"]
        with torch.no_grad():
            for weights, before in zip(pipe.generator.parameters(), first.generator.parameters(), strict=True):
                weights.lerp_(before, options.share)
    facts = {**FACTS, "images_seen": seen, "prompts": list(PROMPTS)}
    pipe.description = dataclasses.replace(pipe.description, training=facts)
    pipe.save_pretrained(BUILT_IN, torch.float16)
    size = sum(path.stat().st_size for path in BUILT_IN.rglob("*") if path.is_file())
    print(f"{BUILT_IN}: {size / 1e6:.1f} MB, {seen:,} images seen")


def page(options: argparse.Namespace) -> None:
    prompts = read_prompts(HERE / "emoji_prompts.txt")
    images = TextToImagePipeline.from_pretrained(device="cpu")(prompts, seeds=[0], output_type="np").images
    save_image(captioned_grid(list(images), prompts, 10), options.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for work in (train, pack, page):
        command = commands.add_parser(work.__name__)
        command.add_argument("out" if work is page else "work", type=Path)
        command.set_defaults(run=work)
        if work is pack:
            help = "The model that the run began with; average both (WiSE-FT: Wortsman et al. 2022)."
            command.add_argument("--begun-with", type=Path, help=help)
            command.add_argument("--share", type=float, default=0.15, help="Its weight in the average (default: 0.15).")
        if work is train:
            command.add_argument("--minutes", type=float, default=60)
            command.add_argument("--resolution", type=int, default=64)
            command.add_argument("--config", type=Path, default=HERE / "emoji_model.toml")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
