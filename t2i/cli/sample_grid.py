"""t2i sample-grid: a labelled grid of images, prompts by seeds."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from t2i.cli import console
from t2i.cli.options import Device, Model, PromptFile, TextEncoderFolder
from t2i.errors import UsageError
from t2i.prompts import check_truncation, parse_seeds, read_prompts

MAX_CELLS = 10_000  # of the largest sheet
COLUMNS = 8
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
    from t2i import grid_kinds as kinds
    from t2i.animations import check_animation_name, save_animation
    from t2i.files import check_writable
    from t2i.grids import check_grid, table_grid
    from t2i.image_files import check_image_name, save_image

    texts = list(prompt or [])
    if prompts is not None:
        texts += read_prompts(prompts)
    if any(not text.strip() for text in [*texts, *(interpolate or ())]):
        raise UsageError("a prompt is empty: describe an image")
    named = {
        "--interpolate": interpolate, "--truncation-sweep": truncation_sweep, "--style-mixing": style_mixing,
        "prompts": texts, "--rows": rows is not None, "--cols": cols is not None, "--seeds": seeds is not None,
        "--truncation": truncation is not None, "--over-time": over_time, "--models": models, "--model": model,
    }  # fmt: skip
    _check({name for name, value in named.items() if value}, rows, cols)
    if style_mixing and len(texts) > 2:
        raise UsageError(
            f"--style-mixing takes one prompt, or one for the rows and one for the columns, not {len(texts)}"
        )
    psi = 1.0 if truncation is None else truncation
    check_truncation(psi)
    numbers = None if seeds is None else parse_seeds(seeds)
    if truncation_sweep and numbers and len(numbers) > 1:
        raise UsageError(f"--truncation-sweep takes one seed; --seeds names {len(numbers)}")
    out = out or Path("over-time.gif" if over_time else "grid.png")
    animated = over_time or (interpolate is not None and out.suffix.lower() in (".gif", ".mp4"))
    check_animation_name(out) if animated else check_image_name(out)

    if models:
        pipes = [console.load_pipeline(Path(name), device, text_encoder=text_encoder) for name in models]
        pipe = max(pipes, key=lambda pipe: pipe.resolution)
    else:
        pipe = console.load_pipeline(model, device, text_encoder=text_encoder)
    texts = (texts or pipe.known_prompts or ["a table"])[: None if style_mixing else rows]
    across, down = numbers or list(range(cols or COLUMNS)), numbers or list(range(rows or 4))
    warn = console.warn
    if models:
        grids = [kinds.by_models(_short(models), pipes, texts, numbers or [0], psi, warn)]
    elif over_time:
        grids = kinds.over_time(model, pipe, texts, across, psi, warn)
    elif interpolate and animated:
        grids = kinds.interpolation_frames(pipe, interpolate, down, cols or FRAMES, psi, warn)
    elif interpolate:
        grids = [kinds.interpolation(pipe, interpolate, down, cols or COLUMNS, psi, warn)]
    elif style_mixing:
        coarse = list(range(rows or 4))
        count = cols or COLUMNS
        fine = numbers or [max(len(coarse), count) + n for n in range(count)]  # not the seeds of the rows
        grids = [kinds.style_mixtures(pipe, texts[:2] if named["prompts"] else texts[:1], coarse, fine, psi, warn)]
    elif truncation_sweep:
        grids = [kinds.truncation_sweep(pipe, texts, (numbers or [0])[0], warn)]
    else:
        grids = [kinds.prompts_by_seeds(pipe, texts, across, psi, warn)]
    first = grids[0]
    check_grid(first.rows, first.wide, pipe.resolution)
    check_writable(out.parent)  # before the work, after all other checks
    sheets = [table_grid(grid.draw(), grid.labels, grid.columns, grid.title) for grid in grids]
    psis = kinds.SWEEP if truncation_sweep else (psi,)
    facts = {
        **pipe.image_facts(" | ".join(first.prompts), first.seeds[0], psi),
        "seeds": ",".join(map(str, first.seeds)),
        "truncation_psi": ",".join(f"{value:g}" for value in psis),
        **({"model": " | ".join(pipe.image_facts("", 0, psi)["model"] for pipe in pipes)} if models else {}),
    }
    if animated:
        seconds = [kinds.STILL] * (len(sheets) - 1) + [kinds.LAST] if over_time else [kinds.STEP] * len(sheets)
        save_animation(sheets, out, seconds, facts)
        console.say(f"wrote {out} ({len(sheets)} frames of {first.rows} x {first.wide} images)")
    else:
        save_image(sheets[0], out, facts)
        console.say(f"wrote {out} ({first.rows} x {first.wide} {'mixed ' * style_mixing}images)")


# Options that would have no effect are refused.
_EXCLUDE = (
    ("--models", ("--model", "--cols", "--over-time", "--interpolate", "--truncation-sweep", "--style-mixing")),
    ("--over-time", ("--interpolate", "--truncation-sweep", "--style-mixing")),
    ("--style-mixing", ("--interpolate", "--truncation-sweep")),
    ("--interpolate", ("prompts", "--truncation-sweep")),
    ("--truncation-sweep", ("--cols", "--truncation")),
)


def _short(models: list[str]) -> list[str]:
    """The models' names for the columns: without their folders, where that leaves them different."""
    names = [Path(name).name for name in models]
    return names if len(set(names)) == len(models) else models


def _check(named: set[str], rows: int | None, cols: int | None) -> None:
    """Raises UsageError, one line, for options that exclude each other or lie out of range."""
    for option, others in _EXCLUDE:
        if option in named and (excluded := [other for other in others if other in named]):
            raise UsageError(f"{option} excludes {excluded[0]}")
    counted = "--rows" if "--interpolate" in named else "--cols"
    if {"--seeds", counted} <= named:
        raise UsageError(f"--seeds excludes {counted}: it names the seeds that {counted} counts")
    if any(count is not None and count < 1 for count in (rows, cols)):
        raise UsageError("--rows and --cols must be at least 1")
    if "--interpolate" in named and cols == 1:
        raise UsageError("--interpolate needs at least 2 --cols")
    if max(cols or 0, rows or 0) > MAX_CELLS:
        raise UsageError(f"--rows and --cols must be at most {MAX_CELLS:,}")
