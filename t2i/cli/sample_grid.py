"""t2i sample-grid: a labelled grid of images, prompts by seeds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from typer import Argument, Option

from t2i.cli import console
from t2i.cli.options import Device, Model, PromptFile, TextEncoderFolder
from t2i.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import Tensor

    from t2i.pipeline import TextToImagePipeline

MAX_CELLS = 10_000  # of the largest sheet
COLUMNS = 8
SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)


def sample_grid(
    prompt: Annotated[
        list[str] | None, Argument(help="A row each (default: a few training captions).", show_default=False)
    ] = None,
    prompts: PromptFile = None,
    out: Annotated[Path, Option("--out", "-o", help="Image file.")] = Path("grid.png"),
    model: Model = None,
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
    text_encoder: TextEncoderFolder = None,
    device: Device = "auto",
) -> None:
    """Make a labelled grid: a row a prompt, a column a seed."""
    from t2i.files import check_writable
    from t2i.grids import check_grid, table_grid
    from t2i.image_files import check_image_name, save_png

    texts = list(prompt or [])
    if prompts is not None:
        texts += console.read_prompts(prompts)
    if any(not text.strip() for text in [*texts, *(interpolate or ())]):
        raise UsageError("a prompt is empty: describe an image")
    named = {
        "--interpolate": interpolate, "--truncation-sweep": truncation_sweep, "--style-mixing": style_mixing,
        "prompts": texts, "--rows": rows is not None, "--cols": cols is not None, "--seeds": seeds is not None,
        "--truncation": truncation is not None,
    }  # fmt: skip
    _check({name for name, value in named.items() if value}, rows, cols)
    if style_mixing and len(texts) > 2:
        raise UsageError(
            f"--style-mixing takes one prompt, or one for the rows and one for the columns, not {len(texts)}"
        )
    psi = 1.0 if truncation is None else truncation
    console.check_truncation(psi)
    numbers = None if seeds is None else console.parse_seeds(seeds)
    if truncation_sweep and numbers and len(numbers) > 1:
        raise UsageError(f"--truncation-sweep takes one seed; --seeds names {len(numbers)}")
    check_image_name(out)

    pipe = console.load_pipeline(model, device, text_encoder=text_encoder)
    texts = texts or pipe.known_prompts or ["a table"]
    if interpolate:
        grid = _interpolation(pipe, interpolate, numbers or list(range(rows or 4)), cols or COLUMNS, psi)
    elif style_mixing:
        coarse = list(range(rows or 4))
        labels = texts[:2] if named["prompts"] else texts[:1]
        count = cols or COLUMNS
        fine = numbers or [max(len(coarse), count) + n for n in range(count)]  # not the seeds of the rows
        grid = _mixtures(pipe, labels, coarse, fine, psi)
    elif truncation_sweep:
        grid = _sweep(pipe, texts[: rows or None], (numbers or [0])[0])
    else:
        grid = _prompts_by_seeds(pipe, texts[: rows or None], numbers or list(range(cols or COLUMNS)), psi)
    check_grid(grid.rows, grid.wide, pipe.resolution)
    check_writable(out.parent)  # before the work, after all other checks
    sheet = table_grid(grid.draw(), grid.labels, grid.columns, grid.title)
    facts = pipe.image_facts(" | ".join(grid.prompts), grid.seeds[0], psi)
    truncations = {"truncation_psi": ",".join(f"{value:g}" for value in SWEEP)} if truncation_sweep else {}
    save_png(sheet, out, {**facts, "seeds": ",".join(map(str, grid.seeds)), **truncations})
    console.say(f"wrote {out} ({grid.rows} x {grid.wide} {'mixed ' * style_mixing}images)")


# Options that would have no effect are refused.
_EXCLUDE = (
    ("--style-mixing", ("--interpolate", "--truncation-sweep")),
    ("--interpolate", ("prompts", "--truncation-sweep")),
    ("--truncation-sweep", ("--cols", "--truncation")),
)


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


class _Grid(NamedTuple):
    """Images of a grid, made by `draw`, and their labels. rows, wide: number of images down and across."""

    rows: int
    wide: int
    draw: "Callable[[], list[list[np.ndarray]]]"
    labels: list[str]
    columns: list[str]
    title: str | None
    prompts: list[str]
    seeds: list[int]


def _prompts_by_seeds(pipe: "TextToImagePipeline", prompts: list[str], seeds: list[int], psi: float) -> _Grid:
    def draw() -> "list[list[np.ndarray]]":
        conditions = pipe.sampler.pool(encoded)
        return _draw(pipe, [[_Cell(seed, condition, psi) for seed in seeds] for condition in conditions])

    encoded = console.encode(pipe, prompts)
    columns = [f"seed {seed}" for seed in seeds]
    return _Grid(len(prompts), len(seeds), draw, prompts, columns, None, prompts, seeds)


def _sweep(pipe: "TextToImagePipeline", prompts: list[str], seed: int) -> _Grid:
    def draw() -> "list[list[np.ndarray]]":
        conditions = pipe.sampler.pool(encoded)
        return _draw(pipe, [[_Cell(seed, condition, psi) for psi in SWEEP] for condition in conditions])

    encoded = console.encode(pipe, prompts)
    columns = [f"psi {psi:g}" for psi in SWEEP]
    return _Grid(len(prompts), len(SWEEP), draw, prompts, columns, f"truncation, seed {seed}", prompts, [seed])


def _interpolation(
    pipe: "TextToImagePipeline", ends: tuple[str, str], seeds: list[int], steps: int, psi: float
) -> _Grid:
    def draw() -> "list[list[np.ndarray]]":
        first, last = pipe.sampler.pool(encoded)
        return _draw(pipe, [[_Cell(seed, first.lerp(last, share), psi) for share in shares] for seed in seeds])

    encoded = console.encode(pipe, list(ends))
    shares = [step / (steps - 1) for step in range(steps)]
    labels, columns = [f"seed {seed}" for seed in seeds], [f"{share:.0%}" for share in shares]
    return _Grid(len(seeds), steps, draw, labels, columns, f"{ends[0]}  →  {ends[1]}", list(ends), seeds)


def _mixtures(pipe: "TextToImagePipeline", prompts: list[str], coarse: list[int], fine: list[int], psi: float) -> _Grid:
    """Style mixing of one prompt, or of one for the rows (coarse styles) and one for the columns."""

    def draw() -> "list[list[np.ndarray]]":
        conditions = pipe.sampler.pool(encoded)
        return _mixed(pipe, coarse, fine, conditions[0], conditions[-1], psi)

    encoded = console.encode(pipe, prompts)
    labels, columns = ["fine styles", *(f"coarse: seed {n}" for n in coarse)], ["", *(f"seed {n}" for n in fine)]
    return _Grid(len(coarse), len(fine), draw, labels, columns, "  /  ".join(prompts), prompts, [*coarse, *fine])


def _mixed(
    pipe: "TextToImagePipeline", coarse: list[int], fine: list[int], first: "Tensor", second: "Tensor", psi: float
) -> "list[list[np.ndarray]]":
    """Top row: images of the fine seeds; left column: images of the coarse seeds; inside: their mixtures."""
    import numpy as np
    import torch

    above = _draw(pipe, [[_Cell(seed, second, psi) for seed in fine]])[0]
    left = _draw(pipe, [[_Cell(seed, first, psi)] for seed in coarse])
    rows, columns = (
        (torch.stack([pipe.sampler.noise(seed) for seed in seeds]), condition.expand(len(seeds), -1))
        for seeds, condition in (([a for a in coarse for _ in fine], first), (fine * len(coarse), second))
    )
    mixed = [image for group in pipe.sampler.mix_styles(rows, columns, psi) for image in group.numpy()]
    table = [[np.full_like(above[0], 255), *above]]
    for number, (image,) in enumerate(left):
        table.append([image, *mixed[number * len(fine) : (number + 1) * len(fine)]])
    return table


class _Cell(NamedTuple):
    seed: int
    condition: "Tensor"
    truncation: float


def _draw(pipe: "TextToImagePipeline", table: list[list[_Cell]]) -> "list[list[np.ndarray]]":
    """The images of a table, with the same pixels as those of `t2i generate`."""
    import torch

    cells = [cell for row in table for cell in row]
    images: list[Any] = [None] * len(cells)
    for psi in {cell.truncation for cell in cells}:
        rows = [number for number, cell in enumerate(cells) if cell.truncation == psi]
        noise = torch.stack([pipe.sampler.noise(cells[row].seed) for row in rows])
        conditions = torch.stack([cells[row].condition for row in rows])
        samples = (image for group in pipe.sampler.draw(noise, conditions, psi) for image in group.numpy())
        for row, image in zip(rows, samples):
            images[row] = image
    columns = len(table[0])
    return [images[start : start + columns] for start in range(0, len(cells), columns)]
