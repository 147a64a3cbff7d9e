"""t2i demo: the whole loop on drawn pictures, with no data and no download."""

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


SCENES = 100  # prompts of pairs of colour and shape that training showed, and as many that it never did


def demo(
    out: Annotated[Path, Option(help="Folder for the data set, the run and the pictures.")] = Path("t2i-demo"),
    minutes: Annotated[float, Option(help="How long to train.")] = 4.0,
    pictures: Annotated[int, Option(help="How many pictures to draw and train on.")] = 2000,
) -> None:
    """Draw shapes, prepare them, train on them for minutes, draw prompts, and count what is obeyed."""
    from t2i.cli.prepare import prepare
    from t2i.cli.sample_grid import sample_grid
    from t2i.cli.train import train
    from t2i.files import make_folder, shell_word

    if pictures < 2:
        raise UsageError(f"--pictures {pictures}: must be at least 2")
    if not 0 < minutes < math.inf:
        raise UsageError(f"--minutes {minutes:g}: must be above 0")
    make_folder(out)
    data = out / f"shapes-{pictures}-32"  # the runs of an earlier demo with another number keep theirs
    if not (data / "dataset.json").is_file():
        console.say(f"1. prepare: {pictures:,} drawn pictures with captions")
        prepare(shapes=pictures, resolution=32, val_fraction=0.0, out=data)
    else:
        console.say(f"1. prepare: {data} has the {pictures:,} pictures of an earlier demo")
    console.say(f"2. train: stylegan2, {minutes:g} minutes")
    train(data=data, arch="stylegan2", preset="small", minutes=minutes, out=out / "runs")
    console.say("3. draw")
    from t2i.training.run import find_runs

    newest = find_runs(out / "runs")[-1]
    sample_grid(prompt=list(PROMPTS), model=newest, cols=6, out=out / "demo.png")
    console.say(f"4. does it obey? {SCENES} prompts with pairs of colour and shape from training, {SCENES} with others")
    _say_obedience(newest)
    command = f'generate "a purple heart" --model {shell_word(newest)} -o heart.png'
    console.say(f"look at {out / 'demo.png'}; then: t2i {command}")


def _say_obedience(model: Path) -> None:
    """How many of the prompts' colours, sizes, grounds and shapes the pictures show."""
    from rich.table import Table

    from t2i.evaluation.attributes import accuracy
    from t2i.evaluation.sampler import CaptionSampler

    pipe = console.load_pipeline(model, "auto", quiet=True)
    found = accuracy(CaptionSampler.of_pipeline(pipe).prompts, pipe.resolution, SCENES)
    seen, unseen = found["single", "seen"], found["single", "unseen"]
    table = Table("right", "seen pairs", "unseen pairs", "prompts shuffled")
    for name in ("colour", "size", "background", "shape"):
        shares = (seen["model"][name], unseen["model"][name], seen["floor"][name])
        table.add_row(name, *(f"{share:.0%}" for share in shares))
    console.out.print(table)
