"""t2i sample-grid: a labelled grid of images, prompts by seeds."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from t2i.cli import console
from t2i.cli.options import Device, Model, PromptFile, TextEncoderFolder
from t2i.errors import UsageError
from t2i.prompts import check_truncation, parse_seeds, read_prompts

if TYPE_CHECKING:
    from PIL.Image import Image

    from t2i.grid_kinds import Grid
    from t2i.pipeline import TextToImagePipeline

MAX_CELLS = 10_000  # of the largest sheet
ROWS, COLUMNS = 4, 8
FRAMES = 24  # of an interpolation as an animation


def sample_grid(
    prompt: Annotated[
        list[str] | None, Argument(help="A row each (default: a few training captions).", show_default=False)
    ] = None,
    prompts: PromptFile = None,
    out: Annotated[
        Path | None,
        Option(
            "--out",
            "-o",
            show_default=False,
            help="Image file; for --over-time and --interpolate a .gif, .webp or .mp4 too (default: grid.png).",
        ),
    ] = None,
    model: Model = None,
    models: Annotated[
        list[str] | None,
        Option(
            metavar="A B ...",
            help="Several models side by side, a column each; prompts stand before.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[
        int | None,
        Option(help="Prompts at most (default: all), or rows of the other grids (default: 4).", show_default=False),
    ] = None,
    cols: Annotated[
        int | None, Option(help="Columns: seeds 0, 1, ..., or steps of --interpolate.", show_default="8")
    ] = None,
    seeds: Annotated[
        str | None,
        Option(help="Seeds of the columns (with --interpolate: of the rows), such as 0-7,12.", show_default=False),
    ] = None,
    interpolate: Annotated[
        tuple[str, str] | None,
        Option(metavar="A B", help="Columns go from prompt A to prompt B; a row a seed.", show_default=False),
    ] = None,
    truncation: Annotated[
        float | None,
        Option(help="Variety between seeds: 1 as trained; towards 0 the typical image.", show_default="1.0"),
    ] = None,
    truncation_sweep: Annotated[
        bool, Option("--truncation-sweep", help="Columns are truncation psi 0 to 1.25; one seed.")
    ] = False,
    style_mixing: Annotated[
        bool,
        Option(
            "--style-mixing",
            help="Coarse styles of the rows, fine styles of the columns (StyleGANs, 1 or 2 prompts).",
        ),
    ] = False,
    over_time: Annotated[
        bool, Option("--over-time", help="An animation of a run: the same grid by each of its snapshots.")
    ] = False,
    text_encoder: TextEncoderFolder = None,
    device: Device = "auto",
) -> None:
    """Make a labelled grid: a row a prompt, a column a seed."""
    from t2i.files import check_writable
    from t2i.grids import check_grid, table_grid

    asked = _Asked(
        prompts=[*(prompt or []), *(read_prompts(prompts) if prompts else [])],
        models=models or [], run=model, rows=rows, cols=cols, seeds=None if seeds is None else parse_seeds(seeds),
        ends=interpolate, psi=1.0 if truncation is None else truncation, sweep=truncation_sweep, mixing=style_mixing,
        over_time=over_time, out=out or Path("over-time.gif" if over_time else "grid.png"),
    )  # fmt: skip
    named = {
        "--interpolate": interpolate, "--truncation-sweep": truncation_sweep, "--style-mixing": style_mixing,
        "prompts": asked.prompts, "--rows": rows is not None, "--cols": cols is not None, "--seeds": seeds is not None,
        "--truncation": truncation is not None, "--over-time": over_time, "--models": models, "--model": model,
    }  # fmt: skip
    _check_together({name for name, value in named.items() if value})
    _check_values(asked)

    names = [Path(name) for name in asked.models] if asked.models else [model]
    pipes = [console.load_pipeline(name, device, text_encoder=text_encoder) for name in names]
    grids = _grids(asked, pipes)
    first, largest = grids[0], max(pipe.resolution for pipe in pipes)
    check_grid(first.rows, first.wide, largest)
    check_writable(asked.out.parent)  # before the work, after all other checks
    sheets = [table_grid(grid.draw(), grid.labels, grid.columns, grid.title) for grid in grids]
    _write(asked, sheets, first, _facts(asked, pipes, first))


@dataclass(frozen=True)
class _Asked:
    """What the command line asks for. ends: the prompts of --interpolate. psi: truncation."""

    prompts: list[str]
    models: list[str]
    run: Path | None
    rows: int | None
    cols: int | None
    seeds: list[int] | None
    ends: tuple[str, str] | None
    psi: float
    sweep: bool
    mixing: bool
    over_time: bool
    out: Path

    @property
    def animated(self) -> bool:
        return self.over_time or (self.ends is not None and self.out.suffix.lower() in (".gif", ".mp4"))


def _grids(asked: _Asked, pipes: "list[TextToImagePipeline]") -> "list[Grid]":
    """The grid, or one for each frame of an animation."""
    from t2i import grid_kinds as kinds

    pipe, psi, warn = pipes[0], asked.psi, console.warn
    texts = asked.prompts or max(pipes, key=lambda pipe: pipe.resolution).known_prompts or ["a table"]
    rows, cols = asked.rows or ROWS, asked.cols or COLUMNS
    across, down = asked.seeds or list(range(cols)), asked.seeds or list(range(rows))
    if asked.mixing:
        coarse = list(range(rows))
        fine = asked.seeds or [max(rows, cols) + n for n in range(cols)]  # not the seeds of the rows
        return [kinds.style_mixtures(pipe, texts[: 2 if asked.prompts else 1], coarse, fine, psi, warn)]
    texts = texts[: asked.rows]
    if asked.models:
        return [kinds.by_models(_short(asked.models), pipes, texts, asked.seeds or [0], psi, warn)]
    if asked.over_time:
        return kinds.over_time(asked.run, pipe, texts, across, psi, warn)
    if asked.ends and asked.animated:
        return kinds.interpolation_frames(pipe, asked.ends, down, asked.cols or FRAMES, psi, warn)
    if asked.ends:
        return [kinds.interpolation(pipe, asked.ends, down, cols, psi, warn)]
    if asked.sweep:
        return [kinds.truncation_sweep(pipe, texts, (asked.seeds or [0])[0], warn)]
    return [kinds.prompts_by_seeds(pipe, texts, across, psi, warn)]


def _facts(asked: _Asked, pipes: "list[TextToImagePipeline]", grid: "Grid") -> dict[str, str]:
    """What the file says of itself."""
    from t2i.grid_kinds import SWEEP

    facts = {
        **pipes[0].image_facts(" | ".join(grid.prompts), grid.seeds[0], asked.psi),
        "seeds": ",".join(map(str, grid.seeds)),
        "truncation_psi": ",".join(f"{value:g}" for value in (SWEEP if asked.sweep else (asked.psi,))),
    }
    if asked.models:
        facts["model"] = " | ".join(pipe.image_facts("", 0, asked.psi)["model"] for pipe in pipes)
    return facts


def _write(asked: _Asked, sheets: "list[Image]", grid: "Grid", facts: dict[str, str]) -> None:
    from t2i.animations import save_animation
    from t2i.grid_kinds import LAST, STEP, STILL
    from t2i.image_files import save_image

    if asked.animated:
        seconds = [STILL] * (len(sheets) - 1) + [LAST] if asked.over_time else [STEP] * len(sheets)
        save_animation(sheets, asked.out, seconds, facts)
        console.say(f"wrote {asked.out} ({len(sheets)} frames of {grid.rows} x {grid.wide} images)")
    else:
        save_image(sheets[0], asked.out, facts)
        console.say(f"wrote {asked.out} ({grid.rows} x {grid.wide} {'mixed ' * asked.mixing}images)")


def _short(models: list[str]) -> list[str]:
    """The models' names for the columns: without their folders, where that leaves them different."""
    names = [Path(name).name for name in models]
    return names if len(set(names)) == len(models) else models


