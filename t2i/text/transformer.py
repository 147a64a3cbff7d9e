"""The text encoder that is trained with the GAN (`--text-encoder transformer`): ids in, token embeddings out.

Read it top to bottom: encoder; then its folder; then the encoder as a pipeline uses it. Its blocks are in attention.py.

It is the encoder half of Vaswani et al., "Attention Is All You Need", NIPS 2017, with three departures:
- The norms come before each sub-layer and once at the end (pre-norm). With the norm after the sum, as published,
  training needs a warm-up of the learning rate (Xiong et al. 2020), which a GAN's optimisers do not have.
- GELU in place of ReLU, as BERT and GPT have it.
- Dropout takes its random numbers from the caller and drops whole channels of a caption.

Its width is independent of the data set. Poolers get TextStatistics.identity(width), as the tokens change in training.
"""

import contextlib
import hashlib
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from t2i.errors import UserError
from t2i.files import describe_os_error, first_line, make_folder, read_json, sweep, write_json
from t2i.tensors import hash_tensors, load_tensors, save_tensors
from t2i.text.attention import Block, LayerNorm
from t2i.text.pooler import TextBatch
from t2i.text.tokenizer import MAX_TOKENS, PAD_ID, CaptionTokenizer

NAME = "transformer"
FOLDER = "text_encoder"
FORMAT = 1
LARGEST = 2**20  # of any number in config.json, far above any real encoder


