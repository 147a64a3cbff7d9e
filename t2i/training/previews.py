"""Sample grids of a run: the same prompts and the same noise at every snapshot."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from t2i.data.prepared import PreparedDataset
from t2i.grids import captioned_grid, table_grid
from t2i.image_files import save_image
from t2i.models.base import Generator
from t2i.models.growing import Growth
from t2i.pixels import shown
from t2i.sampling import Sampler
from t2i.tensors import noise_of_seed
from t2i.training.text import PreparedText, TrainedText

PROMPTS = 8
COLUMNS = 6


class Preview:
    """Draws prompts, else `PROMPTS` captions of the data set, each with seeds 0 to `COLUMNS` - 1: what `t2i generate`
    draws with a snapshot, but for the rounding of captions that were prepared in bf16."""

    def __init__(
        self,
        dataset: PreparedDataset,
        text: PreparedText | TrainedText,
        z_dim: int,
        device: torch.device,
        prompts: Sequence[str] = (),
    ):
        # Spread over the set, not over its start: sources are often sorted by kind.
        self.images = np.unique(np.linspace(0, len(dataset) - 1, PROMPTS + 2).astype(np.int64)[1:-1])
        caption_ids = [int(dataset.caption_ids(int(image))[0]) for image in self.images]
        self.captions = [dataset.caption(caption) for caption in caption_ids]
        self.prompts = list(prompts) or self.captions
        with torch.random.fork_rng(devices=[]):  # an encoder that is loaded draws its first weights
            batch = text.encode(prompts) if prompts else text.batch(caption_ids)
        self.source = text
        self.text = batch.to(device, torch.float32 if batch.tokens.is_floating_point() else batch.tokens.dtype)
        self.noise = torch.stack([noise_of_seed(seed, z_dim) for seed in range(COLUMNS)]).to(device)
        self.form = dataset.form
        self.reals = shown(torch.from_numpy(dataset.images(self.images)), self.form).numpy()

    def save_reals(self, path: Path) -> None:
        """Real images, with their captions."""
        save_image(captioned_grid(list(self.reals), self.captions, columns=4), path)

    def save(self, generator: Generator, growth: Growth, path: Path, title: str) -> None:
        """A grid of prompts by noises, drawn by a generator that stands at `growth`."""
        sampler = Sampler(generator, self.noise.device, growth, form=self.form)
        condition = sampler.pool(self.source.for_drawing(self.text))
        prompts, columns = len(self.prompts), len(self.noise)
        noise = self.noise.repeat(prompts, 1)
        images = torch.cat(list(sampler.draw(noise, condition.repeat_interleave(columns, 0)))).numpy()
        rows = [list(images[row * columns : (row + 1) * columns]) for row in range(prompts)]
        save_image(table_grid(rows, self.prompts, [f"seed {seed}" for seed in range(columns)], title), path)
