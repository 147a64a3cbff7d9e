"""The model card: README.md of a model folder, and of a model on the Hugging Face hub."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from t2i.files import shell_word
from t2i.version import __version__

if TYPE_CHECKING:
    from t2i.models.folder import ModelDescription

HERE = "PATH/TO/THIS/FOLDER"


def model_card(
    name: str,
    description: "ModelDescription",
    *,
    address: str = HERE,
    licence: str | None = None,
    samples: str | None = None,
    scores: Sequence[Mapping[str, Any]] = (),
    command: str | None = None,
) -> str:
    """README.md.

    address: what --model takes. licence: of the model, as the hub names it. samples: an image file beside the card.
    scores: as `t2i evaluate --json` lists them. command: that trained it.
    """
    training = description.training
    facts = {
        "architecture": description.architecture,
        "resolution": f"{description.resolution} x {description.resolution} px",
        "text encoder": f"{description.text_encoder['name']} ({description.conditioning} conditioning)",
        "trained on": training.get("data", "unknown"),
        **({"licences": training["licences"]} if "licences" in training else {}),
        "images seen": f"{training.get('images_seen', 0):,}",
        **({"trained by": f"`{command}`"} if command else {}),
        "made with": f"t2i {__version__}",
    }
    prompt = (training.get("prompts") or ["a table"])[0]
    quoted = json.dumps(prompt, ensure_ascii=False)
    head = [
        "---",
        "library_name: t2i",
        "pipeline_tag: text-to-image",
        *([f"license: {licence}"] if licence else []),
        "---",
    ]
    parts = [
        "\n".join([*head, f"# {name}"]),
        "A small text-to-image GAN: one forward pass an image.",
        *([f"![rows: prompts; columns: seeds]({samples})"] if samples else []),
        "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]),
        "\n".join([
            "```",
            *(["pip install t2i"] if address != HERE else []),
            f"t2i generate {shell_word(prompt)} --model {shell_word(address)} -o out.png",
            "```",
            "```python",
            "from t2i import TextToImagePipeline",
            "",
            f'image = TextToImagePipeline.from_pretrained("{address}")({quoted}).images[0]',
            "```",
        ]),
        *([_score_table(scores)] if scores else []),
        "It generates images like those it was trained on, and little else. The licence of the training images governs "
        "its\nuse.",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _score_table(scores: Sequence[Mapping[str, Any]]) -> str:
    """Scores beside those of real images (ceiling)."""
    rows = ["| score | this model | real images | better |", "|---|---|---|---|"]
    for score in scores:
        ceiling = score.get("ceiling")
        shown = "" if ceiling is None else f"{ceiling:.4g}"
        rows.append(f"| {score['name']} | {score['value']:.4g} | {shown} | {score['better']} |")
    return "\n".join(rows)