class TransformerEncoder(nn.Module):
    """Token ids -> token embeddings.

    vocabulary: ids lie in [0, vocabulary), PAD_ID is padding. width: T. max_tokens: longest caption, L at most.
    Raises ValueError for settings that do not fit each other.

    forward: TextBatch of ids [B, L] int64 and mask [B, L] -> TextBatch of tokens [B, L, T] float32 and the mask. Ids
    at padding are ignored. dropout_uniform: [B, dropout_numbers] uniform numbers in [0, 1) for dropout; None: no
    dropout. The caller draws them, so that a micro-batch has the gradients that it has in the whole batch.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        feed_forward: int = 2048,
        max_tokens: int = MAX_TOKENS,
        dropout: float = 0.1,
    ):
        super().__init__()
        if width % heads or width % 2:
            raise ValueError(f"a width of {width} is not even, or not {heads} heads of the same width")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout lies in [0, 1); {dropout} does not")
        self.config: dict[str, Any] = {
            "vocabulary": vocabulary, "width": width, "layers": layers, "heads": heads, "feed_forward": feed_forward,
            "max_tokens": max_tokens, "dropout": float(dropout),
        }  # fmt: skip
        self.width, self.max_tokens, self.dropout = width, max_tokens, dropout
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PAD_ID)
        self.blocks = nn.ModuleList(Block(width, heads, feed_forward, layers) for _ in range(layers))
        self.norm = LayerNorm(width)
        self.dropout_numbers = (1 + 2 * layers) * width if dropout else 0
        # Scaled by sqrt(width) in forward (sec. 3.4): words start as far apart as positions, and learn faster than
        # unscaled weights at Adam's fixed step.
        nn.init.normal_(self.embedding.weight, std=self.width**-0.5)
        self.embedding.weight.data[PAD_ID] = 0

    def forward(self, ids: TextBatch, dropout_uniform: Tensor | None = None) -> TextBatch:
        tokens, mask = ids.tokens.masked_fill(~ids.mask, PAD_ID), ids.mask
        assert tokens.shape[1] <= self.max_tokens, f"{tokens.shape[1]} tokens, of at most {self.max_tokens}"
        keep: Sequence[Tensor | float] = [1.0] * (1 + 2 * len(self.blocks))
        if dropout_uniform is not None and self.dropout:
            # One mask a caption and sub-layer for all tokens ("variational" dropout, Gal & Ghahramani 2016): the count
            # of numbers does not depend on the length. After the embedding and every sub-layer, as in sec. 5.4.
            kept = (dropout_uniform >= self.dropout).float() / (1 - self.dropout)
            keep = kept.unflatten(1, (-1, 1, self.width)).unbind(1)  # each [B, 1, W]
        x = self.embedding(tokens) * math.sqrt(self.width) + sinusoids(tokens.shape[1], self.width, tokens.device)
        x = keep[0] * x  # [B, L, W]
        for layer, block in enumerate(self.blocks):
            x = block(x, mask[:, None, None, :], keep[1 + 2 * layer : 3 + 2 * layer])
        return TextBatch(self.norm(x), mask)


def sinusoids(length: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """The positions of sec. 3.5, [length, width]: sines in the even channels, cosines in the odd ones."""
    position = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    angle = position * torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def pad_ids(rows: Sequence[np.ndarray]) -> TextBatch:
    """Ragged ids, each [L_i], as one batch: tokens int64 [B, L] with PAD_ID at padding, mask bool [B, L]."""
    longest = max(len(row) for row in rows)
    tokens = np.full((len(rows), longest), PAD_ID, np.int64)
    mask = np.zeros((len(rows), longest), bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = True
    return TextBatch(torch.from_numpy(tokens), torch.from_numpy(mask))


# ---- its folder ----


def save_text_encoder(folder: Path | str, encoder: TransformerEncoder, tokenizer: CaptionTokenizer) -> None:
    """Write folder/text_encoder/{config.json, tokenizer.json, model.safetensors}; each is replaced whole.

    Raises UserError, one line.
    """
    place = make_folder(Path(folder) / FOLDER)
    sweep(place)  # left by a save that was killed
    config = {"kind": NAME, "format": FORMAT, "tokenizer_sha256": tokenizer.sha256, **encoder.config}
    write_json(place / "config.json", config)
    tokenizer.save(place / "tokenizer.json")
    save_tensors(place / "model.safetensors", encoder.state_dict())


def drop_text_encoder(folder: Path | str) -> None:
    """Remove the text encoder of an earlier model in the folder; the new model has none."""
    place = Path(folder) / FOLDER
    with contextlib.suppress(UserError):  # another tool's folder stays
        if read_json(place / "config.json").get("kind") == NAME:
            shutil.rmtree(place, ignore_errors=True)


def load_text_encoder(folder: Path | str, sha256: str = "") -> tuple[TransformerEncoder, CaptionTokenizer]:
    """Read what save_text_encoder wrote: the encoder, on the CPU, and its tokenizer. The RNG is unchanged.

    sha256: of the encoder that the generator beside it was trained with; "" for any.
    Strict: the tokenizer must match by hash, and exactly the expected tensors must be there.
    Raises UserError, one line.
    """
    place = Path(folder) / FOLDER
    loaded = _load(place)
    if sha256 and TrainedEncoder(*loaded).sha256 != sha256:
        raise UserError(
            f"{place} is not the encoder that the generator beside it was trained with; get or save the model again"
        )
    return loaded


def _load(place: Path) -> tuple[TransformerEncoder, CaptionTokenizer]:
    config = read_json(place / "config.json", "text encoder configuration")
    kind, version, digest = (config.pop(name, None) for name in ("kind", "format", "tokenizer_sha256"))
    if kind != NAME or version != FORMAT:
        raise UserError(
            f"{place}: text encoder {kind!s:.40}, format {version!s:.40}; this t2i reads {NAME}, format {FORMAT}"
        )
    tokenizer = CaptionTokenizer.load(place / "tokenizer.json")
    if tokenizer.sha256 != digest:
        raise UserError(f"{place / 'tokenizer.json'}: not the vocabulary that the encoder beside it was trained with")
    try:
        tensors = load_tensors(place / "model.safetensors")
        _check_config(config, tokenizer, tensors)
        with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
            encoder = TransformerEncoder(**config)
        encoder.load_state_dict(tensors, assign=True)
    except OSError as error:
        raise describe_os_error(error, place / "model.safetensors") from error
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{place}: the text encoder does not fit its configuration ({first_line(error)}); get or train it again"
        ) from error
    return encoder, tokenizer


def _check_config(config: dict[str, Any], tokenizer: CaptionTokenizer, tensors: dict[str, Tensor]) -> None:
    """Raises TypeError or ValueError for a value of the wrong kind, or parts of different encoders."""
    for name, value in config.items():
        kind = float if name == "dropout" else int
        if type(value) is not kind:
            raise TypeError(f"its {name} is {value!r:.40}, not {kind.__name__}")
        if kind is int and not 1 <= value <= LARGEST:
            raise ValueError(f"its {name} is {value}")
    if config.get("layers", 0) > len(tensors):
        raise ValueError(f"{config['layers']} layers and {len(tensors)} tensors")
    if config.get("vocabulary") != tokenizer.vocabulary_size or config.get("max_tokens", 0) < tokenizer.max_tokens:
        raise ValueError("its tokenizer is that of another encoder")
    if any(value.dtype != torch.float32 for value in tensors.values()):
        raise ValueError("weights that are not float32")


class TrainedEncoder:
    """A trained encoder and its tokenizer, with the interface of t2i.text.frozen.FrozenEncoder in a pipeline.

    It runs on the device of the weights. max_tokens may be lowered. truncated: captions cut so far. Nothing is
    unknown, as the vocabulary has every byte.
    """

    name, unknown = NAME, 0

    def __init__(self, encoder: TransformerEncoder, tokenizer: CaptionTokenizer):
        self.encoder, self.tokenizer = encoder, tokenizer
        self.width = encoder.width
        self.max_tokens = tokenizer.max_tokens

    @property
    def sha256(self) -> str:
        """Hash of the current weights and the vocabulary."""
        return hashlib.sha256((hash_tensors(self.encoder.state_dict()) + self.tokenizer.sha256).encode()).hexdigest()

    @property
    def truncated(self) -> int:
        return self.tokenizer.truncated

    def describe(self) -> dict[str, Any]:
        """The facts on the encoder that a model folder stores."""
        return {"name": self.name, "sha256": self.sha256, "width": self.width, "max_tokens": self.max_tokens}

    @torch.no_grad()
    def encode_batch(self, texts: Sequence[str]) -> TextBatch:
        """Prompts as a padded batch, float32 on the CPU.

        Each different prompt runs alone, so that a prompt's embedding does not depend on the others.
        """
        device = self.encoder.embedding.weight.device
        unique = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        found = []
        for ids in self.tokenizer.encode(list(unique)):
            one = pad_ids([ids[: self.max_tokens]])
            found.append(self.encoder(TextBatch(one.tokens.to(device), one.mask.to(device))).tokens[0].cpu())
        rows = [found[unique[text]] for text in texts]
        mask = pad_ids([np.ones(len(row), np.int32) for row in rows]).mask
        return TextBatch(nn.utils.rnn.pad_sequence(rows, batch_first=True), mask)
