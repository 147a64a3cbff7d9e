"""t2i generate: prompts in, pictures out."""

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from t2i.cli import console
from t2i.errors import UsageError


def generate(
    prompt: Annotated[
        list[str] | None, Argument(help="What to draw; several are drawn each.", show_default=False)
    ] = None,
    prompts: Annotated[Path | None, Option(help="A text file, one prompt a line.", show_default=False)] = None,
    out: Annotated[
        str, Option("--out", "-o", help="A picture file; several pictures are numbered; a folder takes any number.")
    ] = "out.png",
    model: Annotated[
        Path | None,
        Option(help="A model or run folder, or emoji: built in. Left out, the newest run's.", show_default=False),
    ] = None,
    seed: Annotated[int | None, Option(help="Seed of the noise (0).", show_default=False)] = None,
    seeds: Annotated[
        str | None, Option(help="Several: 0-7,12 draws each prompt nine times.", show_default=False)
    ] = None,
    num: Annotated[int, Option(help="Pictures a prompt, with seeds from --seed upwards.")] = 1,
    truncation: Annotated[float, Option(help="1: as trained; towards 0: more typical, less varied.")] = 1.0,
    batch: Annotated[
        int | None,
        Option(
            help="Pictures computed at once, however few you ask for (4; 16 on a GPU); it decides rounding.",
            show_default=False,
        ),
    ] = None,
    text_encoder: Annotated[
        Path | None,
        Option(help="The folder of the model's text encoder, where it is not where it was.", show_default=False),
    ] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda or mps.")] = "auto",
    json: Annotated[bool, Option("--json", help="Report as JSON on stdout.")] = False,
) -> None:
    """Draw prompts with a trained model. The same prompt and seed give the same picture."""
    texts = list(prompt or [])
    if prompts is not None:
        texts += console.read_prompts(prompts)
    if not texts:
        raise UsageError('say what to draw: t2i generate "a table", or --prompts FILE')
    if any(not text.strip() for text in texts):
        raise UsageError("the prompt is empty: say what to draw")
    if seeds is not None and (seed is not None or num != 1):
        raise UsageError("--seeds excludes --seed and --num")
    if not 1 <= num <= 100_000 or not 0 <= (seed or 0) < 10**18 or not 1 <= (1 if batch is None else batch) <= 1024:
        raise UsageError("--num lies between 1 and 100,000, --seed between 0 and 10^18, --batch between 1 and 1,024")
    console.check_truncation(truncation)
    numbers = list(range(seed or 0, (seed or 0) + num)) if seeds is None else console.parse_seeds(seeds)

    from t2i.files import check_writable
    from t2i.grids import check_picture_name, save_png

    folder = _folder(out)
    if not folder:
        check_picture_name(Path(out))
    pipe = console.load_pipeline(model, device, quiet=json, text_encoder=text_encoder)
    pipe.sampler.group = batch or pipe.sampler.group
    condition = pipe.sampler.pool(console.encode(pipe, texts))
    check_writable(folder or Path(out).parent)  # before the work, after all else that can be wrong
    import torch

    jobs = [(index, seed) for index in range(len(texts)) for seed in numbers]
    noise = torch.stack([pipe.sampler.noise(seed) for _, seed in jobs])
    rows = torch.tensor([index for index, _ in jobs], device=pipe.device)
    written = []
    pictures = (picture for group in pipe.sampler.draw(noise, condition[rows], truncation) for picture in group.numpy())
    for number, ((index, seed), picture) in enumerate(zip(jobs, pictures)):
        path = _name(Path(out), folder, number, len(jobs))
        save_png(picture, path, pipe.image_facts(texts[index], seed, truncation))
        written.append({"path": str(path), "prompt": texts[index], "seed": seed})
    if json:
        console.print_json(written)
    elif len(written) == 1:
        console.say(f"wrote {written[0]['path']}")
    else:
        console.say(f"wrote {len(written)} pictures, {written[0]['path']} to {written[-1]['path']}")


def _folder(out: str) -> Path | None:
    """The folder that --out names: one that is there, or a name without a suffix or with a slash at its end.

    Raises UsageError for "-".
    """
    if out == "-":
        raise UsageError("-o - : pictures are written to files; name one, or a folder")
    path = Path(out)
    device = str(path.parent) in ("/dev", "/dev/fd", "/proc/self/fd")  # redirected, /dev/stdout is a file
    if path.exists() and not path.is_dir() and (device or not path.is_file()):
        raise UsageError(f"-o {out}: a device or a pipe, and pictures are written to files; name one, or a folder")
    return path if path.is_dir() or path.suffix == "" or out.endswith(("/", os.sep)) else None


def _name(out: Path, folder: Path | None, number: int, count: int) -> Path:
    digits = max(3, len(str(count - 1)))
    if folder:
        return folder / f"{number:0{digits}d}.png"
    return out if count == 1 else out.with_name(f"{out.stem}-{number:0{digits}d}{out.suffix}")
