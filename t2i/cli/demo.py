"""t2i demo: prepare, train, generate and score on synthetic shapes; no data and no download needed."""

import math
from pathlib import Path
from typing import Annotated

from typer import Option

from t2i.cli import console
from t2i.errors import UsageError

PROMPTS = (
    "a red circle on a white background",
    "a blue square on a white background",
    "a large green triangle on a black background",
    "a small yellow star on a grey background",
)

SCENES = 100  # prompts with pairs of colour and shape from the training data, and as many with other pairs


def demo(
    out: Annotated[Path, Option(help="Folder for the data set, the run and the images.")] = Path("t2i-demo"),
    minutes: Annotated[float, Option(help="Training time in minutes.")] = 4.0,
    images: Annotated[int, Option("--images", help="Number of training images.")] = 2000,
) -> None:
    """Render shapes, train on them for a few minutes, generate images and measure prompt adherence."""
    from t2i.cli.prepare import prepare
    from t2i.cli.sample_grid import sample_grid
    from t2i.cli.train import train
    from t2i.files import make_folder, shell_word

    if images < 2:
        raise UsageError(f"--images {images}: must be at least 2")
    if not 0 < minutes < math.inf:
        raise UsageError(f"--minutes {minutes:g}: must be above 0")
    make_folder(out)
    data = out / f"shapes-{images}-32"  # runs of an earlier demo keep their data
    if not (data / "dataset.json").is_file():
        console.say(f"1. prepare: {images:,} images of shapes, with captions")
        prepare(shapes=images, resolution=32, val_fraction=0.0, out=data)
    else:
        console.say(f"1. prepare: {data} has the {images:,} images of an earlier demo")
    console.say(f"2. train: stylegan2, {minutes:g} minutes")
    train(data=[data], arch="stylegan2", preset="small", minutes=minutes, out=out / "runs")
    console.say("3. generate")
    from t2i.training.run import find_runs

    newest = find_runs(out / "runs")[-1]
    sample_grid(prompt=list(PROMPTS), model=newest, cols=6, out=out / "demo.png")
    console.say(f"4. prompt adherence: {SCENES} prompts with pairs of colour and shape from training, {SCENES} other")
    _print_adherence(newest)
    command = f'generate "a purple heart" --model {shell_word(newest)} -o heart.png'
    console.say(f"see {out / 'demo.png'}; next: t2i {command}")


def _print_adherence(model: Path) -> None:
    """Print the share of images with the colour, size, background and shape of their prompt."""
    from rich.table import Table

    from t2i.evaluation.attributes import accuracy
    from t2i.evaluation.sampler import CaptionSampler

    pipe = console.load_pipeline(model, "auto", quiet=True)
    found = accuracy(CaptionSampler.of_pipeline(pipe).prompts, pipe.resolution, SCENES)
    seen, unseen = found["single", "seen"], found["single", "unseen"]
    table = Table("attribute", "seen pairs", "unseen pairs", "prompts shuffled")
    for name in ("colour", "size", "background", "shape"):
        shares = (seen["model"][name], unseen["model"][name], seen["floor"][name])
        table.add_row(name, *(f"{share:.0%}" for share in shares))
    console.out.print(table)
