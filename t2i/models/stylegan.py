"""StyleGAN from text, with progressive growing.

Karras, Laine, Aila, "A Style-Based Generator Architecture for Generative Adversarial Networks", CVPR 2019 (SG1), on
Karras et al., "Progressive Growing of GANs", ICLR 2018 (PG). Read it top to bottom: mapping, one style layer,
generator; discriminator block, discriminator.

Text is an addition to the papers. The generator's mapping takes [noise ; text], each normalised. The discriminator has
a projection term beside its unconditional logit (Miyato & Koyama 2018), and sees mismatched captions.

Departures from the paper:
- Truncation pulls w to the mean w of the prompt, not of all prompts, which would lose the prompt at psi = 0. It needs
  no running average.
- The noise inputs are constant at inference (buffers of the generator), so that a prompt and a seed give one image.
  In `fast` and `wide` they are constant in training too: what varies by them there would not vary by the seed.

The preset `published` trains as the authors' code does for faces on one GPU (github.com/NVlabs/stylegan, 2019), which
has

    optim.beta1 = 0.0
    optim.beta2 = 0.99
    optim.ema_kimg = 10.0
    schedule.kimg = 25000
    loss.adversarial.kind = "logistic"
    loss.adversarial.augment = ["flip"]
    loss.penalty.kind = "r1"
    loss.penalty.weight = 10.0
    loss.penalty.every = 1
    model.generator.z_dim = 512
    model.generator.w_dim = 512
    model.generator.mapping_layers = 8
    model.generator.fmap_base = 8192
    model.generator.fmap_max = 512
    model.discriminator.fmap_base = 8192
    model.discriminator.fmap_max = 512

and grows from 8 px, 600,000 images in each resolution and 600,000 in each fade between two, with the batch and the
learning rate of each resolution:

    8 px: 128, 0.001
    16 px: 128, 0.001
    32 px: 64, 0.001
    64 px: 32, 0.001
    128 px: 16, 0.0015
    256 px: 8, 0.002

The preset differs in the captions, in the mirrored images (not where the caption speaks of left or right), and in R1's
weight while it grows: 10 at the last resolution R, 10 (r / R)^2 at r.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from t2i.layers import (
    Blur,
    EqualConv2d,
    EqualLinear,
    ProjectionHead,
    downsample,
    leaky_relu,
    mapping_network,
    pixel_norm,
    resolutions_to,
    upsample,
    width,
)
from t2i.models.base import Generator, GrowingDiscriminator
from t2i.models.growing import Growth, blend, growth_at
from t2i.models.layout import LayoutMLP, check_layout
from t2i.models.registry import Architecture, register
from t2i.precision import at_least_fp32
from t2i.text.pooler import Conditioning, TextBatch

W_AVG_SAMPLES = 64  # noises whose mean w is the centre of truncation
MIXING = 0.9  # share of training images with style mixing


class Mapping(nn.Module):
    """noise [B, Z] and condition [B, E] -> w [B, W] (SG1, fig. 1b)."""

    def __init__(self, z_dim: int, condition: int, w_dim: int, layers: int):
        super().__init__()
        self.text = EqualLinear(condition, w_dim, gain=1.0)
        self.layers = mapping_network(z_dim + w_dim, w_dim, layers)

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        x = torch.cat([pixel_norm(z), pixel_norm(self.text(condition))], dim=1)  # [B, Z + W]
        for layer in self.layers:
            x = leaky_relu(layer(x))
        return at_least_fp32(x)


class StyleLayer(nn.Module):
    """The layer after each convolution: noise, bias, leaky ReLU, instance norm, style (SG1, fig. 1b)."""

    noise: Tensor

    def __init__(self, channels: int, resolution: int, w_dim: int):
        super().__init__()
        self.channels, self.resolution = channels, resolution
        self.noise_strength = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.style = EqualLinear(w_dim, 2 * channels, gain=1.0)
        self.register_buffer("noise", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:  # [B, C, r, r], [B, W], [B, 1, r, r]
        noise = (self.noise if noise is None else noise).to(x.dtype).flatten(1)[..., None]  # [B or 1, r * r, 1]
        # As rows of pixels, the memory layout of channels_last: on a CPU torch is 2 to 4 times as fast on these.
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, r * r, C]
        strength, bias = self.noise_strength.to(x.dtype), self.bias.to(x.dtype)
        pixels = at_least_fp32(leaky_relu(torch.addcmul(pixels + bias, noise, strength)))
        # AdaIN (SG1, eq. 1): normalise each channel of each image, then scale and shift it by the style. In fp32.
        scale, shift = at_least_fp32(self.style(w))[:, None].chunk(2, dim=2)  # [B, 1, C]
        pixels = pixels - pixels.mean(1, keepdim=True)
        factor = torch.rsqrt(pixels.square().mean(1, keepdim=True) + 1e-8) * (scale + 1)
        pixels = torch.addcmul(shift, pixels, factor).to(x.dtype)
        return pixels.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class SynthesisBlock(nn.Module):
    """One resolution: two convolutions, each with its style. The first resolution starts from a learned constant."""

    def __init__(self, c_in: int, c_out: int, resolution: int, w_dim: int):
        super().__init__()
        self.constant = nn.Parameter(torch.ones(1, c_out, 4, 4)) if resolution == 4 else None
        self.conv1 = None if resolution == 4 else EqualConv2d(c_in, c_out, 3, bias=False, upsampled=True)
        self.blur = Blur()
        self.layer1 = StyleLayer(c_out, resolution, w_dim)
        self.conv2 = EqualConv2d(c_out, c_out, 3, bias=False)
        self.layer2 = StyleLayer(c_out, resolution, w_dim)

    def forward(
        self, x: Tensor | None, w: Tensor, noise: Sequence[Tensor | None], layout: Tensor | None = None
    ) -> Tensor:
        """w: [B, 2, W]; layout: [B, c_out, r, r], added between the two convolutions."""
        if self.constant is not None:
            x = self.constant.expand(len(w), -1, -1, -1)  # [B, C, 4, 4]
        else:
            assert self.conv1 is not None
            x = self.blur(self.conv1(x))  # [B, c_out, 2h, 2w]
        x = self.layer1(x, w[:, 0], noise[0])
        if layout is not None:
            x = x + layout.to(x.dtype)
        return self.layer2(self.conv2(x), w[:, 1], noise[1])


class StyleGANGenerator(Generator):
    """Noise [B, Z] and a TextBatch -> images [B, C, r, r], about [-1, 1]; r = growth.resolution.

    rgb_resolutions: those with a ToRGB; `resolution` is always one. growth: the default stage, [resolution, alpha];
    None: fully grown. random_noise: the noise inputs are new for each image in training; else constant there too.
    Raises ValueError for an impossible stage.
    """

    w_avg_samples: Tensor
    grows = True

    def __init__(
        self,
        resolution: int,
        text: Conditioning,
        *,
        growth: Sequence[float] | None = None,
        rgb_resolutions: Iterable[int] = (),
        channels: int = 3,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        fmap_base: int = 8192,
        fmap_max: int = 512,
        layout_mlp: int = 0,
        random_noise: bool = True,
    ):
        super().__init__()
        self.resolution, self.z_dim, self.w_width, self.random_noise = resolution, z_dim, w_dim, random_noise
        self.channels = channels
        self.rgb_resolutions = sorted({*rgb_resolutions, resolution})
        self.growth = growth_at(growth, self.rgb_resolutions)
        self.pooler = text.pooler(learns_mixer=False)
        self.mapping = Mapping(z_dim, self.pooler.out_width, w_dim, mapping_layers)
        sides = resolutions_to(resolution)
        widths = {side: width(side, fmap_base, fmap_max) for side in sides}
        self.blocks = nn.ModuleDict(
            {str(side): SynthesisBlock(widths.get(side // 2, 0), widths[side], side, w_dim) for side in sides}
        )
        self.to_rgb = nn.ModuleDict(
            {str(side): EqualConv2d(widths[side], channels, 1, gain=1.0) for side in self.rgb_resolutions}
        )
        check_layout(layout_mlp, sides)
        self.layout_side, self.layout = layout_mlp, None
        if layout_mlp:
            into = w_dim + self.pooler.out_width
            self.layout = LayoutMLP(into, widths[layout_mlp], layout_mlp, lr_multiplier=text.lr_multiplier)
        self.register_buffer("w_avg_samples", torch.randn(W_AVG_SAMPLES, z_dim))

    def training_noise(self, growth: Growth | None = None) -> int:
        """The second noise of style mixing, its crossover, and the noise inputs where these are random."""
        sides = resolutions_to((growth or self.growth).resolution) if self.random_noise else []
        return self.z_dim + 2 + sum(2 * side * side for side in sides)

    def styles(
        self, z: Tensor, condition: Tensor, truncation_psi: float | Tensor = 1.0, growth: Growth | None = None
    ) -> Tensor:
        """w for each layer, [B, layers, W]; with a layout MLP, [B, layers, W + E]: the condition goes along.

        truncation_psi pulls w to the mean w of the prompt (SG1, sec. B).
        """
        w = self.mapping(z, condition)
        if isinstance(truncation_psi, Tensor) or truncation_psi != 1:
            count = len(condition)
            every = self.mapping(self.w_avg_samples.repeat(count, 1), condition.repeat_interleave(W_AVG_SAMPLES, 0))
            centre = every.unflatten(0, (count, W_AVG_SAMPLES)).mean(1)
            w = centre.lerp(w, truncation_psi)
        if self.layout is not None:
            w = torch.cat([w, at_least_fp32(condition)], dim=1)
        layers = 2 * len(resolutions_to((growth or self.growth).resolution))
        return w[:, None].expand(-1, layers, -1)

    def render(self, styles: Tensor, growth: Growth | None = None, noise: Tensor | None = None) -> Tensor:
        """Styles of `styles` -> images [B, 3, r, r]. noise: the noise inputs, flat [B, n]; None: the fixed ones."""
        growth = growth or self.growth
        sides = resolutions_to(growth.resolution)
        used = [side for side in sides for _ in range(2)]
        if noise is None:
            inputs: list[Tensor | None] = [None] * len(used)
        else:
            flat = noise.split([side * side for side in used], dim=1)
            inputs = [part.unflatten(1, (1, side, side)) for part, side in zip(flat, used)]
        coarse, styles = styles[:, 0], styles[..., : self.w_width]
        x, old = None, None
        for number, side in enumerate(sides):
            if side == sides[-1] and growth.fades:
                old = upsample(self._rgb(x, side // 2))
            rows = slice(2 * number, 2 * number + 2)
            layout = self.layout(coarse) if self.layout is not None and side == self.layout_side else None
            x = self.blocks[str(side)](x, styles[:, rows], inputs[rows], layout)  # [B, C, side, side]
        new = self._rgb(x, sides[-1])
        return new if old is None else blend(old, new, growth.alpha)

    def _rgb(self, x: Tensor | None, side: int) -> Tensor:
        return at_least_fp32(self.to_rgb[str(side)](x))

    def synthesis(
        self, z: Tensor, condition: Tensor, truncation_psi: float | Tensor = 1.0, growth: Growth | None = None
    ) -> Tensor:
        return self.render(self.styles(z, condition, truncation_psi, growth), growth)

    def forward(
        self,
        z: Tensor,
        text: TextBatch,
        truncation_psi: float = 1.0,
        growth: Growth | None = None,
        training_noise: Tensor | None = None,
    ) -> Tensor:
        condition = self.pool(text)
        styles = self.styles(z, condition, truncation_psi, growth)
        if training_noise is None:
            return self.render(styles, growth)
        rest = training_noise.shape[1] - self.z_dim - 2
        other, choice, noise = training_noise.split([self.z_dim, 2, rest], dim=1)
        mixed = mix_styles(styles, self.styles(other, condition, truncation_psi, growth), choice)
        return self.render(mixed, growth, noise if self.random_noise else None)


def mix_styles(styles: Tensor, others: Tensor, choice: Tensor) -> Tensor:
    """Style mixing (SG1, sec. 3.1): from a random layer on, `others`. Both [B, layers, W]; choice: [B, 2] normal."""
    uniform = torch.special.ndtr(choice)
    last = styles.shape[1] - 1
    crossover = torch.where(uniform[:, 0] < MIXING, 1 + (uniform[:, 1] * last).long(), last + 1)  # [B]
    layers = torch.arange(last + 1, device=styles.device)
    return torch.where((layers < crossover[:, None])[..., None], styles, others)


class DiscriminatorBlock(nn.Module):
    """[B, c_in, h, w] -> [B, c_out, h/2, w/2]: conv3, conv3 on the filtered image, half the size (PG, table 2)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv1 = EqualConv2d(c_in, c_in, 3)
        self.blur = Blur()
        self.conv2 = EqualConv2d(c_in, c_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = leaky_relu(self.conv1(x))
        return downsample(leaky_relu(self.conv2(self.blur(x))))


class StyleGANDiscriminator(GrowingDiscriminator):
    """Images [B, C, r, r] and a TextBatch -> logits [B]; r = growth.resolution. It mirrors the generator."""

    def __init__(
        self,
        resolution: int,
        text: Conditioning,
        *,
        channels: int = 3,
        rgb_resolutions: Iterable[int] = (),
        fmap_base: int = 8192,
        fmap_max: int = 512,
    ):
        super().__init__()
        self.growth, self.channels = Growth(resolution), channels
        self.pooler = text.pooler()
        widths = {side: width(side, fmap_base, fmap_max) for side in resolutions_to(resolution)}
        entries = sorted({*rgb_resolutions, resolution})
        self.from_rgb = nn.ModuleDict({str(side): EqualConv2d(channels, widths[side], 1) for side in entries})
        self.blocks = nn.ModuleDict(
            {str(side): DiscriminatorBlock(widths[side], widths[side // 2]) for side in widths if side > 4}
        )
        self.head = ProjectionHead(widths[4], self.pooler.out_width)


STYLEGAN = register(
    Architecture(
        name="stylegan",
        summary="StyleGAN (Karras et al. 2019) from text: mapping network, AdaIN, progressive growing",
        generator=StyleGANGenerator,
        discriminator=StyleGANDiscriminator,
    )
)
