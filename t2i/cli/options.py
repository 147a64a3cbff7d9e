"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

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
