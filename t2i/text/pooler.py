"""Pooling: from a caption's token embeddings to the one vector that conditions a network.

`--conditioning` chooses the kind:

- `attention`: learned queries attend over the tokens (AttentionPooler), trained with its network. Words keep
  separate representations, so that new pairs of colours and shapes can be combined.
- `sentence`: one fixed vector, the masked mean of the tokens (SentencePooler), as in DF-GAN and StyleGAN-T.

Before pooling, tokens can go through layers of self-attention (text.layers; TokenMixer), which add word order. The
discriminator learns these layers, from real images and their captions. The generator's are copied from them after each
step (sync_token_mixer), because its own gradients are a poor signal for reading.

Both kinds standardise with the statistics of the data set (TextStatistics): the vectors of a sentence encoder are
nearly parallel within one domain. The statistics are buffers, saved with the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.device import copies_in_background
from t2i.layers import Linear
from t2i.precision import at_least_fp32
from t2i.text.attention import TokenMixer

CONDITIONINGS = ("attention", "sentence")


@dataclass(frozen=True)
class TextBatch:
    """A batch of captions as a text encoder gives them.

    tokens: [B, L, T] float, any finite value at padding.
    mask: [B, L] bool, True at tokens, False at padding; at least one True a row.
    """

    tokens: Tensor
    mask: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "TextBatch":
        background = copies_in_background(device)
        tokens = self.tokens.to(device, dtype, non_blocking=background)
        return TextBatch(tokens, self.mask.to(device, non_blocking=background))

    def __getitem__(self, rows: slice | Tensor) -> "TextBatch":
        return TextBatch(self.tokens[rows], self.mask[rows])

    def __iter__(self) -> Iterator[Tensor]:
        yield from (self.tokens, self.mask)


class TextStatistics(NamedTuple):
    """Mean and standard deviation, each [T] float32, of a data set's tokens and of its sentence vectors."""

    token_mean: Tensor
    token_std: Tensor
    sentence_mean: Tensor
    sentence_std: Tensor

    @classmethod
    def identity(cls, width: int) -> "TextStatistics":
        """Statistics that leave tokens unchanged: for tests, and to load saved statistics into."""
        return cls(torch.zeros(width), torch.ones(width), torch.zeros(width), torch.ones(width))


def sentence_vector(text: TextBatch) -> Tensor:
    """The masked mean of the tokens, scaled to length 1: [B, T]. For MiniLM it is the sentence embedding."""
    mask = text.mask[..., None].to(text.tokens.dtype)  # [B, L, 1]
    mean = (text.tokens * mask).sum(1) / mask.sum(1)
    return F.normalize(mean, dim=1)


