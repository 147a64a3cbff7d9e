"""Samples of a model for evaluation: images of captions and seeds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from t2i.data.prepared import PreparedDataset
from t2i.errors import UserError
from t2i.sampling import Sampler
from t2i.text.frozen import pad_tokens
from t2i.text.pooler import TextBatch

CHUNK = 64  # images in memory at once


class Samples(Protocol):
    """What scores are computed from: a model that draws, or images that were drawn before (saved.py)."""

    def check(self, data: PreparedDataset) -> None: ...

    def draw_dataset(
        self, data: PreparedDataset, caption_ids: np.ndarray, seeds: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]: ...


@dataclass(frozen=True)
class CaptionSampler:
    """Generates images from captions and seeds, as `t2i generate` does.

    sampler: one without a form. resolution: R of the images, px. aspect: of what the model draws. encode: prompts ->
    token embeddings. encoder_sha256: of the text encoder; the embeddings of a data set with the same encoder are used
    as they are.
    """

    sampler: Sampler
    resolution: int
    encode: Callable[[Sequence[str]], TextBatch]
    encoder_sha256: str
    truncation_psi: float = 1.0
    aspect: tuple[int, int] = (1, 1)

    @classmethod
    def of_pipeline(cls, pipe: Any, truncation_psi: float = 1.0) -> "CaptionSampler":
        """pipe: a TextToImagePipeline."""
        sha256 = str(pipe.description.text_encoder["sha256"])
        sampler = Sampler(pipe.generator, pipe.device)
        return cls(sampler, pipe.resolution, pipe.encode, sha256, truncation_psi, pipe.description.form.aspect)

    def check(self, data: PreparedDataset) -> None:
        """Raises UserError, one line, where the model and the data set have different resolutions or aspects."""
        if self.resolution != data.resolution:
            raise UserError(
                f"the model generates {self.resolution} px, {data.path} holds {data.resolution} px: prepare the "
                f"data with --resolution {self.resolution}"
            )
        if self.aspect != data.form.aspect:
            drawn, held = ("{}:{}".format(*aspect) for aspect in (self.aspect, data.form.aspect))
            raise UserError(
                f"the model's images are {drawn}, those of {data.path} {held}: prepare the data with --aspect {drawn}"
            )

    def captions(self, data: PreparedDataset, caption_ids: Sequence[int] | np.ndarray) -> TextBatch:
        """The token embeddings of a data set's captions, read from it where its encoder is the model's."""
        if data.text.get("sha256") == self.encoder_sha256:
            return pad_tokens(data.tokens(caption_ids))
        return self.encode([data.caption(int(caption)) for caption in caption_ids])

    def draw(self, text: TextBatch, seeds: Sequence[int]) -> np.ndarray:
        """One image for each caption and seed: uint8 [N, R, R, 3]."""
        return self.sampler.images(text, seeds, self.truncation_psi).numpy()

    def prompts(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """One image for each prompt and seed: uint8 [N, R, R, 3]."""
        parts = [slice(start, start + CHUNK) for start in range(0, len(prompts), CHUNK)]
        return np.concatenate([self.draw(self.encode(prompts[part]), seeds[part]) for part in parts])

    def draw_dataset(
        self, data: PreparedDataset, caption_ids: np.ndarray, seeds: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """One image for each caption and seed, `CHUNK` at a time: their rows and uint8 [<= CHUNK, R, R, 3]."""
        for start in range(0, len(caption_ids), CHUNK):
            rows = slice(start, start + CHUNK)
            yield rows, self.draw(self.captions(data, caption_ids[rows]), [int(seed) for seed in seeds[rows]])
