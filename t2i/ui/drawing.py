"""What the page's first tab does, without the page: models by name, images as files, the command that repeats them."""

import re
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from PIL import Image

from t2i.animations import save_animation
from t2i.errors import UsageError
from t2i.files import shell_word
from t2i.grid_kinds import STEP, Warn, interpolation_frames
from t2i.grids import table_grid
from t2i.image_files import save_image
from t2i.models.find import BUILT_IN, MODEL, find_model, is_model, list_snapshots
from t2i.pipeline import TextToImagePipeline
from t2i.prompts import check_truncation, encode, parse_seeds, still_growing
from t2i.training.run import find_runs

MAX_IMAGES = 100  # of one click
KEPT = 3  # models in memory


@dataclass(frozen=True)
class Drawn:
    """files: (path, caption) of each image, or of one animation. command: the command line that makes the same."""

    files: list[tuple[str, str]]
    command: str


class Models:
    """Models by their names, as --model takes them; the last few stay loaded.

    files: the folder that images are written to.
    any_folder: whether a model may be named that is not in `names`; on a page that others see it may not.
    """

    def __init__(
        self, device: str, files: Path, runs: Path | str = "runs", any_folder: bool = True, first: str | None = None
    ):
        self.device, self.files, self.runs, self.any_folder, self.first = device, files, Path(runs), any_folder, first
        self._loaded: OrderedDict[str, TextToImagePipeline] = OrderedDict()
        self._lock = Lock()

    def names(self) -> list[str]:
        """The model that was named first, runs, newest first, each with its snapshots; then the built-in model."""
        found = [self.first] if self.first else []
        for run in reversed(find_runs(self.runs)):
            found.append(str(run))
            snapshots = [path for path in list_snapshots(run / "checkpoints") if is_model(path / MODEL)]
            found += [f"{run}@{int(path.name)}" for path in reversed(snapshots)]
        return list(dict.fromkeys([*found, BUILT_IN.name]))

    def load(self, name: str, warn: Warn = lambda line: None) -> TextToImagePipeline:
        """Raises UserError, one line."""
        name = (name or "").strip()
        if not name:
            raise UsageError("no model: choose one")
        if not self.any_folder and name not in self.names():
            raise UsageError(f"{name}: not one of this page's models")
        folder = str(find_model(name))
        stamp = f"{folder} {_changed(Path(folder))}"
        with self._lock:
            if stamp not in self._loaded:
                self._loaded[stamp] = TextToImagePipeline.from_pretrained(folder, self.device)
                while len(self._loaded) > KEPT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(stamp)
            pipe = self._loaded[stamp]
        if growing := still_growing(pipe):
            warn(growing)
        return pipe

    def new_folder(self) -> Path:
        """For the files of one click."""
        return Path(tempfile.mkdtemp(dir=self.files))


def _changed(folder: Path) -> float:
    index = folder / "model_index.json"
    return index.stat().st_mtime if index.is_file() else 0.0


def draw(models: Models, model: str, prompts: str, seeds: str, truncation: float, warn: Warn) -> Drawn:
    """An image file for each line of `prompts` and each seed, with the pixels of `t2i generate`.

    seeds: as --seeds takes them, such as 0-7,12. Raises UserError, one line.
    """
    texts = lines_of(prompts)
    numbers = parse_seeds(seeds)
    check_truncation(truncation)
    _check_count(len(texts) * len(numbers))
    pipe = models.load(model, warn)
    condition = pipe.sampler.pool(encode(pipe, texts, warn))
    folder = models.new_folder()
    files: list[tuple[str, str]] = []
    for text, seed, image in pipe.draw_each(condition, numbers, truncation):
        path = folder / f"{slug(texts[text])}-{len(files)}-seed-{seed}.png"
        save_image(image, path, pipe.image_facts(texts[text], seed, truncation))
        files.append((str(path), f"{texts[text]}, {seed}" if len(texts) > 1 else f"seed {seed}"))
    words = [
        "t2i",
        "generate",
        *map(shell_word, texts),
        "--model",
        shell_word(model),
        "--seeds",
        seeds.replace(" ", ""),
    ]
    return Drawn(files, " ".join([*words, *_truncation(truncation)]))


def between(
    models: Models, model: str, ends: tuple[str, str], seeds: str, steps: int, truncation: float, warn: Warn
) -> Drawn:
    """An animation from one prompt to another, one image a seed: what `t2i sample-grid --interpolate` makes."""
    if any(not text.strip() for text in ends):
        raise UsageError("a prompt is empty: describe an image")
    numbers = parse_seeds(seeds)
    check_truncation(truncation)
    _check_count(len(numbers) * int(steps))
    pipe = models.load(model, warn)
    grids = interpolation_frames(pipe, ends, numbers, int(steps), truncation, warn)
    sheets: list[Image.Image] = [table_grid(grid.draw(), grid.labels, grid.columns, grid.title) for grid in grids]
    path = models.new_folder() / f"{slug(ends[0])}-to-{slug(ends[1])}.gif"
    facts = {**pipe.image_facts(" | ".join(ends), numbers[0], truncation), "seeds": ",".join(map(str, numbers))}
    save_animation(sheets, path, [STEP] * len(sheets), facts)
    words = ["t2i", "sample-grid", "--interpolate", *map(shell_word, ends), "--model", shell_word(model), "--seeds"]
    words += [seeds.replace(" ", ""), "--cols", str(int(steps)), *_truncation(truncation), "-o", path.name]
    return Drawn([(str(path), f"{ends[0]} to {ends[1]}")], " ".join(words))


def lines_of(prompts: str) -> list[str]:
    """A prompt a line. Raises UsageError where there is none."""
    if texts := [line.strip() for line in (prompts or "").splitlines() if line.strip()]:
        return texts
    raise UsageError("no prompt: describe an image, one a line")


def next_seeds(seeds: str) -> str:
    """As many seeds again, from the largest on: "0-3" -> "4-7"."""
    numbers = parse_seeds(seeds)
    first, last = max(numbers) + 1, max(numbers) + len(numbers)
    return f"{first}-{last}" if last > first else str(first)


def slug(prompt: str) -> str:
    """A prompt as a part of a file's name."""
    return re.sub(r"\W+", "-", prompt.lower()).strip("-")[:40] or "image"


def _check_count(count: int) -> None:
    if count > MAX_IMAGES:
        raise UsageError(f"{count} images at once; the page draws {MAX_IMAGES}, t2i generate any number")


def _truncation(truncation: float) -> Sequence[str]:
    return () if truncation == 1 else ("--truncation", f"{truncation:g}")
