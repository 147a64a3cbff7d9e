"""Kinds of grids: which images stand where, and how they are labelled. warn: takes a line on a prompt."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from t2i.errors import UsageError
from t2i.prompts import encode

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from t2i.pipeline import TextToImagePipeline

SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)  # truncations
STILL, LAST, STEP = 0.5, 2.0, 1 / 12  # seconds that an animation shows a snapshot, the last one, a step between prompts


Warn = Callable[[str], None]


class Grid(NamedTuple):
    """Images of a grid, made by `draw`, and their labels. rows, wide: number of images down and across."""

    rows: int
    wide: int
    draw: "Callable[[], list[list[np.ndarray]]]"
    labels: list[str]
    columns: list[str]
    title: str | None
    prompts: list[str]
    seeds: list[int]


def prompts_by_seeds(pipe: "TextToImagePipeline", prompts: list[str], seeds: list[int], psi: float, warn: Warn) -> Grid:
    def draw() -> "list[list[np.ndarray]]":
        conditions = pipe.sampler.pool(encoded)
        return _draw(pipe, [[_Cell(seed, condition, psi) for seed in seeds] for condition in conditions])

    encoded = encode(pipe, prompts, warn)
    columns = [f"seed {seed}" for seed in seeds]
    return Grid(len(prompts), len(seeds), draw, prompts, columns, None, prompts, seeds)


def by_models(
    names: list[str], pipes: "list[TextToImagePipeline]", prompts: list[str], seeds: list[int], psi: float, warn: Warn
) -> Grid:
    """A column for each model, called by these names; a row for each prompt and seed. Smaller images are enlarged by a
    whole factor. Raises UsageError where that does not make them equally large."""
    forms = [(pipe.description.form, pipe.resolution) for pipe in pipes]
    sizes = [form.size(side) for form, side in forms]
    width, height = max(sizes)
    for name, (form, side), (w, h) in zip(names, forms, sizes):
        if width % w or (width // w) * h != height:
            largest = f"{width} x {height} px"
            raise UsageError(
                f"--models: {name} draws {form.in_words(side)}, and {largest}, the largest, is no multiple of that"
            )
    opaque = not all(form.transparent for form, _ in forms)
    encoded = {}  # once for each text encoder
    for pipe in pipes:
        key = pipe.description.text_encoder["sha256"]
        if key not in encoded:
            encoded[key] = encode(pipe, prompts, warn)

    def draw() -> "list[list[np.ndarray]]":
        columns = []
        for pipe, (w, _) in zip(pipes, sizes):
            conditions = pipe.sampler.pool(encoded[pipe.description.text_encoder["sha256"]])
            images = _draw(pipe, [[_Cell(seed, condition, psi)] for condition in conditions for seed in seeds])
            enlarged = (image.repeat(width // w, 0).repeat(width // w, 1) for (image,) in images)
            columns.append([opaque_on_white(image) if opaque else image for image in enlarged])
        return [list(row) for row in zip(*columns)]

    def opaque_on_white(image: "np.ndarray") -> "np.ndarray":
        import numpy as np

        from t2i.image_files import on_colour

        return image if image.shape[-1] == 3 else np.asarray(on_colour(image, (255, 255, 255)))

    one = len(seeds) == 1
    labels = [text if one else f"{text} (seed {seed})" for text in prompts for seed in seeds]
    title = f"seed {seeds[0]}" if one else None
    return Grid(len(labels), len(pipes), draw, labels, names, title, prompts, seeds)


def truncation_sweep(pipe: "TextToImagePipeline", prompts: list[str], seed: int, warn: Warn) -> Grid:
    def draw() -> "list[list[np.ndarray]]":
        conditions = pipe.sampler.pool(encoded)
        return _draw(pipe, [[_Cell(seed, condition, psi) for psi in SWEEP] for condition in conditions])

    encoded = encode(pipe, prompts, warn)
    columns = [f"psi {psi:g}" for psi in SWEEP]
    return Grid(len(prompts), len(SWEEP), draw, prompts, columns, f"truncation, seed {seed}", prompts, [seed])


def interpolation(
    pipe: "TextToImagePipeline", ends: tuple[str, str], seeds: list[int], steps: int, psi: float, warn: Warn
) -> Grid:
    def draw() -> "list[list[np.ndarray]]":
        first, last = pipe.sampler.pool(encoded)
        return _draw(pipe, [[_Cell(seed, first.lerp(last, share), psi) for share in shares] for seed in seeds])

    encoded = encode(pipe, list(ends), warn)
    shares = [step / (steps - 1) for step in range(steps)]
    labels, columns = [f"seed {seed}" for seed in seeds], [f"{share:.0%}" for share in shares]
    return Grid(len(seeds), steps, draw, labels, columns, f"{ends[0]}  →  {ends[1]}", list(ends), seeds)


def interpolation_frames(
    pipe: "TextToImagePipeline", ends: tuple[str, str], seeds: list[int], steps: int, psi: float, warn: Warn
) -> list[Grid]:
    """There and back, so that an animation that repeats has no jump; each frame a row of seeds."""

    def drawn(share: float) -> "list[list[np.ndarray]]":
        first, last = pipe.sampler.pool(encoded)
        return _draw(pipe, [[_Cell(seed, first.lerp(last, share), psi) for seed in seeds]])

    encoded = encode(pipe, list(ends), warn)
    columns, title = [f"seed {seed}" for seed in seeds], f"{ends[0]}  →  {ends[1]}"
    there = [
        Grid(
            1,
            len(seeds),
            partial(drawn, step / (steps - 1)),
            [f"{step / (steps - 1):4.0%}"],
            columns,
            title,
            [*ends],
            seeds,
        )
        for step in range(steps)
    ]
    return there + there[-2:0:-1]


def over_time(
    model: Path | None, pipe: "TextToImagePipeline", prompts: list[str], seeds: list[int], psi: float, warn: Warn
) -> list[Grid]:
    """The same prompts and seeds by each snapshot of a run. Raises UsageError where MODEL is no run of several."""
    from t2i.models.find import MODEL, is_model, list_snapshots
    from t2i.pipeline import TextToImagePipeline
    from t2i.training.run import default_model

    def drawn(folder: Path) -> "list[list[np.ndarray]]":
        snapshot = TextToImagePipeline.from_pretrained(folder, pipe.device)
        # A frozen encoder is the same for all of them, and is not loaded again.
        text = snapshot.encode(prompts) if snapshot.has_own_encoder else encoded
        return _draw(snapshot, [[_Cell(s, condition, psi) for s in seeds] for condition in snapshot.sampler.pool(text)])

    run = model or default_model()
    snapshots = [path for path in list_snapshots(run / "checkpoints") if is_model(path / MODEL)]
    if len(snapshots) < 2:
        raise UsageError(f"--over-time needs a run with two snapshots or more, as --model; {run} has {len(snapshots)}")
    encoded = encode(pipe, prompts, warn)
    columns = [f"seed {seed}" for seed in seeds]
    return [
        Grid(len(prompts), len(seeds), partial(drawn, path / MODEL), prompts, columns,
             f"{int(path.name):,} images", prompts, seeds)
        for path in snapshots
    ]  # fmt: skip


def style_mixtures(
    pipe: "TextToImagePipeline", prompts: list[str], coarse: list[int], fine: list[int], psi: float, warn: Warn
) -> Grid:
    """Style mixing of one prompt, or of one for the rows (coarse styles) and one for the columns."""

    def draw() -> "list[list[np.ndarray]]":
        conditions = pipe.sampler.pool(encoded)
        return _mixed(pipe, coarse, fine, conditions[0], conditions[-1], psi)

    encoded = encode(pipe, prompts, warn)
    labels, columns = ["fine styles", *(f"coarse: seed {n}" for n in coarse)], ["", *(f"seed {n}" for n in fine)]
    return Grid(len(coarse), len(fine), draw, labels, columns, "  /  ".join(prompts), prompts, [*coarse, *fine])


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
