"""CLIP score and retrieval with the user's CLIP, a folder or a hub name, through transformers."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2i.errors import UsageError, UserError
from t2i.evaluation.features import FeatureNetwork, Progress, silent
from t2i.files import first_line
from t2i.tensors import hash_tensors
from t2i.text.encoders import load_encoder

BATCH = 64


@dataclass(frozen=True)
class Clip:
    """images: the image encoder, to vectors of length 1; its name and sha256 stand for the whole model."""

    images: FeatureNetwork
    model: Any
    tokenizer: Any

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], progress: Progress = silent) -> np.ndarray:
        """Captions -> float32 [N, E], length 1; longer captions are cut to CLIP's limit."""
        out = []
        for start in range(0, len(texts), BATCH):
            progress("captions", start, len(texts))
            part = list(texts[start : start + BATCH])
            limit = self.model.config.text_config.max_position_embeddings
            tokens = self.tokenizer(part, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            tokens = {name: value.to(self.images.device) for name, value in tokens.items()}
            tokens.pop("token_type_ids", None)
            pooled = self.model.text_model(**tokens).pooler_output
            out.append(_unit(self.model.text_projection(pooled)).float().cpu().numpy())
        return np.concatenate(out)


def _unit(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x, dim=1)


def load_clip(name: str, device: torch.device | str = "cpu") -> Clip:
    """The CLIP in a local folder, or of that name on the hub. Raises UserError, one line, where it cannot be loaded."""
    folder = Path(name).expanduser()
    where = folder if folder.is_dir() else name
    try:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel
        from transformers import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        # trust_remote_code not set, transformers asks on the terminal whether the folder's own Python code may run.
        model = CLIPModel.from_pretrained(where, use_safetensors=True, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        processor = AutoImageProcessor.from_pretrained(where, trust_remote_code=False)
        mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (processor.image_mean, processor.image_std))
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, ImportError and its own
        raise UserError(
            f"--clip {name}: cannot load it ({first_line(error)}); give a folder with config.json, model.safetensors, "
            "a tokenizer and preprocessor_config.json, or a name on the Hugging Face hub"
        ) from error
    model = model.eval().requires_grad_(False).to(device)
    mean, std = mean.to(device), std.to(device)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        pooled = model.vision_model(pixel_values=(pixels - mean) / std).pooler_output
        return _unit(model.visual_projection(pooled))

    # Cached features depend on how pixels are scaled, too.
    sha256 = hash_tensors({**model.state_dict(), "pixels.mean": mean, "pixels.std": std})
    network = FeatureNetwork(
        f"CLIP {name}", sha256, int(model.config.vision_config.image_size), int(model.config.projection_dim), forward,
        torch.device(device),
    )  # fmt: skip
    return Clip(network, model, tokenizer)


def refuse_own_encoder(name: str, encoder: dict[str, Any]) -> None:
    """Raises UsageError where the CLIP that is to score a model is the model's own text encoder.

    encoder: name and sha256 of the model's text encoder.
    """
    own = str(encoder.get("name"))
    if own == "minilm":
        return
    if own != name:
        try:
            if load_encoder(name).sha256 != encoder.get("sha256"):
                return
        except UserError:  # no text encoder at all: load_clip reports what is wrong
            return
    raise UsageError(f"--clip {name}: this model was trained with that CLIP as its text encoder; name another one")