# Options that would have no effect are refused.
_EXCLUDE = (
    ("--models", ("--model", "--cols", "--over-time", "--interpolate", "--truncation-sweep", "--style-mixing")),
    ("--over-time", ("--interpolate", "--truncation-sweep", "--style-mixing")),
    ("--style-mixing", ("--interpolate", "--truncation-sweep")),
    ("--interpolate", ("prompts", "--truncation-sweep")),
    ("--truncation-sweep", ("--cols", "--truncation")),
)


def _check_together(named: set[str]) -> None:
    """Raises UsageError, one line, for options that exclude each other."""
    for option, others in _EXCLUDE:
        if option in named and (excluded := [other for other in others if other in named]):
            raise UsageError(f"{option} excludes {excluded[0]}")
    counted = "--rows" if "--interpolate" in named else "--cols"
    if {"--seeds", counted} <= named:
        raise UsageError(f"--seeds excludes {counted}: it names the seeds that {counted} counts")


def _check_values(asked: _Asked) -> None:
    """Raises UsageError, one line, for a value out of range or a file of a kind that cannot be written."""
    from t2i.animations import check_animation_name
    from t2i.image_files import check_image_name

    if any(not text.strip() for text in [*asked.prompts, *(asked.ends or ())]):
        raise UsageError("a prompt is empty: describe an image")
    if any(count is not None and count < 1 for count in (asked.rows, asked.cols)):
        raise UsageError("--rows and --cols must be at least 1")
    if asked.ends and asked.cols == 1:
        raise UsageError("--interpolate needs at least 2 --cols")
    if max(asked.cols or 0, asked.rows or 0) > MAX_CELLS:
        raise UsageError(f"--rows and --cols must be at most {MAX_CELLS:,}")
    if asked.mixing and len(asked.prompts) > 2:
        count = len(asked.prompts)
        raise UsageError(f"--style-mixing takes one prompt, or one for the rows and one for the columns, not {count}")
    check_truncation(asked.psi)
    if asked.sweep and asked.seeds and len(asked.seeds) > 1:
        raise UsageError(f"--truncation-sweep takes one seed; --seeds names {len(asked.seeds)}")
    check_animation_name(asked.out) if asked.animated else check_image_name(asked.out)
