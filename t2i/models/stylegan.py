"""StyleGAN from text, with progressive growing.

Karras, Laine, Aila, "A Style-Based Generator Architecture for Generative Adversarial Networks", CVPR 2019 (SG1), on
Karras et al., "Progressive Growing of GANs", ICLR 2018 (PG). Read it top to bottom: mapping, one style layer,
generator; discriminator block, discriminator.

What the papers do not have is text. The generator's mapping takes [noise ; text], each normalised; the discriminator
has a projection term beside its unconditional logit (Miyato & Koyama 2018), and sees wrong captions.

Departures from the paper:
- Truncation pulls w to the mean of the prompt's own w, not to that of all prompts: psi = 0 then draws the most typical
  picture of the prompt, where a global mean would forget the prompt. It needs no running average.
- A noise image is fixed when drawing (it lies in the weights), so that a prompt and a seed give one picture.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from t2i.models.base import Discriminator, Features, Generator
from t2i.models.growing import Growth, blend, growth_at
from t2i.models.layers import (
    GROUP,
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
from t2i.models.registry import Architecture, preset_rows, register
from t2i.precision import at_least_fp32
from t2i.text.pooler import TextBatch, TextStatistics, make_pooler

TYPICAL = 64  # noises whose mean w is the centre that truncation pulls to
MIXING = 0.9  # share of the training pictures with styles of two noises


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
    """What follows each convolution: noise, bias, leaky ReLU, instance norm, style (SG1, fig. 1b)."""

    def __init__(self, channels: int, resolution: int, w_dim: int):
        super().__init__()
        self.channels, self.resolution = channels, resolution
        self.noise_strength = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.style = EqualLinear(w_dim, 2 * channels, gain=1.0)
        self.register_buffer("noise", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:  # [B, C, r, r], [B, W], [B, 1, r, r]
        noise = (self.noise if noise is None else noise).to(x.dtype).flatten(1)[..., None]  # [B or 1, r * r, 1]
        # As rows of pixels, which is how channels_last keeps them: torch is 2 to 4 times as fast over these on a CPU.
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, r * r, C]
        strength, bias = self.noise_strength.to(x.dtype), self.bias.to(x.dtype)
        pixels = at_least_fp32(leaky_relu(torch.addcmul(pixels + bias, noise, strength)))
        # AdaIN (SG1, eq. 1): normalise each channel of each picture, then scale and shift it by the style. In fp32.
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

    def forward(self, x: Tensor | None, w: Tensor, noise: Sequence[Tensor | None]) -> Tensor:  # w: [B, 2, W]
        if self.constant is not None:
            x = self.constant.expand(len(w), -1, -1, -1)  # [B, C, 4, 4]
        else:
            x = self.blur(self.conv1(x))  # [B, c_out, 2h, 2w]
        x = self.layer1(x, w[:, 0], noise[0])
        return self.layer2(self.conv2(x), w[:, 1], noise[1])


class StyleGANGenerator(Generator):
    """noise [B, Z] and a TextBatch -> images [B, 3, r, r], about [-1, 1]; r = growth.resolution.

    shown_at: the resolutions with a ToRGB, the last always among them. It can be put at any of these by `growth`.
    growth: [resolution, alpha] to start at; left out, fully grown. Raises ValueError where it cannot stand there.
    """

    def __init__(
        self,
        resolution: int,
        conditioning: str,
        statistics: TextStatistics,
        *,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        fmap_base: int = 8192,
        fmap_max: int = 512,
        shown_at: Iterable[int] = (),
        text_layers: int = 0,
        text_lr: float = 1.0,
        growth: Sequence[float] | None = None,
    ):
        super().__init__()
        self.resolution, self.z_dim = resolution, z_dim
        self.shown = sorted({*shown_at, resolution})
        self.growth = growth_at(growth, self.shown)
        self.pooler = make_pooler(conditioning, statistics, text_layers, text_lr, taught=True)
        self.mapping = Mapping(z_dim, self.pooler.out_width, w_dim, mapping_layers)
        sides = resolutions_to(resolution)
        widths = {side: width(side, fmap_base, fmap_max) for side in sides}
        self.blocks = nn.ModuleDict(
            {str(side): SynthesisBlock(widths.get(side // 2, 0), widths[side], side, w_dim) for side in sides}
        )
        self.to_rgb = nn.ModuleDict({str(side): EqualConv2d(widths[side], 3, 1, gain=1.0) for side in self.shown})
        self.register_buffer("typical", torch.randn(TYPICAL, z_dim))

    @property
    def sides(self) -> list[int]:
        return resolutions_to(self.growth.resolution)

    @property
    def layer_count(self) -> int:
        """Style layers in use: two a resolution."""
        return 2 * len(self.sides)

    @property
    def training_noise(self) -> int:
        """Normal numbers a picture that training shakes it with: a second noise, its crossover, the noise images."""
        return self.z_dim + 2 + sum(2 * side * side for side in self.sides)

    def styles(self, z: Tensor, condition: Tensor, truncation_psi: float = 1.0) -> Tensor:
        """w for each layer, [B, layers, W]. truncation_psi pulls it to the mean w of the prompt (SG1, sec. B)."""
        w = self.mapping(z, condition)
        if truncation_psi != 1:
            count = len(condition)
            every = self.mapping(self.typical.repeat(count, 1), condition.repeat_interleave(TYPICAL, 0))
            centre = every.unflatten(0, (count, TYPICAL)).mean(1)
            w = centre.lerp(w, truncation_psi)
        return w[:, None].expand(-1, self.layer_count, -1)

    def render(self, styles: Tensor, noise: Tensor | None = None) -> Tensor:
        """Styles [B, layers, W] and the noise images, flat [B, n] or None for the fixed ones -> images [B, 3, r, r]."""
        sides = self.sides
        used = [side for side in sides for _ in range(2)]
        if noise is None:
            images: list[Tensor | None] = [None] * len(used)
        else:
            flat = noise.split([side * side for side in used], dim=1)
            images = [part.unflatten(1, (1, side, side)) for part, side in zip(flat, used)]
        x, old = None, None
        for number, side in enumerate(sides):
            if side == sides[-1] and self.growth.fades:
                old = upsample(self._rgb(x, side // 2))
            rows = slice(2 * number, 2 * number + 2)
            x = self.blocks[str(side)](x, styles[:, rows], images[rows])  # [B, C, side, side]
        new = self._rgb(x, sides[-1])
        return new if old is None else blend(old, new, self.growth.alpha)

    def _rgb(self, x: Tensor, side: int) -> Tensor:
        return at_least_fp32(self.to_rgb[str(side)](x))

    def synthesis(self, z: Tensor, condition: Tensor, truncation_psi: float = 1.0) -> Tensor:
        return self.render(self.styles(z, condition, truncation_psi))

    def forward(self, z: Tensor, text: TextBatch, truncation_psi: float = 1.0, shake: Tensor | None = None) -> Tensor:
        """shake: [B, training_noise] standard normal numbers in training, for style mixing and new noise images."""
        condition = self.pool(text)
        styles = self.styles(z, condition, truncation_psi)
        if shake is None:
            return self.render(styles)
        other, choice, noise = shake.split([self.z_dim, 2, shake.shape[1] - self.z_dim - 2], dim=1)
        return self.render(self._mix(styles, self.styles(other, condition, truncation_psi), choice), noise)

    def _mix(self, styles: Tensor, others: Tensor, choice: Tensor) -> Tensor:
        """Style mixing (SG1, sec. 3.1): from a random layer on, `others`. choice: [B, 2] normal numbers."""
        uniform = torch.special.ndtr(choice)
        last = self.layer_count - 1
        crossover = torch.where(uniform[:, 0] < MIXING, 1 + (uniform[:, 1] * last).long(), last + 1)  # [B]
        layers = torch.arange(last + 1, device=styles.device)
        return torch.where((layers < crossover[:, None])[..., None], styles, others)


class DiscriminatorBlock(nn.Module):
    """[B, c_in, h, w] -> [B, c_out, h/2, w/2]: conv3, conv3 on the filtered picture, half the size (PG, table 2)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv1 = EqualConv2d(c_in, c_in, 3)
        self.blur = Blur()
        self.conv2 = EqualConv2d(c_in, c_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = leaky_relu(self.conv1(x))
        return downsample(leaky_relu(self.conv2(self.blur(x))))


class StyleGANDiscriminator(Discriminator):
    """images [B, 3, r, r] and a TextBatch -> logits [B]; r = growth.resolution. The generator's mirror."""

    def __init__(
        self,
        resolution: int,
        conditioning: str,
        statistics: TextStatistics,
        *,
        fmap_base: int = 8192,
        fmap_max: int = 512,
        text_layers: int = 0,
        text_lr: float = 1.0,
        shown_at: Iterable[int] = (),
        **_generator_only: object,
    ):
        super().__init__()
        self.growth = Growth(resolution)
        self.pooler = make_pooler(conditioning, statistics, text_layers, text_lr)
        widths = {side: width(side, fmap_base, fmap_max) for side in resolutions_to(resolution)}
        shown = sorted({*shown_at, resolution})
        self.from_rgb = nn.ModuleDict({str(side): EqualConv2d(3, widths[side], 1) for side in shown})
        self.blocks = nn.ModuleDict(
            {str(side): DiscriminatorBlock(widths[side], widths[side // 2]) for side in widths if side > 4}
        )
        self.head = ProjectionHead(widths[4], self.pooler.out_width)

    def features(self, images: Tensor) -> Features:  # [B, 3, r, r] -> [B, C] and [B, C', 4, 4]
        side = self.growth.resolution
        x = self._from_rgb(images, side)
        if self.growth.fades:
            # The new resolution's block counts alpha; a picture of half the size goes around it (PG, fig. 2).
            around = self._from_rgb(downsample(images), side // 2).to(x.dtype)
            x = blend(around, self.blocks[str(side)](x), self.growth.alpha)
            side //= 2
        while side > 4:
            x = self.blocks[str(side)](x)
            side //= 2
        return Features(self.head.features(x), x)

    def _from_rgb(self, images: Tensor, side: int) -> Tensor:
        return leaky_relu(self.from_rgb[str(side)](images))

    def logits(self, features: Features, condition: Tensor) -> Tensor:
        return self.head.logits(features.summary, condition)


# Batches of the paper by resolution, and the learning rates that rise with it (the public code's).
_BATCH = {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8}
_LR = {128: 1.5e-3, 256: 2e-3}


def _stages(resolution: int, published: bool) -> list[dict]:
    """From 8 px on: most of the run at the last resolution, a quarter at the one before, the rest before.

    published: with the batches and learning rates of the paper, else with the run's own.
    """
    sides = resolutions_to(resolution)[1:]
    shares = {side: 0.15 / max(1, len(sides) - 2) for side in sides}
    shares |= {sides[-2]: 0.25, sides[-1]: 0.6}
    own = {side: {"batch": _BATCH[side], "lr": _LR.get(side, 1e-3)} if published else {} for side in sides}
    return [{"resolution": side, "share": shares[side], **own[side]} for side in sides]


# `paper`: Karras et al. `original`: the student project that t2i re-does. `small`: what a CPU can train in an hour
# (docs/recipes.md has what its settings were chosen by).
#    preset      px   z_dim w_dim mapping  fmap_base fmap_max batch lr_g  lr_d  R1    kimg    stages
_TABLE = (
    ("paper",    32,  512,  512,  8,       8192,     512,     64,   1e-3, 1e-3, None, 4_000,  _stages(32, True)),
    ("paper",    64,  512,  512,  8,       8192,     512,     32,   1e-3, 1e-3, None, 8_000,  _stages(64, True)),
    ("paper",    128, 512,  512,  8,       8192,     512,     16,   1e-3, 1e-3, None, 12_000, _stages(128, True)),
    ("paper",    256, 512,  512,  8,       8192,     512,     8,    1e-3, 1e-3, None, 16_000, _stages(256, True)),
    ("original", 32,  256,  256,  8,       4096,     256,     64,   1e-3, 1e-3, None, 1_000,  _stages(32, True)),
    ("original", 64,  256,  256,  8,       4096,     256,     32,   1e-3, 1e-3, None, 2_000,  _stages(64, True)),
    ("original", 128, 256,  256,  8,       4096,     256,     16,   1e-3, 1e-3, None, 4_000,  _stages(128, True)),
    ("original", 256, 256,  256,  8,       4096,     256,     8,    1e-3, 1e-3, None, 8_000,  _stages(256, True)),
    ("small",    32,  128,  256,  2,       512,      96,      32,   4e-3, 2e-3, 0.5,  200,    _stages(32, False)),
    ("small",    64,  128,  256,  2,       512,      96,      32,   4e-3, 2e-3, 2.0,  300,    _stages(64, False)),
    ("small",    128, 128,  256,  2,       512,      96,      32,   4e-3, 2e-3, 8.0,  400,    _stages(128, False)),
    ("small",    256, 128,  256,  2,       512,      96,      16,   4e-3, 2e-3, 32.0, 600,    _stages(256, False)),
)  # fmt: skip
_COLUMNS = (
    "z_dim", "w_dim", "mapping_layers", "fmap_base", "fmap_max", "batch", "lr_g", "lr_d", "penalty_weight", "kimg",
    "stages",
)  # fmt: skip
_COMMON = {
    "original": {"loss": "wgan-gp", "penalty": "wgan-gp", "penalty_every": 1},
    # Grown up after 24,000 pictures at 64 px, which is minutes: a model that draws 16 px disappoints.
    "small": {"penalty_every": 8, "grow_kimg": 60.0, "text_lr": 0.1},
}
_PRESETS = preset_rows(_COLUMNS, _TABLE, _COMMON)


STYLEGAN = register(
    Architecture(
        name="stylegan",
        summary="StyleGAN (Karras et al. 2019) from text: mapping network, AdaIN, progressive growing",
        build_generator=StyleGANGenerator,
        build_discriminator=StyleGANDiscriminator,
        model_options={
            "z_dim": 512, "w_dim": 512, "mapping_layers": 8, "fmap_base": 8192, "fmap_max": 512, "text_layers": 0,
            "text_lr": 1.0,
        },
        presets=_PRESETS,
        defaults={
            "loss": "logistic", "penalty": "r1", "penalty_every": 16,
            "beta1": 0.0, "beta2": 0.99, "growing": True,
        },
        smallest={"z_dim": 8, "w_dim": 16, "mapping_layers": 2, "fmap_base": 16, "fmap_max": 8, "text_layers": 1},
        grows=True,
        group=GROUP,
    )
)  # fmt: skip
