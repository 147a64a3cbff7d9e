"""Sample grids of a run: the same prompts and the same noise at every snapshot."""

from pathlib import Path

import numpy as np
import torch

from t2i.data.prepared import PreparedDataset
from t2i.grids import captioned_grid, table_grid
from t2i.image_files import save_image
from t2i.models.base import Generator
from t2i.models.growing import Growth
from t2i.sampling import Sampler
from t2i.training.randomness import derive_seed
from t2i.training.text import PreparedText, TrainedText

PROMPTS = 8
COLUMNS = 6


class Preview:
    """Draws `PROMPTS` captions of the data set, each with `COLUMNS` noises."""

    def __init__(
        self,
        dataset: PreparedDataset,
        text: PreparedText | TrainedText,
        z_dim: int,
        seed: int,
        device: torch.device,
    ):
        # Spread over the set, not over its start: sources are often sorted by kind.
        self.pictures = np.unique(np.linspace(0, len(dataset) - 1, PROMPTS + 2).astype(np.int64)[1:-1])
        self.caption_ids = [int(dataset.caption_ids(int(picture))[0]) for picture in self.pictures]
        self.prompts = [dataset.caption(caption) for caption in self.caption_ids]
        batch = text.batch(self.caption_ids)
        self.source = text
        self.text = batch.to(device, torch.float32 if batch.tokens.is_floating_point() else batch.tokens.dtype)
        noise = torch.Generator().manual_seed(derive_seed(seed, "preview"))
        self.noise = torch.randn(COLUMNS, z_dim, generator=noise).to(device)
        self.reals = dataset.images(self.pictures)

    def save_reals(self, path: Path) -> None:
        """The real pictures of the prompts."""
        save_image(captioned_grid(list(self.reals), self.prompts, columns=4), path)

    def save(self, generator: Generator, growth: Growth, path: Path, title: str) -> None:
        """A grid of prompts by noises, drawn by a generator that stands at `growth`."""
        sampler = Sampler(generator, self.noise.device, growth)
        condition = sampler.pool(self.source.for_drawing(self.text))
        prompts, columns = len(self.prompts), len(self.noise)
        noise = self.noise.repeat(prompts, 1)
        images = torch.cat(list(sampler.draw(noise, condition.repeat_interleave(columns, 0)))).numpy()
        rows = [list(images[row * columns : (row + 1) * columns]) for row in range(prompts)]
        save_image(table_grid(rows, self.prompts, title=title), path)
