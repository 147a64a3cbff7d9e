"""t2i generate: images from prompts."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from t2i.cli import console
from t2i.cli.options import Device, Json, Model, PromptFile, TextEncoderFolder, Truncation, parse_colour
from t2i.errors import UsageError
from t2i.files import check_writable
from t2i.prompts import check_truncation, encode, parse_seeds, read_prompts

if TYPE_CHECKING:
    import numpy as np

    from t2i.pipeline import TextToImagePipeline


def generate(
    prompt: Annotated[list[str] | None, Argument(help="One or more prompts.", show_default=False)] = None,
    prompts: PromptFile = None,
    out: Annotated[
        str | None,
        Option(
            "--out",
            "-o",
            show_default=False,
            help="Image file (several images: numbered files), replaced if it is there; a folder; - for stdout "
            "(default: the next free one of out.png, out-2.png, ...).",
        ),
    ] = None,
    model: Model = None,
    seed: Annotated[int | None, Option(help="First seed (default: 0).", show_default=False)] = None,
    seeds: Annotated[str | None, Option(help="Seeds of each prompt, such as 0-7,12.", show_default=False)] = None,
    num: Annotated[int, Option(help="Images a prompt, with consecutive seeds from --seed on.")] = 1,
    truncation: Truncation = 1.0,
    background: Annotated[
        str | None,
        Option(help="Lay a transparent model's images on white, black, grey or #rrggbb.", show_default=False),
    ] = None,
    batch: Annotated[
        int | None,
        Option(
            help="Images computed at once (default: 4; on a GPU 16). Another batch rounds differently.",
            show_default=False,
        ),
    ] = None,
    text_encoder: TextEncoderFolder = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Generate images from prompts. Each seed gives another image; the same prompt and seed the same one."""
    texts = list(prompt or [])
    if prompts is not None:
        texts += read_prompts(prompts)
    if not texts:
        raise UsageError('no prompt: t2i generate "a table", or --prompts FILE')
    if any(not text.strip() for text in texts):
        raise UsageError("the prompt is empty: describe an image")
    if seeds is not None and (seed is not None or num != 1):
        raise UsageError("--seeds excludes --seed and --num")
    if not 1 <= num <= 100_000 or not 0 <= (seed or 0) < 10**18 or not 1 <= (1 if batch is None else batch) <= 1024:
        raise UsageError("--num lies between 1 and 100,000, --seed between 0 and 10^18, --batch between 1 and 1,024")
    check_truncation(truncation)
    colour = None if background is None else parse_colour(background)
    numbers = list(range(seed or 0, (seed or 0) + num)) if seeds is None else parse_seeds(seeds)

    import numpy as np

    from t2i.image_files import on_colour, save_image

    target = _Target(out, len(texts) * len(numbers), json)
    pipe = console.load_pipeline(model, device, quiet=json or target.stdout, text_encoder=text_encoder)
    if colour is not None and not pipe.description.form.transparent:
        raise UsageError("--background is for a model that draws transparent images; this one's are opaque")
    pipe.sampler.group = batch or pipe.sampler.group
    condition = pipe.sampler.pool(encode(pipe, texts, console.warn))
    target.check()  # before the work, after all other checks
    images = pipe.draw_each(condition, numbers, truncation)
    if colour is not None:
        images = ((index, seed, np.asarray(on_colour(image, colour))) for index, seed, image in images)
    if target.stdout:
        return _print_image(pipe, [image for *_, image in images], texts, numbers, truncation)
    written = []
    for number, (index, seed, image) in enumerate(images):
        path = target.name(number)
        save_image(image, path, pipe.image_facts(texts[index], seed, truncation))
        written.append({"path": str(path), "prompt": texts[index], "seed": seed})
    if json:
        console.print_json(written)
    elif len(written) == 1:
        console.say(f"wrote {written[0]['path']}: seed {numbers[0]}; --seed {numbers[0] + 1} draws another")
    else:
        console.say(f"wrote {len(written)} images, {written[0]['path']} to {written[-1]['path']}")


class _Target:
    """Where images go: what -o names, or the next free names. Raises UsageError, one line."""

    def __init__(self, out: str | None, count: int, json: bool):
        self.stdout = out == "-"
        if self.stdout and json:
            raise UsageError("-o - excludes --json: both print on stdout")
        if self.stdout and sys.stdout.isatty():
            raise UsageError("-o - prints a PNG file: redirect it, as in -o - > out.png")
        self.path = Path(out or "out.png")
        self.count = count
        self.first_free = 0 if out else _first_free(self.path)
        self.folder = None if out is None or self.stdout else _folder(out)
        if not self.folder and not self.stdout:
            from t2i.image_files import check_image_name

            check_image_name(self.path)

    def check(self) -> None:
        """Raise UserError, one line, where no file can be written there."""
        if not self.stdout:
            check_writable(self.folder or self.path.parent)

    def name(self, number: int) -> Path:
        """Of the number-th image."""
        digits = max(3, len(str(self.count - 1)))
        if self.folder:
            return self.folder / f"{number:0{digits}d}.png"
        if self.first_free:
            return _numbered(self.path, self.first_free + number)
        stem, suffix = self.path.stem, self.path.suffix
        return self.path if self.count == 1 else self.path.with_name(f"{stem}-{number:0{digits}d}{suffix}")


def _first_free(path: Path) -> int:
    """The number from which on no file out.png (1), out-2.png (2), ... is there."""
    found = [re.fullmatch(rf"{re.escape(path.stem)}(?:-(\d+))?{re.escape(path.suffix)}", name) for name in os.listdir()]
    return max((int(match[1] or 1) for match in found if match), default=0) + 1


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _print_image(
    pipe: "TextToImagePipeline", images: "list[np.ndarray]", texts: list[str], seeds: list[int], truncation: float
) -> None:
    """One image, or a sheet of several (a row a prompt), as PNG on stdout."""
    from t2i.grids import table_grid
    from t2i.image_files import encode_png

    facts = pipe.image_facts(" | ".join(texts), seeds[0], truncation)
    if len(images) == 1:
        png = encode_png(images[0], facts)
    else:
        rows = [images[start : start + len(seeds)] for start in range(0, len(images), len(seeds))]
        sheet = table_grid(rows, texts, [f"seed {seed}" for seed in seeds])
        png = encode_png(sheet, {**facts, "seeds": ",".join(map(str, seeds))})
    sys.stdout.buffer.write(png)


def _folder(out: str) -> Path | None:
    """The folder that --out names: one that exists, or a name without a suffix or with a final slash."""
    path = Path(out)
    device = str(path.parent) in ("/dev", "/dev/fd", "/proc/self/fd")  # redirected, /dev/stdout is a file
    if path.exists() and not path.is_dir() and (device or not path.is_file()):
        raise UsageError(f"-o {out}: a device or a pipe; name a file or a folder, or - for stdout")
    return path if path.is_dir() or path.suffix == "" or out.endswith(("/", os.sep)) else None
