"""StyleGAN2 from text: modulated convolutions, RGB skips, a residual discriminator.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020 (SG2). The generator sums RGB images
of every resolution, so that training itself shifts from coarse to fine.

The generator's w is the mapped noise, concatenated with the text as in StyleGAN-T (Sauer et al. 2023, sec. 3.1), so
that truncation acts on the noise alone. The discriminator has a projection term beside its unconditional logit (Miyato
& Koyama 2018), and sees mismatched captions.

Departures from the paper:
- The networks can grow (Karras et al. 2018), because steps at a low resolution are cheaper.
- No noise inputs and no style mixing, as captions describe neither; no path length penalty.
- R1 is computed in the same optimiser step as the loss.
- The discriminator downsamples by a convolution of stride 2 without a low-pass filter, and its block works at half the
  size: cheaper, and shapes are learned earlier (docs/research-log/2026-11-27-recipes.md).
- Pooled text goes through its own layer in both networks, and a layout MLP (layout.py) can place objects.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.layers import (
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
from t2i.layers import upsample as repeat_pixels
from t2i.models.base import Generator, GrowingDiscriminator
from t2i.models.growing import Growth, blend, growth_at
from t2i.models.layout import LayoutMLP, check_layout
from t2i.models.registry import Architecture, register
from t2i.precision import at_least_fp32
from t2i.text.pooler import Conditioning

W_AVG_SAMPLES = 1024  # noises whose mean w is the centre of truncation


def upsample(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, C, 2h, 2w], bilinear: away from the borders the filter [1, 3, 3, 1] of SG2."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class ModulatedConv2d(nn.Module):
    """Modulated convolution: a style scales the input channels, and demodulation restores variance 1 (SG2, eq. 1, 3).

    [B, c_in, h, w], w [B, W] and a bias [c_out] -> [B, c_out, h, w]. Input and output are scaled around one shared
    kernel: the same as a kernel for each image, and faster than its grouped convolution.
    gain: factor of the result, bias included. Without demodulation, for RGB, the result is in at least fp32.
    upsampled: of the input at twice its size, -> [B, c_out, 2 h, 2 w].
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
    """Modulated conv3, bias, leaky ReLU with gain. upsampled: of the input at twice its size."""

    def __init__(self, c_in: int, c_out: int, w_dim: int, *, upsampled: bool = False):
        super().__init__()
        # The gain commutes with the leaky ReLU.
        self.conv = ModulatedConv2d(c_in, c_out, 3, w_dim, gain=SQRT2, upsampled=upsampled)
        self.bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return leaky_relu(self.conv(x, w, self.bias))


