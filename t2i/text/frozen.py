"""A text encoder that only runs forward: captions in, token embeddings out. Its kinds are minilm.py and encoders.py."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from t2i.device import has_quick_bf16
from t2i.text.pooler import TextBatch

GROUP = 8  # prompts that are encoded together
MAX_TOKENS = 128  # longer captions are cut: an image is described in its first sentences


class FrozenEncoder:
    """A pretrained encoder that only runs forward.

    name: what the user called it; sha256: of its weights; width: T; max_tokens: longest caption it reads;
    truncated: captions cut so far; unknown: captions so far with words or signs that it has no token for, which all
    read the same to it; model: the network; precision: of its matrix products, fp32 or bf16; folder: whether `name` is
    that of a local folder. A kind of encoder says how texts become ids, and ids hidden states.
    """

    name: str
    sha256: str
    width: int
    max_tokens: int
    device: torch.device
    model: nn.Module
    truncated = unknown = 0
    precision = "fp32"
    folder = False

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Each caption's token ids with special tokens, cut to `max_tokens`; counts in `truncated` and `unknown`."""
        raise NotImplementedError

    def hidden(self, input_ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Ids and mask (1: a token, 0: padding; None: no padding), int64 [B, L] -> the last hidden state [B, L, T]."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What a data set and a model remember of their encoder: that it was a folder, too, and a quick precision."""
        facts = {"name": self.name, "sha256": self.sha256, "width": self.width, "max_tokens": self.max_tokens}
        if self.folder:
            facts["folder"] = True
        if self.precision != "fp32":
            facts["precision"] = self.precision
        if self.device.type != "cpu":
            facts["device"] = self.device.type
        return facts

    def quicken(self) -> None:
        """Encode in bf16 from now on where this device is made for it: about twice as fast, within 1 % of fp32.

        Matrix products alone: sums and norms stay in fp32. Done once; there is no way back.
        """
        if not has_quick_bf16(self.device):
            return
        for layer in self.model.modules():
            if isinstance(layer, nn.Linear):  # once, where autocast would do it at every call
                layer.to(torch.bfloat16)
        self.precision = "bf16"

    def encode(self, texts: Sequence[str], batch: int = 64) -> list[np.ndarray]:
        """Token embeddings, one fp16 array [L_i, T] a caption, in the order given.

        Captions of one length go through together, at most `batch` of them, so that no padding is computed.
        """
        ids = self.token_ids(texts)
        out: list[np.ndarray] = [np.empty(0)] * len(ids)
        for rows in groups_of_one_length(ids, batch):
            for row, embedding in zip(rows, self._forward([ids[i] for i in rows])):
                out[row] = embedding
        return out

    def encode_batch(self, texts: Sequence[str]) -> TextBatch:
        """Prompts as a padded batch.

        They go through in groups of one size, the last filled up, because the rounding of a matrix product depends on
        its shape: a prompt's embedding does not depend on its company.
        """
        ids = [tuple(row) for row in self.token_ids(texts)]
        unique = list(dict.fromkeys(ids))
        found: dict[tuple[int, ...], np.ndarray] = {}
        for rows in groups_of_one_length(unique, GROUP):
            group = [unique[row] for row in rows]
            found.update(zip(group, self._forward([*group, *[group[-1]] * (GROUP - len(group))])))
        return pad_tokens([found[row] for row in ids])

    @torch.inference_mode()
    def _forward(self, ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Captions of one length."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            hidden = self.hidden(torch.tensor(ids, device=self.device))
        return list(as_kept(hidden).cpu().numpy())


def as_kept(hidden: torch.Tensor) -> torch.Tensor:
    """Hidden states in half precision, as data sets keep them and as models are drawn with."""
    return hidden.clamp(-65504, 65504).half()


def groups_of_one_length(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """The numbers of the rows, those of rows of one length together, at most `size` of them."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for _, same in itertools.groupby(order, key=lambda i: len(rows[i])):
        numbers = list(same)
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]


def pad_tokens(rows: Sequence[np.ndarray]) -> TextBatch:
    """Ragged token embeddings, each [L_i, T], as one zero-padded fp16 batch."""
    lengths = np.array([len(row) for row in rows])
    tokens = np.empty((len(rows), lengths.max(), rows[0].shape[1]), np.float16)
    for place, row in zip(tokens, rows):
        place[: len(row)] = row
        place[len(row) :] = 0
    mask = np.arange(lengths.max()) < lengths[:, None]
    return TextBatch(torch.from_numpy(tokens), torch.from_numpy(mask))
