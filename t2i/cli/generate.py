"""t2i generate: images from prompts."""

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from t2i.cli import console
from t2i.cli.options import Device, Json, Model, PromptFile, TextEncoderFolder, Truncation
from t2i.errors import UsageError


def generate(
    prompt: Annotated[list[str] | None, Argument(help="One or more prompts.", show_default=False)] = None,
    prompts: PromptFile = None,
    out: Annotated[
        str, Option("--out", "-o", help="Image file (several images: numbered files) or folder.")
    ] = "out.png",
    model: Model = None,
    seed: Annotated[int | None, Option(help="First seed (default: 0).", show_default=False)] = None,
    seeds: Annotated[str | None, Option(help="Seeds of each prompt, such as 0-7,12.", show_default=False)] = None,
    num: Annotated[int, Option(help="Images a prompt, with consecutive seeds from --seed on.")] = 1,
    truncation: Truncation = 1.0,
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
        texts += console.read_prompts(prompts)
    if not texts:
        raise UsageError('no prompt: t2i generate "a table", or --prompts FILE')
    if any(not text.strip() for text in texts):
        raise UsageError("the prompt is empty: describe an image")
    if seeds is not None and (seed is not None or num != 1):
        raise UsageError("--seeds excludes --seed and --num")
    if not 1 <= num <= 100_000 or not 0 <= (seed or 0) < 10**18 or not 1 <= (1 if batch is None else batch) <= 1024:
        raise UsageError("--num lies between 1 and 100,000, --seed between 0 and 10^18, --batch between 1 and 1,024")
    console.check_truncation(truncation)
    numbers = list(range(seed or 0, (seed or 0) + num)) if seeds is None else console.parse_seeds(seeds)

    from t2i.files import check_writable
    from t2i.image_files import check_image_name, save_png

    folder = _folder(out)
    if not folder:
        check_image_name(Path(out))
    pipe = console.load_pipeline(model, device, quiet=json, text_encoder=text_encoder)
    pipe.sampler.group = batch or pipe.sampler.group
    condition = pipe.sampler.pool(console.encode(pipe, texts))
    check_writable(folder or Path(out).parent)  # before the work, after all other checks
    import torch

    jobs = [(index, seed) for index in range(len(texts)) for seed in numbers]
    noise = torch.stack([pipe.sampler.noise(seed) for _, seed in jobs])
    rows = torch.tensor([index for index, _ in jobs], device=pipe.device)
    written = []
    images = (image for group in pipe.sampler.draw(noise, condition[rows], truncation) for image in group.numpy())
    for number, ((index, seed), image) in enumerate(zip(jobs, images)):
        path = _name(Path(out), folder, number, len(jobs))
        save_png(image, path, pipe.image_facts(texts[index], seed, truncation))
        written.append({"path": str(path), "prompt": texts[index], "seed": seed})
    if json:
        console.print_json(written)
    elif len(written) == 1:
        console.say(f"wrote {written[0]['path']}: seed {numbers[0]}; --seed {numbers[0] + 1} draws another")
    else:
        console.say(f"wrote {len(written)} images, {written[0]['path']} to {written[-1]['path']}")


def _folder(out: str) -> Path | None:
    """The folder that --out names: one that exists, or a name without a suffix or with a final slash.

    Raises UsageError for "-".
    """
    if out == "-":
        raise UsageError("-o - : images are written to files; name a file or a folder")
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
