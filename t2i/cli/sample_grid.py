"""t2i sample-grid: a labelled grid of pictures, prompts by seeds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from typer import Argument, Option

from t2i.cli import console
from t2i.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from t2i.pipeline import TextToImagePipeline

MAX_CELLS = 10_000  # what fits into the largest picture that is drawn
SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)


def sample_grid(
    prompt: Annotated[
        list[str] | None, Argument(help="A row each; left out, prompts from the training captions.", show_default=False)
    ] = None,
    prompts: Annotated[Path | None, Option(help="A text file, one prompt a line.", show_default=False)] = None,
    out: Annotated[Path, Option("--out", "-o", help="The picture file.")] = Path("grid.png"),
    model: Annotated[
        Path | None,
        Option(help="A model or run folder, or emoji: built in. Left out, the newest run's.", show_default=False),
    ] = None,
    rows: Annotated[int | None, Option(help="At most so many prompts.", show_default=False)] = None,
    cols: Annotated[int, Option(help="Columns: seeds 0, 1, ... or steps of --interpolate.")] = 8,
    seeds: Annotated[str | None, Option(help="The seeds of the columns: 0-7,12.", show_default=False)] = None,
    interpolate: Annotated[
        tuple[str, str] | None,
        Option(
            metavar="A B", help="From prompt A to prompt B across the columns, a row for each seed.", show_default=False
        ),
    ] = None,
    truncation: Annotated[float, Option(help="1: as trained; towards 0: more typical, less varied.")] = 1.0,
    truncation_sweep: Annotated[
        bool, Option("--truncation-sweep", help="Columns are truncations from 0 to 1.25, with one seed.")
    ] = False,
    style_mixing: Annotated[
        bool,
        Option(
            "--style-mixing", help="Coarse styles of the rows, fine ones of the columns (a stylegan; 1 or 2 prompts)."
        ),
    ] = False,
    device: Annotated[str, Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Draw a grid: each row a prompt, each column a seed, all labelled."""
    from t2i.files import check_writable
    from t2i.grids import check_picture_name, save_png, table_grid

    texts = list(prompt or [])
    if prompts is not None:
        texts += console.read_prompts(prompts)
    if any(not text.strip() for text in [*texts, *(interpolate or ())]):
        raise UsageError("a prompt is empty: say what to draw")
    if cols < 1 or (rows is not None and rows < 1):
        raise UsageError("--rows and --cols must be at least 1")
    if interpolate and (texts or truncation_sweep):
        raise UsageError("--interpolate takes its two prompts only, and excludes --truncation-sweep")
    if interpolate and cols < 2:
        raise UsageError("--interpolate needs at least 2 --cols")
    if style_mixing and (interpolate or truncation_sweep):
        raise UsageError("--style-mixing excludes --interpolate and --truncation-sweep")
    if style_mixing and len(texts) > 2:
        raise UsageError(
            f"--style-mixing takes one prompt, or one for the rows and one for the columns, not {len(texts)}"
        )
    console.check_truncation(truncation)
    if max(cols, rows or 0) > MAX_CELLS:
        raise UsageError(f"--rows and --cols must be at most {MAX_CELLS:,}")
    numbers = list(range(cols)) if seeds is None else console.parse_seeds(seeds)
    check_picture_name(out)

    pipe = console.load_pipeline(model, device)
    if style_mixing:
        labels = (texts or pipe.known_prompts or ["a table"])[: 2 if texts else 1]
        ends = pipe.pool(console.encode(pipe, labels))
        coarse, fine = list(range(rows or 4)), [len(numbers) + number for number in numbers]
        if len(coarse) * len(fine) > MAX_CELLS:
            raise UsageError(f"{len(coarse)} x {len(fine)} pictures are too many for one grid; ask for fewer")
        check_writable(out.parent)
        pictures = _mixed(pipe, coarse, fine, ends[0], ends[-1], truncation)
        names = ["fine styles", *(f"coarse: seed {seed}" for seed in coarse)]
        grid = table_grid(pictures, names, ["", *(f"seed {seed}" for seed in fine)], "  /  ".join(labels))
        facts = pipe.picture_facts(" | ".join(labels), coarse[0], truncation)
        save_png(grid, out, {**facts, "seeds": ",".join(map(str, [*coarse, *fine]))})
        console.say(f"wrote {out} ({len(coarse)} x {len(fine)} mixed pictures)")
        return
    if interpolate:
        numbers = list(range(rows or 4)) if seeds is None else numbers
        shares = [step / (cols - 1) for step in range(cols)]
        ends = pipe.pool(console.encode(pipe, list(interpolate)))
        table = [[_Cell(seed, ends[0].lerp(ends[1], share), truncation) for share in shares] for seed in numbers]
        labels, columns = [f"seed {seed}" for seed in numbers], [f"{share:.0%}" for share in shares]
        title = f"{interpolate[0]}  →  {interpolate[1]}"
    else:
        labels = (texts or pipe.known_prompts or ["a table"])[: rows or None]
        conditions = pipe.pool(console.encode(pipe, labels))
        if truncation_sweep:
            settings = [(numbers[0], psi) for psi in SWEEP]
            columns, title = [f"psi {psi:g}" for psi in SWEEP], f"truncation, seed {numbers[0]}"
        else:
            settings = [(seed, truncation) for seed in numbers]
            columns, title = [f"seed {seed}" for seed in numbers], None
        table = [[_Cell(seed, condition, psi) for seed, psi in settings] for condition in conditions]
    if len(table) * len(table[0]) > MAX_CELLS:
        raise UsageError(f"{len(table)} x {len(table[0])} pictures are too many for one grid; ask for fewer")
    check_writable(out.parent)  # before the work, after all else that can be wrong
    grid = table_grid(_draw(pipe, table), labels, columns, title)
    facts = pipe.picture_facts(" | ".join(interpolate or labels), numbers[0], truncation)
    save_png(grid, out, {**facts, "seeds": ",".join(map(str, numbers))})
    console.say(f"wrote {out} ({len(table)} x {len(table[0])} pictures)")


