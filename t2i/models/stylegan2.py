"""StyleGAN2 from text: modulated convolutions, RGB skips, a residual discriminator.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020 (SG2). The generator sums RGB pictures
of every resolution, so that training itself shifts from coarse to fine.

Text enters the generator's w beside what the mapping makes of the noise, as in StyleGAN-T (Sauer et al. 2023, sec.
3.1), so that truncation acts on the noise alone; the discriminator has a projection term beside its unconditional
logit (Miyato & Koyama 2018), and sees wrong captions.

Departures from the paper: it can grow all the same (Karras et al. 2018), for steps at a low resolution are cheaper; no
noise images and no style mixing (nothing that a caption speaks of), no path length
penalty, and R1 is taken in the same optimiser step as the loss. The discriminator halves a picture by a convolution
with stride 2, without the low-pass before it, and works at half the size: cheaper, and it learns outlines sooner
(docs/recipes.md). Pooled text goes through a layer of its own in both networks, and can draw a first sketch
(sketch.py).
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.models.base import Discriminator, Features, Generator
from t2i.models.growing import Growth, blend, growth_at
from t2i.models.layers import (
    GROUP,
    SQRT2,
    EqualConv2d,
    EqualLinear,
    ProjectionHead,
    TextLayer,
    downsample,
    leaky_relu,
    mapping_network,
    pixel_norm,
    resolutions_to,
    scale_and_shift,
    width,
)
from t2i.models.layers import upsample as repeat_pixels
from t2i.models.projected import ProjectedDiscriminator
from t2i.models.registry import Architecture, preset_rows, register
from t2i.models.sketch import Sketch
from t2i.precision import at_least_fp32
from t2i.text.pooler import TextStatistics, make_pooler

TYPICAL = 1024  # noises whose mean w is the centre that truncation pulls to


def upsample(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, C, 2h, 2w], bilinear: inside the borders the filter [1, 3, 3, 1] of SG2."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class ModulatedConv2d(nn.Module):
    """A convolution whose input channels are scaled by a style, and whose output has variance 1 again (SG2, eq. 1, 3).

    [B, c_in, h, w], w [B, W] and a bias [c_out] -> [B, c_out, h, w]. Scaling input and output, with one kernel for the
    batch, is the same as a kernel for each picture, and faster than the grouped convolution which that takes.
    gain: what the result is multiplied with, bias and all. Not demodulated, as for RGB, the result is in at least fp32.
    upsampled: on the input at twice its size, -> [B, c_out, 2 h, 2 w].
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        w_dim: int,
        *,
        demodulate: bool = True,
        gain: float = 1.0,
        upsampled: bool = False,
    ):
        super().__init__()
        self.style = EqualLinear(w_dim, c_in, gain=1.0, bias=1.0)
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.scale = (c_in * kernel * kernel) ** -0.5
        self.padding, self.demodulate, self.gain = kernel // 2, demodulate, gain
        self.upsampled = upsampled

    def forward(self, x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        style = at_least_fp32(self.style(w))  # [B, c_in]
        weight = self.weight * self.scale
        x = x * style[..., None, None].to(x.dtype)
        y = F.conv2d(upsample(x) if self.upsampled else x, weight, padding=self.padding)
        if not self.demodulate:
            return at_least_fp32(y) + bias[:, None, None]
        with torch.autocast(x.device.type, enabled=False):
            power = weight.square().sum((2, 3)).to(style.dtype)  # [c_out, c_in]
            factor = self.gain * torch.rsqrt(style.square() @ power.T + 1e-8)  # [B, c_out]
        return scale_and_shift(y, factor, self.gain * bias)


class StyledConv(nn.Module):
    """Modulated conv3, bias, leaky ReLU with its gain; upsampled: of the input at twice its size."""

    def __init__(self, c_in: int, c_out: int, w_dim: int, *, upsampled: bool = False):
        super().__init__()
        # The gain is as good before the ReLU as after it.
        self.conv = ModulatedConv2d(c_in, c_out, 3, w_dim, gain=SQRT2, upsampled=upsampled)
        self.bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return leaky_relu(self.conv(x, w, self.bias))


class ToRGB(nn.Module):
    """[B, C, h, w] and w -> [B, 3, h, w] in at least fp32: modulated conv1, not demodulated (SG2, fig. 7b)."""

    def __init__(self, channels: int, w_dim: int):
        super().__init__()
        self.conv = ModulatedConv2d(channels, 3, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.conv(x, w, self.bias)


class StyleGAN2Generator(Generator):
    """noise [B, z_dim] and a TextBatch -> images [B, 3, r, r], about [-1, 1]; r = growth.resolution.

    growth: [resolution, alpha] to start at; left out, fully grown. sketch: resolution of the map that a Sketch is added
    to; 0 for none. Raises ValueError for a resolution that it has not.
    """

    def __init__(
        self,
        resolution: int,
        conditioning: str,
        statistics: TextStatistics,
        *,
        z_dim: int = 64,
        w_dim: int = 512,
        mapping_layers: int = 2,
        fmap_base: int = 16384,
        fmap_max: int = 512,
        sketch: int = 0,
        text_layers: int = 0,
        text_lr: float = 1.0,
        growth: Sequence[float] | None = None,
        **_discriminator_only: object,
    ):
        super().__init__()
        self.resolution, self.z_dim = resolution, z_dim
        self.shown = sides = resolutions_to(resolution)
        self.growth = growth_at(growth, self.shown)
        self.pooler = make_pooler(conditioning, statistics, text_layers, text_lr, taught=True)
        self.text_layer = TextLayer(self.pooler.out_width, w_dim)
        self.text = EqualLinear(w_dim, w_dim, gain=1.0)
        self.mapping = mapping_network(z_dim, w_dim, mapping_layers)
        channels = [width(side, fmap_base, fmap_max) for side in sides]
        self.w_width = both = 2 * w_dim
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.first = StyledConv(channels[0], channels[0], both)
        self.convs = nn.ModuleList(
            nn.ModuleList([StyledConv(a, b, both, upsampled=True), StyledConv(b, b, both)])
            for a, b in pairwise(channels)
        )
        self.to_rgb = nn.ModuleList(ToRGB(c, both) for c in channels)
        if sketch and sketch not in sides[1:]:
            raise ValueError(f"sketch is one of 0, {', '.join(map(str, sides[1:]))}, not {sketch}")
        self.sketch_side, self.sketch = sketch, None
        if sketch:
            width_in = both + self.pooler.out_width
            self.sketch = Sketch(width_in, width(sketch, fmap_base, fmap_max), sketch, lr_multiplier=text_lr)
        self.register_buffer("typical", torch.randn(TYPICAL, z_dim))

    @property
    def layer_count(self) -> int:
        """Style layers in use: one at 4 px, two at each other resolution, and the last ToRGB."""
        return 2 * len(resolutions_to(self.growth.resolution))

    def map(self, z: Tensor) -> Tensor:  # [B, Z] -> [B, W]
        x = pixel_norm(z)
        for layer in self.mapping:
            x = leaky_relu(layer(x))
        return at_least_fp32(x)

    def styles(self, z: Tensor, condition: Tensor, truncation_psi: float = 1.0) -> Tensor:
        """w for each layer, [B, layers, 2 W]: what the mapping makes of the noise, and the text.

        With a sketch, [B, layers, 2 W + E]: the condition itself goes along. truncation_psi pulls the noise's part to
        its mean (Karras et al. 2019, sec. B); what the text says stays.
        """
        w = self.map(z)
        if truncation_psi != 1:
            w = self.map(self.typical).mean(0, keepdim=True).lerp(w, truncation_psi)
        text = pixel_norm(self.text(self.text_layer(condition)))
        parts = [w, text] if self.sketch is None else [w, text, at_least_fp32(condition)]
        return torch.cat(parts, dim=1)[:, None].expand(-1, self.layer_count, -1)

    def render(self, styles: Tensor) -> Tensor:
        """Styles of `styles` -> images [B, 3, r, r]. The sketch is of the first layer's."""
        coarse, styles = styles[:, 0], styles[..., : self.w_width]
        x = self.first(self.constant.expand(len(styles), -1, -1, -1), styles[:, 0])
        rgb = old = self.to_rgb[0](x, styles[:, 1])
        for number, (up, conv) in enumerate(self.convs[: self.layer_count // 2 - 1], start=1):
            x = up(x, styles[:, 2 * number - 1])  # [B, C, 2h, 2w]
            if x.shape[-1] == self.sketch_side:
                x = x + self.sketch(coarse).to(x.dtype)
            x = conv(x, styles[:, 2 * number])
            old = rgb
            rgb = upsample(rgb) + self.to_rgb[number](x, styles[:, 2 * number + 1])
        # While a resolution fades in, the old one has its pixels repeated, as the real pictures have (growing.real_at).
        return rgb if not self.growth.fades else blend(repeat_pixels(old), rgb, self.growth.alpha)

    def synthesis(self, z: Tensor, condition: Tensor, truncation_psi: float = 1.0) -> Tensor:
        return self.render(self.styles(z, condition, truncation_psi))


class ResidualBlock(nn.Module):
    """[B, c_in, h, w] -> [B, c_out, h/2, w/2]: (shortcut + conv4 stride 2, conv3) / sqrt 2 (after SG2, fig. 7c)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv1 = EqualConv2d(c_in, c_out, 4, stride=2)
        self.conv2 = EqualConv2d(c_out, c_out, 3, factor=SQRT2**-1)  # as good before the ReLU as after it
        self.shortcut = EqualConv2d(c_in, c_out, 1, gain=SQRT2**-1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = leaky_relu(self.conv2(leaky_relu(self.conv1(x))))
        return y + self.shortcut(downsample(x))


class StyleGAN2Discriminator(Discriminator):
    """images [B, 3, r, r] and a TextBatch -> logits [B]; r = growth.resolution.

    shown_at: the resolutions that pictures can enter at, the last always among them; `growth` chooses.
    """

    def __init__(
        self,
        resolution: int,
        conditioning: str,
        statistics: TextStatistics,
        *,
        fmap_base: int = 16384,
        fmap_max: int = 512,
        match_width: int = 512,
        text_layers: int = 0,
        text_lr: float = 1.0,
        shown_at: Iterable[int] = (),
        **_generator_only: object,
    ):
        super().__init__()
        self.growth = Growth(resolution)
        self.pooler = make_pooler(conditioning, statistics, text_layers, text_lr)
        widths = {side: width(side, fmap_base, fmap_max) for side in reversed(resolutions_to(resolution))}
        shown = sorted({*shown_at, resolution}, reverse=True)
        self.from_rgb = nn.ModuleDict({str(side): EqualConv2d(3, widths[side], 3) for side in shown})
        self.blocks = nn.ModuleDict(
            {str(side): ResidualBlock(widths[side], widths[side // 2]) for side in widths if side > 4}
        )
        self.head = ProjectionHead(widths[4], self.pooler.out_width, match_width, text_width=match_width)

    def features(self, images: Tensor) -> Features:  # [B, 3, r, r] -> [B, C] and [B, C', 4, 4]
        side = self.growth.resolution
        x = self._from_rgb(images, side)
        if self.growth.fades:  # a picture of half the size goes around the new block
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


def build_discriminator(
    resolution: int,
    conditioning: str,
    statistics: TextStatistics,
    *,
    discriminator: str = "scratch",
    **options: object,
) -> nn.Module:
    """ "scratch": SG2's own; "projected": heads over a frozen network. Raises ValueError for another."""
    kinds = {"scratch": StyleGAN2Discriminator, "projected": ProjectedDiscriminator}
    if discriminator not in kinds:
        raise ValueError(f"discriminator is {' or '.join(kinds)}, not {discriminator!r}")
    return kinds[discriminator](resolution, conditioning, statistics, **options)


def _stages(resolution: int) -> list[dict]:
    """Where --growing goes through: half of the run at the last resolution, the rest at those from 32 px on before."""
    before = [side for side in (32, 64, 128) if side < resolution] or [resolution // 2]
    return [*({"resolution": side, "share": 0.5 / len(before)} for side in before),
            {"resolution": resolution, "share": 0.5}]  # fmt: skip


def _wide_stages(resolution: int) -> list[dict]:
    """At 32 px the likeness, then a quarter at 64 px, and so on."""
    shares = [{"resolution": 32, "share": 0.16, "batch": 128}, {"resolution": 64, "share": 0.26}]
    shares += [{"resolution": 128, "share": 0.29}, {"resolution": 256, "share": 0.29}]
    fitting = [stage for stage in shares if stage["resolution"] <= resolution]
    return [*fitting[:-1], {"resolution": resolution, "share": 1 - sum(stage["share"] for stage in fitting[:-1])}]


# `fast`, the default: begun by likeness, judged by heads over a frozen network; the best pictures of a short training.
# `wide`, the default on a GPU: the same, with channels and batches that a GPU has the time for. `small`: the widths of
# `fast`, all of it from scratch, which composes drawn scenes better. `paper`: SG2's widths (its configuration F).
# `projected`: heads over a frozen network and the generator of `paper`.
# R1: the weight; input: what the frozen network sees pictures at; grow: kimg after which a run of any length has grown.
#    preset       px   z_dim w_dim fmap_base max  batch lr_g  lr_d  R1    kimg    blur   input growing grow    fade
_TABLE = (
    ("paper",     32,  512,  512,  16384,    512, 64,   2e-3, 2e-3, None, 4_000,  None,  None, None,   None,   None),
    ("paper",     64,  512,  512,  16384,    512, 64,   2e-3, 2e-3, None, 8_000,  None,  None, None,   None,   None),
    ("paper",     128, 512,  512,  16384,    512, 32,   2e-3, 2e-3, None, 12_000, None,  None, None,   None,   None),
    ("paper",     256, 512,  512,  16384,    512, 32,   2e-3, 2e-3, None, 16_000, None,  None, None,   None,   None),
    ("small",     32,  64,   128,  256,      96,  32,   4e-3, 1e-2, 0.5,  400,    None,  None, None,   None,   None),
    ("small",     64,  64,   128,  512,      96,  32,   4e-3, 1e-2, 2.0,  600,    None,  None, None,   None,   None),
    ("small",     128, 64,   128,  1024,     96,  32,   4e-3, 1e-2, 8.0,  800,    None,  None, None,   None,   None),
    ("small",     256, 64,   128,  2048,     96,  16,   4e-3, 1e-2, 32.0, 1_200,  None,  None, None,   None,   None),
    ("fast",      32,  64,   128,  256,      96,  32,   4e-3, 1e-2, None, 600,    None,  64,   None,   None,   None),
    ("fast",      64,  64,   128,  512,      96,  32,   4e-3, 1e-2, None, 800,    None,  64,   True,   80.0,   0.2),
    ("fast",      128, 64,   128,  1024,     96,  32,   4e-3, 1e-2, None, 1_000,  None,  128,  True,   80.0,   0.2),
    ("fast",      256, 64,   128,  2048,     96,  16,   4e-3, 1e-2, None, 1_400,  None,  256,  True,   80.0,   0.2),
    ("wide",      32,  64,   256,  512,      192, 64,   4e-3, 1e-2, None, 1_600,  None,  64,   None,   None,   None),
    ("wide",      64,  64,   256,  1024,     192, 64,   4e-3, 1e-2, None, 2_400,  None,  64,   True,   1600.0, 0.1),
    ("wide",      128, 64,   256,  2048,     192, 64,   4e-3, 1e-2, None, 4_000,  None,  128,  True,   1600.0, 0.1),
    ("wide",      256, 64,   256,  4096,     192, 32,   4e-3, 1e-2, None, 6_000,  None,  256,  True,   1600.0, 0.1),
    ("projected", 32,  64,   512,  16384,    512, 64,   2e-3, 1e-2, None, 1_000,  100.0, None, None,   None,   None),
    ("projected", 64,  64,   512,  16384,    512, 64,   2e-3, 1e-2, None, 2_000,  200.0, None, None,   None,   None),
    ("projected", 128, 64,   512,  16384,    512, 64,   2e-3, 1e-2, None, 4_000,  400.0, None, None,   None,   None),
    ("projected", 256, 64,   512,  16384,    512, 64,   2e-3, 1e-2, None, 8_000,  800.0, None, None,   None,   None),
)  # fmt: skip
_COLUMNS = (
    "z_dim", "w_dim", "fmap_base", "fmap_max", "batch", "lr_g", "lr_d", "penalty_weight", "kimg", "blur_kimg",
    "input_resolution", "growing", "grow_kimg", "fade",
)  # fmt: skip
_BY_HEADS = {
    "discriminator": "projected", "loss": "hinge", "penalty": "none", "penalty_every": 1, "contrastive": 4.0,
    "text_lr": 0.1,
}  # fmt: skip
_BY_LIKENESS = {
    "sketch": 8, "pretrain_lr": 1e-2, "likeness": 100.0, "perceptual": 50.0, "noise_kl": 0.003, "shared_fakes": True,
}  # fmt: skip
_COMMON = {
    "small": {"penalty_every": 8, "contrastive": 1.0, "match_width": 256, "text_lr": 0.1},
    "fast": {**_BY_HEADS, **_BY_LIKENESS, "pretrain_kimg": 40.0},
    "wide": {**_BY_HEADS, **_BY_LIKENESS, "pretrain_kimg": 256.0, "ema_kimg": 40.0},
    "projected": _BY_HEADS,
}
_PRESETS = preset_rows(_COLUMNS, _TABLE, _COMMON)
for _preset, _rows in _PRESETS.items():
    for _resolution, _row in _rows.items():
        _row["stages"] = (_wide_stages if _preset == "wide" and _resolution > 32 else _stages)(_resolution)


STYLEGAN2 = register(
    Architecture(
        name="stylegan2",
        summary="StyleGAN2 (Karras et al. 2020) from text: modulated convolutions, RGB skips, residual discriminator",
        build_generator=StyleGAN2Generator,
        build_discriminator=build_discriminator,
        model_options={
            "z_dim": 64, "w_dim": 512, "mapping_layers": 2, "fmap_base": 16384, "fmap_max": 512,
            "match_width": 512, "discriminator": "scratch", "input_resolution": 128, "sketch": 0,
            "text_layers": 0, "text_lr": 1.0,
        },
        presets=_PRESETS,
        defaults={"loss": "logistic", "penalty": "r1", "penalty_every": 16, "beta1": 0.0, "beta2": 0.99},
        smallest={
            "z_dim": 8, "w_dim": 16, "fmap_base": 16, "fmap_max": 8, "match_width": 16, "sketch": 8,
            "text_layers": 1,
        },
        grows=True,
        group=GROUP,
    )
)  # fmt: skip
