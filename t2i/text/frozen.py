"""A text encoder that only runs forward: captions in, token embeddings out. Its kinds are minilm.py and encoders.py."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from t2i.text.pooler import TextBatch

MAX_TOKENS = 128  # longer captions are cut: a picture is described in its first sentences


class FrozenEncoder:
    """A pretrained encoder that only runs forward.

    name: what the user called it; sha256: of its weights; width: T; max_tokens: longest caption it reads;
    truncated: captions cut so far. A kind of encoder says how texts become ids, and ids hidden states.
    """

    name: str
    sha256: str
    width: int
    max_tokens: int
    pad_id: int
    device: torch.device
    truncated = 0

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Each caption's token ids, special tokens included, cut to `max_tokens` (and counted in `truncated`)."""
        raise NotImplementedError

    def hidden(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Ids and mask (1: a token, 0: padding), int64 [B, L] -> the last hidden state [B, L, T]."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What a data set and a model remember of their encoder."""
        return {"name": self.name, "sha256": self.sha256, "width": self.width, "max_tokens": self.max_tokens}

    def encode(self, texts: Sequence[str], batch: int = 64) -> list[np.ndarray]:
        """Token embeddings, one fp16 array [L_i, T] a caption, in the order given.

        Captions of one length go through together, at most `batch` of them, so that no padding is computed.
        """
        ids = self.token_ids(texts)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out: list[np.ndarray] = [np.empty(0)] * len(ids)
        for _, group in itertools.groupby(order, key=lambda i: len(ids[i])):
            same = list(group)
            for start in range(0, len(same), batch):
                rows = same[start : start + batch]
                for row, embedding in zip(rows, self._forward([ids[i] for i in rows])):
                    out[row] = embedding
        return out

    def encode_batch(self, texts: Sequence[str]) -> TextBatch:
        """Prompts as a padded batch. Each runs alone, so that a prompt's embedding does not depend on its company."""
        return pad_tokens([self._forward([ids])[0] for ids in self.token_ids(texts)])

    @torch.inference_mode()
    def _forward(self, ids: list[list[int]]) -> list[np.ndarray]:
        longest = max(len(row) for row in ids)
        input_ids = torch.tensor([row + [self.pad_id] * (longest - len(row)) for row in ids], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=self.device)
        half = self.hidden(input_ids, mask).clamp(-65504, 65504).half().cpu().numpy()
        return [half[i, : len(row)].copy() for i, row in enumerate(ids)]


def pad_tokens(rows: Sequence[np.ndarray]) -> TextBatch:
    """Ragged token embeddings, each [L_i, T], as one zero-padded fp16 batch."""
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), lengths.max(), rows[0].shape[1]), np.float16)
    for place, row in zip(tokens, rows):
        place[: len(row)] = row
    mask = np.arange(lengths.max()) < lengths[:, None]
    return TextBatch(torch.from_numpy(tokens), torch.from_numpy(mask))
