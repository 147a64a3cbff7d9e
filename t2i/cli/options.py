"""Options that several commands share."""

import re
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from t2i.errors import UsageError

_MODEL = (
    "Model folder, run, RUN@N, RUN@best, emoji, the built-in model, or ORG/NAME on the Hugging Face hub "
    "(default: newest run, else emoji)."
)
Model = Annotated[Path | None, Option(help=_MODEL, show_default=False)]
ModelArgument = Annotated[Path | None, Argument(help=_MODEL, show_default=False)]
PromptFile = Annotated[Path | None, Option(help="Text file with one prompt a line.", show_default=False)]
Truncation = Annotated[
    float, Option(help="Variety between seeds: 1 as trained; towards 0 the typical image of a prompt.")
]
Device = Annotated[str, Option(help="auto, cpu, cuda or mps.")]
Json = Annotated[bool, Option("--json", help="Print a report as JSON.")]
TextEncoderFolder = Annotated[
    Path | None,
    Option("--text-encoder", help="Folder of the model's text encoder, if it has moved.", show_default=False),
]

COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128), "gray": (128, 128, 128)}


def parse_colour(text: str) -> tuple[int, int, int]:
    """What --background takes. Raises UsageError, one line."""
    if text in COLOURS:
        return COLOURS[text]
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise UsageError(f"--background {text!r:.40}: white, black, grey or #rrggbb")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue
