"""t2i push: a model onto the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from t2i.cli import console
from t2i.files import shell_word


def push(
    model: Annotated[Path, Argument(help="Model folder, run, RUN@N, RUN@best, or emoji.")],
    name: Annotated[str, Argument(metavar="ORG/NAME", help="Its name on the hub.")],
    private: Annotated[bool, Option("--private", help="For yourself and your organisation alone.")] = False,
    licence: Annotated[
        str | None,
        Option(help="Licence of the model, as the hub names it: cc-by-4.0, apache-2.0, ...", show_default=False),
    ] = None,
    half: Annotated[bool, Option("--half", help="Weights in half precision: half the size.")] = False,
) -> None:
    """Put a model onto the Hugging Face hub, with a card: samples, scores, data, how to use it."""
    from t2i.pipeline import TextToImagePipeline
    from t2i.training.run import run_of, training_facts

    pipe = TextToImagePipeline.from_pretrained(model, "cpu")
    run = run_of(model)
    facts = {} if run is None else training_facts(run, pipe.weights_sha256)
    address = pipe.push_to_hub(name, private=private, licence=licence, half=half, **facts)
    console.say(f"pushed to {address}")
    console.say(f"t2i generate {shell_word((pipe.known_prompts or ['a table'])[0])} --model {shell_word(name)}")
