"""How captions reach a step: as embeddings that prepare made, or as ids for an encoder that trains with the GAN."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from t2i.config import TrainConfig
from t2i.data.prepared import PreparedDataset
from t2i.errors import UsageError
from t2i.files import first_line
from t2i.text.encoders import load_recorded
from t2i.text.frozen import pad_tokens
from t2i.text.pooler import TextBatch, TextStatistics
from t2i.text.tokenizer import CaptionTokenizer
from t2i.text.transformer import TrainedEncoder, TransformerEncoder, pad_ids, save_text_encoder
from t2i.training.ema import EMA
from t2i.training.randomness import derive_seed


class FrozenText:
    """Captions that reach a step as the token embeddings of a frozen encoder. cut: nothing to say; prepare said it."""

    encoder: TransformerEncoder | None = None
    cut = ""
    statistics = TextStatistics.identity(1)

    def average(self, images_seen: int, batch: int) -> None:
        """Nothing: it does not change."""

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint keeps of it: nothing."""
        return {}


class PreparedText(FrozenText):
    """The token embeddings of a prepared data set."""

    def __init__(self, dataset: PreparedDataset):
        self.dataset = dataset
        self.statistics = TextStatistics(*torch.from_numpy(dataset.text_statistics()))

    def batch(self, caption_ids: Sequence[int] | np.ndarray) -> TextBatch:
        """Captions, by their ids in the data set, as a networks' input: half precision on the CPU."""
        return pad_tokens(self.dataset.tokens(caption_ids))

    def encode(self, captions: Sequence[str]) -> TextBatch:
        """Captions of any kind, by the encoder that the data set was prepared with. Raises UserError."""
        return load_recorded(self.dataset.text).encode_batch(list(captions))

    def for_drawing(self, text: TextBatch) -> TextBatch:
        """A batch as the averaged generator takes it."""
        return text

    def describe(self) -> dict[str, Any]:
        """What a model remembers of its text encoder."""
        kept = ("name", "sha256", "width", "max_tokens", "folder")
        return {key: self.dataset.text[key] for key in kept if key in self.dataset.text}

    def save(self, model_folder: Path) -> None:
        """Nothing: a frozen encoder is found by its name."""


class TrainedText:
    """Captions as ids, and the encoder that trains with the GAN; its average is what draws.

    tokenizer: the run's, of an earlier start; None trains one on the data set's captions.
    cut: a line for the user where captions are longer than the encoder reads, else "".
    """

    def __init__(self, config: TrainConfig, dataset: PreparedDataset, tokenizer: CaptionTokenizer | None = None):
        captions = list(dataset.captions())
        settings = asdict(config.transformer)
        vocabulary, longest = settings.pop("vocabulary"), settings["max_tokens"]
        self.tokenizer = tokenizer or CaptionTokenizer.train(captions, vocabulary=vocabulary, max_tokens=longest)
        self.rows = self.tokenizer.encode(captions)
        cut, longest = self.tokenizer.truncated, self.tokenizer.max_tokens
        reads = f"cut to {longest} tokens, all that the text encoder reads (text.transformer.max_tokens)"
        self.cut = f"{cut:,} of {len(captions):,} captions are {reads}" if cut else ""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.run.seed, "text encoder"))
            try:
                self.encoder = TransformerEncoder(self.tokenizer.vocabulary_size, **settings)
            except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
                raise UsageError(f"[text.transformer]: {first_line(error)}") from error
        self.statistics = TextStatistics.identity(self.encoder.width)
        self.ema = EMA(self.encoder, config.optim.ema_kimg * 1000)

    def batch(self, caption_ids: Sequence[int] | np.ndarray) -> TextBatch:
        """Captions, by their ids in the data set, as token ids [B, L]."""
        return pad_ids([self.rows[caption] for caption in caption_ids])

    def encode(self, captions: Sequence[str]) -> TextBatch:
        """Captions of any data set as token ids [B, L]."""
        return pad_ids(self.tokenizer.encode(captions))

    @torch.no_grad()
    def for_drawing(self, text: TextBatch) -> TextBatch:
        """Ids [B, L] -> the averaged encoder's embeddings [B, L, T]."""
        return self.ema.model(text)

    def describe(self) -> dict[str, Any]:
        """What a model remembers of its text encoder."""
        return TrainedEncoder(self.ema.model, self.tokenizer).describe()

    def save(self, model_folder: Path) -> None:
        """Write the averaged encoder beside a generator."""
        save_text_encoder(model_folder, self.ema.model, self.tokenizer)

    def average(self, images_seen: int, batch: int) -> None:
        """Move the average after a step, as EMA.update does."""
        self.ema.update(self.encoder, images_seen, batch)

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint keeps of it."""
        return {"text_encoder": self.encoder, "text_encoder_ema": self.ema.model}


def make_text(
    config: TrainConfig, dataset: PreparedDataset, run_folder: Path, write: bool = True
) -> PreparedText | TrainedText:
    """The text of a run. A trained vocabulary is kept in the run folder and found there again on resuming.

    write: False on the ranks that only read; the vocabulary of the same captions is the same in every process.
    """
    if config.text.encoder == "prepared":
        return PreparedText(dataset)
    path = run_folder / "tokenizer.json"
    tokenizer = CaptionTokenizer.load(path) if path.is_file() else None
    text = TrainedText(config, dataset, tokenizer)
    if write and tokenizer is None:
        text.tokenizer.save(path)
    return text
