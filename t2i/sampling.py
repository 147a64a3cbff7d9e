"""From noise to pixels: the one way for the pipeline, evaluation, sample grids and scores while training.

Images are computed in groups of one fixed size, because the rounding of a matrix product depends on its shape: so an
image is the same alone, in a batch and across runs on one machine.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from t2i.errors import UsageError
from t2i.models.base import Generator
from t2i.models.growing import Growth, enlarge
from t2i.pixels import PixelFormat, on_white, shown
from t2i.precision import to_pixels
from t2i.tensors import noise_of_seed
from t2i.text.pooler import TextBatch

COARSE_LAYERS = 4  # of style mixing: two a resolution, at 4 and 8 px


class Sampler:
    """Generates images with a generator in eval mode.

    growth: the stage of growing; None: the generator's own. group: images computed at once. form: of the images, which
    are then yielded as a person sees them, uint8 [N, h, w, 3 or 4]; None: as a network does, squares [N, R, R, 3],
    transparent ones on white.
    """

    def __init__(
        self,
        generator: Generator,
        device: torch.device | str = "cpu",
        growth: Growth | None = None,
        group: int | None = None,
        form: PixelFormat | None = None,
    ):
        self.generator, self.device = generator, torch.device(device)
        self.growth = growth or generator.growth
        self.form = form
        self.group = group or (16 if self.device.type == "cuda" else 4)

    def noise(self, seed: int) -> Tensor:
        """The noise of a seed, [Z]; below 2^32 that of torch.Generator().manual_seed(seed). Raises UsageError."""
        if not 0 <= seed < 2**63:
            raise UsageError(f"a seed lies between 0 and 2^63 - 1; {seed} does not")
        return noise_of_seed(seed, self.generator.z_dim)

    @torch.inference_mode()
    def pool(self, text: TextBatch) -> Tensor:
        """The generator's condition for each caption, [N, E] on the device; conditions can be mixed.

        Captions of one length are pooled together, without padding, which would change the rounding.
        """
        lengths = text.mask.sum(1)  # padding stands behind
        conditions = torch.empty(len(lengths), self.generator.pooler.out_width, device=self.device)
        for length in lengths.unique().tolist():
            alike = (lengths == length).nonzero()[:, 0]
            for group in self._groups(len(alike)):
                rows = alike[group]
                part = TextBatch(text.tokens[rows, :length], text.mask[rows, :length])
                conditions[rows] = self.generator.pool(part.to(self.device))
        return conditions

    @torch.inference_mode()
    def draw(self, noise: Tensor, condition: Tensor, truncation_psi: float = 1.0) -> Iterator[Tensor]:
        """noise [N, Z] and conditions [N, E] -> uint8 images [<= group, h, w, 3 or 4] on the CPU, group by group."""
        for rows in self._groups(len(noise)):
            part = condition[rows.to(self.device)]
            images = self.generator.synthesis(noise[rows].to(self.device), part, truncation_psi, self.growth)
            yield self._pixels(images, rows, len(noise))

    @torch.inference_mode()
    def mix_styles(
        self, coarse: tuple[Tensor, Tensor], fine: tuple[Tensor, Tensor], truncation_psi: float = 1.0
    ) -> Iterator[Tensor]:
        """Coarse styles (4 and 8 px) of one image, the finer ones of another: Karras et al. 2019, sec. 3.1.

        coarse, fine: noise [N, Z] and conditions [N, E], as in `draw`. Yields what `draw` yields. Raises UsageError
        where the architecture has no styles.
        """
        styles, render = (getattr(self.generator, name, None) for name in ("styles", "render"))
        if styles is None or render is None:
            raise UsageError("this architecture has no styles to mix; a stylegan has")
        for rows in self._groups(len(coarse[0])):
            first, second = (
                styles(noise[rows].to(self.device), condition[rows.to(self.device)], truncation_psi, self.growth)
                for noise, condition in (coarse, fine)
            )
            count = min(COARSE_LAYERS, first.shape[1] // 2)
            images = render(torch.cat([first[:, :count], second[:, count:]], dim=1), self.growth)
            yield self._pixels(images, rows, len(coarse[0]))

    def images(self, text: TextBatch, seeds: Sequence[int], truncation_psi: float = 1.0) -> Tensor:
        """One image for each caption and seed, as `draw` yields them: [N, ...]."""
        noise = torch.stack([self.noise(int(seed)) for seed in seeds])
        return torch.cat(list(self.draw(noise, self.pool(text), truncation_psi)))

    def _pixels(self, images: Tensor, rows: Tensor, count: int) -> Tensor:
        """The images of a group without the filled-up rows, at full size."""
        pixels = to_pixels(enlarge(images[: count - int(rows[0])], self.generator.resolution))
        if self.form is not None:
            return shown(pixels, self.form)
        return pixels if pixels.shape[-1] == 3 else torch.from_numpy(on_white(pixels.numpy()))

    def _groups(self, count: int) -> Iterator[Tensor]:
        """Row numbers in groups of one size; the last group is filled up with the last row."""
        for start in range(0, count, self.group):
            yield torch.arange(start, start + self.group).clamp_max(count - 1)