class ToRGB(nn.Module):
    """[B, C, h, w] and w -> [B, out, h, w] in at least fp32: modulated conv1, not demodulated (SG2, fig. 7b)."""

    def __init__(self, channels: int, w_dim: int, out: int = 3):
        super().__init__()
        self.conv = ModulatedConv2d(channels, out, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.conv(x, w, self.bias)


class StyleGAN2Generator(Generator):
    """Noise [B, z_dim] and a TextBatch -> images [B, C, r, r], about [-1, 1]; r = growth.resolution.

    growth: the default stage, [resolution, alpha]; None: fully grown. layout_mlp: resolution of the features that a
    LayoutMLP is added to; 0: none. Raises ValueError for an impossible resolution.
    """

    w_avg_samples: Tensor
    grows, rgb_skips = True, True

    def __init__(
        self,
        resolution: int,
        text: Conditioning,
        *,
        growth: Sequence[float] | None = None,
        rgb_resolutions: Iterable[int] = (),
        channels: int = 3,
        z_dim: int = 64,
        w_dim: int = 512,
        mapping_layers: int = 2,
        fmap_base: int = 16384,
        fmap_max: int = 512,
        layout_mlp: int = 0,
    ):
        super().__init__()
        self.resolution, self.z_dim, self.channels = resolution, z_dim, channels
        self.rgb_resolutions = sides = resolutions_to(resolution)  # all: images of every size are summed
        self.growth = growth_at(growth, sides)
        self.pooler = text.pooler(learns_mixer=False)
        self.text_layer = TextLayer(self.pooler.out_width, w_dim)
        self.text = EqualLinear(w_dim, w_dim, gain=1.0)
        self.mapping = mapping_network(z_dim, w_dim, mapping_layers)
        widths = [width(side, fmap_base, fmap_max) for side in sides]
        self.w_width = both = 2 * w_dim
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.first = StyledConv(widths[0], widths[0], both)
        self.convs = nn.ModuleList(
            nn.ModuleList([StyledConv(a, b, both, upsampled=True), StyledConv(b, b, both)]) for a, b in pairwise(widths)
        )
        self.to_rgb = nn.ModuleList(ToRGB(c, both, channels) for c in widths)
        check_layout(layout_mlp, sides)
        self.layout_side, self.layout = layout_mlp, None
        if layout_mlp:
            width_in = both + self.pooler.out_width
            channels_there = width(layout_mlp, fmap_base, fmap_max)
            self.layout = LayoutMLP(width_in, channels_there, layout_mlp, lr_multiplier=text.lr_multiplier)
        self.register_buffer("w_avg_samples", torch.randn(W_AVG_SAMPLES, z_dim))

    def map(self, z: Tensor) -> Tensor:  # [B, Z] -> [B, W]
        x = pixel_norm(z)
        for layer in self.mapping:
            x = leaky_relu(layer(x))
        return at_least_fp32(x)

    def styles(
        self, z: Tensor, condition: Tensor, truncation_psi: float | Tensor = 1.0, growth: Growth | None = None
    ) -> Tensor:
        """w for each layer, [B, layers, 2 W]: the mapped noise and the text.

        With a layout MLP, [B, layers, 2 W + E], the condition included. truncation_psi pulls the mapped noise to its
        mean (Karras et al. 2019, sec. B); the text is unchanged.
        """
        w = self.map(z)
        if isinstance(truncation_psi, Tensor) or truncation_psi != 1:
            w = self.map(self.w_avg_samples).mean(0, keepdim=True).lerp(w, truncation_psi)
        text = pixel_norm(self.text(self.text_layer(condition)))
        parts = [w, text] if self.layout is None else [w, text, at_least_fp32(condition)]
        # One at 4 px, two at each other resolution, and the last ToRGB.
        layers = 2 * len(resolutions_to((growth or self.growth).resolution))
        return torch.cat(parts, dim=1)[:, None].expand(-1, layers, -1)

    def render(self, styles: Tensor, growth: Growth | None = None) -> Tensor:
        """Styles of `styles` -> images [B, 3, r, r]. The layout MLP takes those of the first layer."""
        growth = growth or self.growth
        coarse, styles = styles[:, 0], styles[..., : self.w_width]
        x = self.first(self.constant.expand(len(styles), -1, -1, -1), styles[:, 0])
        rgb = old = self.to_rgb[0](x, styles[:, 1])
        for number, pair in enumerate(self.convs[: len(resolutions_to(growth.resolution)) - 1], start=1):
            up, conv = pair.children()
            x = up(x, styles[:, 2 * number - 1])  # [B, C, 2h, 2w]
            if self.layout is not None and x.shape[-1] == self.layout_side:
                x = x + self.layout(coarse).to(x.dtype)
            x = conv(x, styles[:, 2 * number])
            old = rgb
            rgb = upsample(rgb) + self.to_rgb[number](x, styles[:, 2 * number + 1])
        # During a fade the old resolution has its pixels repeated, as in real images (growing.real_at).
        return rgb if not growth.fades else blend(repeat_pixels(old), rgb, growth.alpha)

    def synthesis(
        self, z: Tensor, condition: Tensor, truncation_psi: float | Tensor = 1.0, growth: Growth | None = None
    ) -> Tensor:
        return self.render(self.styles(z, condition, truncation_psi, growth), growth)


class ResidualBlock(nn.Module):
    """[B, c_in, h, w] -> [B, c_out, h/2, w/2]: (shortcut + conv4 stride 2, conv3) / sqrt 2 (after SG2, fig. 7c)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv1 = EqualConv2d(c_in, c_out, 4, stride=2)
        self.conv2 = EqualConv2d(c_out, c_out, 3, factor=SQRT2**-1)  # the factor commutes with the leaky ReLU
        self.shortcut = EqualConv2d(c_in, c_out, 1, gain=SQRT2**-1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = leaky_relu(self.conv2(leaky_relu(self.conv1(x))))
        return y + self.shortcut(downsample(x))


class StyleGAN2Discriminator(GrowingDiscriminator):
    """Images [B, C, r, r] and a TextBatch -> logits [B]; r = growth.resolution.

    rgb_resolutions: possible resolutions of its input; `resolution` is always one.
    """

    def __init__(
        self,
        resolution: int,
        text: Conditioning,
        *,
        channels: int = 3,
        rgb_resolutions: Iterable[int] = (),
        fmap_base: int = 16384,
        fmap_max: int = 512,
        match_width: int = 512,
    ):
        super().__init__()
        self.growth, self.channels = Growth(resolution), channels
        self.pooler = text.pooler()
        widths = {side: width(side, fmap_base, fmap_max) for side in reversed(resolutions_to(resolution))}
        entries = sorted({*rgb_resolutions, resolution}, reverse=True)
        self.from_rgb = nn.ModuleDict({str(side): EqualConv2d(channels, widths[side], 3) for side in entries})
        self.blocks = nn.ModuleDict(
            {str(side): ResidualBlock(widths[side], widths[side // 2]) for side in widths if side > 4}
        )
        self.head = ProjectionHead(widths[4], self.pooler.out_width, match_width, text_width=match_width)


STYLEGAN2 = register(
    Architecture(
        name="stylegan2",
        summary="StyleGAN2 (Karras et al. 2020) from text: modulated convolutions, RGB skips, residual discriminator",
        generator=StyleGAN2Generator,
        discriminator=StyleGAN2Discriminator,
    )
)