class AttentionPooler(nn.Module):
    """K learned queries over the tokens; their K results, concatenated, are the condition.

    Keys and values are linear maps of the output of `read`, shared by the queries; the softmax skips padding.

    text_layers: of the TokenMixer; 0: tokens are only standardised. lr_multiplier: of the learning rate.
    learns_mixer: False where the mixer is a copy of another pooler's.
    standardise, mix: the two halves of read. read: TextBatch -> TextBatch of tokens [B, L, read_width]. pool: such
    tokens -> [B, queries * query_width].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        statistics: TextStatistics,
        text_layers: int = 0,
        lr_multiplier: float = 1.0,
        learns_mixer: bool = True,
        queries: int = 8,
        query_width: int = 48,
    ):
        super().__init__()
        tokens = statistics.token_mean.numel()
        self.learns_mixer = learns_mixer
        self.mixer = TokenMixer(tokens, text_layers, lr_multiplier=lr_multiplier) if text_layers else None
        self.read_width = tokens + (self.mixer.width if self.mixer else 0)
        self.out_width = queries * query_width
        self.query = nn.Parameter(torch.randn(queries, query_width))
        self.key = Linear(self.read_width, query_width, lr_multiplier=lr_multiplier)
        self.value = Linear(self.read_width, query_width, lr_multiplier=lr_multiplier)
        self.register_buffer("mean", statistics.token_mean.clone().float())
        self.register_buffer("std", statistics.token_std.clone().float())

    def standardise(self, text: TextBatch) -> TextBatch:
        return TextBatch((text.tokens - self.mean) / self.std, text.mask)

    def mix(self, standardised: TextBatch) -> TextBatch:
        tokens = standardised.tokens  # [B, L, T]
        if self.mixer is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.learns_mixer):
                mixed = self.mixer(tokens, standardised.mask)
            tokens = torch.cat([tokens, mixed], dim=2)
        return TextBatch(tokens, standardised.mask)

    def read(self, text: TextBatch) -> TextBatch:
        return self.mix(self.standardise(text))

    def pool(self, read: TextBatch) -> Tensor:
        keys, values = self.key(read.tokens), self.value(read.tokens)  # [B, L, q]
        # Scores and softmax in fp32: half-precision scores of similar tokens would tie. A product and a sum, because
        # autocast runs a matrix product in half precision.
        keys = at_least_fp32(keys)[:, :, None, :]  # [B, L, 1, q]
        scores = (keys * self.query).sum(-1) * self.query.shape[1] ** -0.5  # [B, L, K]
        scores = scores.masked_fill(~read.mask[..., None], float("-inf"))
        attention = scores.softmax(dim=1).to(values.dtype)
        return (attention.transpose(1, 2) @ values).flatten(1)  # [B, K, q] -> [B, K * q]

    def forward(self, text: TextBatch) -> Tensor:
        return self.pool(self.read(text))


class SentencePooler(nn.Module):
    """The standardised sentence vector; it has no parameters.

    read: TextBatch -> TextBatch of one token, that vector, [B, 1, T]. pool: that -> [B, T].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, statistics: TextStatistics):
        super().__init__()
        self.read_width = self.out_width = statistics.token_mean.numel()
        self.register_buffer("mean", statistics.sentence_mean.clone().float())
        self.register_buffer("std", statistics.sentence_std.clone().float())

    def standardise(self, text: TextBatch) -> TextBatch:
        vector = (sentence_vector(text) - self.mean) / self.std
        return TextBatch(vector[:, None], text.mask[:, :1])

    def mix(self, standardised: TextBatch) -> TextBatch:
        return standardised

    def read(self, text: TextBatch) -> TextBatch:
        return self.standardise(text)

    def pool(self, read: TextBatch) -> Tensor:
        return read.tokens[:, 0]

    def forward(self, text: TextBatch) -> Tensor:
        return self.pool(self.read(text))


@dataclass(frozen=True)
class Conditioning:
    """The settings of a network's pooler.

    statistics: of the data set's tokens. kind: one of CONDITIONINGS. layers, lr_multiplier: of the token mixer of
    "attention".
    """

    statistics: TextStatistics
    kind: str = "attention"
    layers: int = 0
    lr_multiplier: float = 1.0

    def pooler(self, learns_mixer: bool = True) -> AttentionPooler | SentencePooler:
        """A new pooler. learns_mixer: False where its token mixer is a copy of another pooler's. Raises ValueError."""
        if self.kind == "attention":
            return AttentionPooler(self.statistics, self.layers, self.lr_multiplier, learns_mixer)
        if self.kind == "sentence":
            return SentencePooler(self.statistics)
        raise ValueError(f"conditioning is one of {', '.join(CONDITIONINGS)}, not {self.kind!r}")


@torch.no_grad()
def sync_token_mixer(source: AttentionPooler | SentencePooler, target: AttentionPooler | SentencePooler) -> None:
    """Copy the weights of one pooler's token mixer into another's; poolers without one are left alone."""
    if isinstance(source, AttentionPooler) and source.mixer is not None:
        assert isinstance(target, AttentionPooler) and target.mixer is not None
        torch._foreach_copy_(list(target.mixer.parameters()), list(source.mixer.parameters()))