def _mixed(
    pipe: "TextToImagePipeline", coarse: list[int], fine: list[int], first: "Tensor", second: "Tensor", psi: float
) -> "list[list[np.ndarray]]":
    """Above the pictures of the fine seeds, on the left those of the coarse ones, inside their mixtures."""
    import numpy as np
    import torch

    above = _draw(pipe, [[_Cell(seed, second, psi) for seed in fine]])[0]
    left = _draw(pipe, [[_Cell(seed, first, psi)] for seed in coarse])
    ways = []
    for seeds, condition in (([a for a in coarse for _ in fine], first), (fine * len(coarse), second)):
        ways.append((torch.stack([pipe.noise(seed) for seed in seeds]), condition.expand(len(seeds), -1)))
    drawn = [picture for group in pipe.mix_styles(*ways, psi) for picture in group.numpy()]
    table = [[np.full_like(above[0], 255), *above]]
    for number, (picture,) in enumerate(left):
        table.append([picture, *drawn[number * len(fine) : (number + 1) * len(fine)]])
    return table


class _Cell(NamedTuple):
    seed: int
    condition: "Tensor"
    truncation: float


def _draw(pipe: "TextToImagePipeline", table: list[list[_Cell]]) -> "list[list[np.ndarray]]":
    """The pictures of a table, pixel for pixel what `t2i generate` draws."""
    import torch

    cells = [cell for row in table for cell in row]
    pictures: list[Any] = [None] * len(cells)
    for psi in {cell.truncation for cell in cells}:
        rows = [number for number, cell in enumerate(cells) if cell.truncation == psi]
        noise = torch.stack([pipe.noise(cells[row].seed) for row in rows])
        conditions = torch.stack([cells[row].condition for row in rows])
        drawn = (picture for group in pipe.draw(noise, conditions, psi) for picture in group.numpy())
        for row, picture in zip(rows, drawn):
            pictures[row] = picture
    columns = len(table[0])
    return [pictures[start : start + columns] for start in range(0, len(cells), columns)]
