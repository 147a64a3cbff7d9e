"""What evaluation needs of a model: a way to draw captions with seeds, and a way to encode prompts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from t2i.data.prepared import PreparedDataset
from t2i.errors import UserError
from t2i.precision import to_pixels
from t2i.tensors import noise_of_seed
from t2i.text.frozen import pad_tokens
from t2i.text.pooler import TextBatch

CHUNK = 64  # pictures handed on at once: memory does not grow with their number


@dataclass(frozen=True)
class Painter:
    """Draws pictures. Make one with `of_pipeline`, or `of_generator` where there is no pipeline (in training).

    resolution: R of the pictures, px.
    draw: captions (B of them) and B seeds -> uint8 [B, R, R, 3]; the same pair gives the same picture.
    encode: prompts -> captions as the model wants them.
    encoder_sha256: of the text encoder; a data set of the same encoder lends its embeddings.
    """

    resolution: int
    draw: Callable[[TextBatch, Sequence[int]], np.ndarray]
    encode: Callable[[Sequence[str]], TextBatch]
    encoder_sha256: str

    @classmethod
    def of_pipeline(cls, pipe: Any, truncation: float = 1.0) -> "Painter":
        """Draws as `t2i generate` does, in the pipeline's groups. pipe: a TextToImagePipeline."""

        def draw(text: TextBatch, seeds: Sequence[int]) -> np.ndarray:
            noise = torch.stack([pipe.noise(seed) for seed in seeds])
            return torch.cat(list(pipe.draw(noise, pipe.pool(text), truncation))).numpy()

        return cls(pipe.resolution, draw, pipe.encode, str(pipe.description.text_encoder["sha256"]))

    @classmethod
    def of_generator(
        cls,
        generator: nn.Module,
        resolution: int,
        encoder_sha256: str,
        encode: Callable[[Sequence[str]], TextBatch],
        device: torch.device | str = "cpu",
    ) -> "Painter":
        """Draws with a bare generator, which must be in eval mode: for scores while it trains."""

        @torch.inference_mode()
        def draw(text: TextBatch, seeds: Sequence[int]) -> np.ndarray:
            noise = torch.stack([noise_of_seed(seed, generator.z_dim) for seed in seeds])  # type: ignore[arg-type]
            return to_pixels(generator(noise.to(device), text.to(device))).numpy()

        return cls(resolution, draw, encode, encoder_sha256)

    def check(self, data: PreparedDataset) -> None:
        """Raises UserError, one line, where the model draws another size than the data set holds."""
        if self.resolution != data.resolution:
            raise UserError(
                f"the model draws {self.resolution} px, {data.path} holds {data.resolution} px: prepare the data with "
                f"--resolution {self.resolution}"
            )

    def captions(self, data: PreparedDataset, caption_ids: Sequence[int] | np.ndarray) -> TextBatch:
        """Captions of a data set as the model wants them: from the data set's embeddings where these fit."""
        if data.text.get("sha256") == self.encoder_sha256:
            return pad_tokens(data.tokens(caption_ids))
        return self.encode([data.caption(int(caption)) for caption in caption_ids])

    def prompts(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """One picture for each prompt and seed: uint8 [N, R, R, 3]."""
        parts = [slice(start, start + CHUNK) for start in range(0, len(prompts), CHUNK)]
        return np.concatenate([self.draw(self.encode(prompts[part]), seeds[part]) for part in parts])

    def paint(
        self, data: PreparedDataset, caption_ids: np.ndarray, seeds: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """One picture for each caption and seed, `CHUNK` at a time: their places and uint8 [<= CHUNK, R, R, 3]."""
        for start in range(0, len(caption_ids), CHUNK):
            rows = slice(start, start + CHUNK)
            yield rows, self.draw(self.captions(data, caption_ids[rows]), [int(seed) for seed in seeds[rows]])
