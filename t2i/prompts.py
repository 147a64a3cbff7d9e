"""What a user asks for, in words: prompts, seeds, truncation. Read alike by the command line and the page.

torch is not imported.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from t2i.errors import UsageError, UserError
from t2i.files import describe_os_error

if TYPE_CHECKING:
    from t2i.pipeline import TextToImagePipeline
    from t2i.text.pooler import TextBatch


def parse_seeds(text: str) -> list[int]:
    """ "0-7,12" -> [0, ..., 7, 12]. Raises UsageError, one line."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--seeds {text!r:.60}: write numbers and ranges, as in 0-7,12")
        if max(len(first), len(last)) > 18:  # Python itself refuses to read 5,000 digits
            raise UsageError(f"--seeds {text!r:.60}: a seed has at most 18 digits")
        start, stop = int(first), int(last or first)
        if stop < start or stop - start >= 100_000:
            raise UsageError(f"--seeds {text!r:.60}: the range {part.strip()} is empty or above 100,000")
        seeds += range(start, stop + 1)
    return seeds


def check_truncation(truncation: float) -> None:
    """Raises UsageError where a truncation is not a finite number."""
    if not math.isfinite(truncation):
        raise UsageError(f"--truncation {truncation}: give a number, such as 0.7")


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises UserError, one line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise describe_os_error(error, path) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a UTF-8 text file; write one prompt a line") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{path}: no prompt in this file; write one a line")
    return prompts


def encode(pipe: "TextToImagePipeline", prompts: list[str], warn: Callable[[str], None]) -> "TextBatch":
    """Prompts as token embeddings. warn: takes a line on cut prompts, and on words that the encoder does not know."""
    before, known_before = pipe.text_encoder.truncated, pipe.text_encoder.unknown
    text = pipe.encode(prompts)
    if unread := pipe.text_encoder.unknown - known_before:
        what = "the prompt has" if len(prompts) == 1 else f"{unread} of {len(prompts)} prompts have"
        warn(f"{what} words or signs that the text encoder does not know: it cannot tell them apart")
    if cut := pipe.text_encoder.truncated - before:
        what = "the prompt was" if len(prompts) == 1 else f"{cut} of {len(prompts)} prompts were"
        warn(f"{what} cut to {pipe.text_encoder.max_tokens} tokens, the limit of the text encoder")
    return text


def still_growing(pipe: "TextToImagePipeline") -> str:
    """A warning for a model that has not grown to its full resolution; "" for one that has."""
    size, full = pipe.grown.resolution, pipe.resolution
    return f"this model was saved while it grew: it generates {size} px, enlarged to {full}" if size < full else ""
