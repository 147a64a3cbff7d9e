"""DF-GAN: Tao et al., "DF-GAN: A Simple and Effective Baseline for Text-to-Image Synthesis", CVPR 2022.

One generator and one discriminator at full resolution; the text is fused into every block of the generator by
channel-wise affine maps. Read it top to bottom: affine, fusion, generator; block, head, discriminator.

Departures from the paper:
- `conditioning="attention"` (default) pools the caption's tokens with learned queries; "sentence" is the paper's.
- `gamma` starts at 1 in the preset `small`, at 0 in the paper. Without residual branches the discriminator is close to
  linear in its pixels, and in a short run it learns colours but no shapes (docs/research-log/2026-11-27-recipes.md).
- `output="linear"` (default) drops the last tanh, `output="tanh"` is the paper's: see the same page.
- A discriminator shortcut whose width does not change has a 1x1 convolution in the published weights, which is never
  called there. Here it is called, and starts as the identity.

The preset `published` trains as the authors' code does (github.com/tobran/DF-GAN, 2022), which has

    text.conditioning = "sentence"
    optim.batch = 32
    optim.lr_g = 0.0001
    optim.lr_d = 0.0004
    optim.beta1 = 0.0
    optim.beta2 = 0.9
    loss.adversarial.kind = "hinge"
    loss.adversarial.mismatches = 1
    loss.adversarial.shared_fakes = true
    loss.adversarial.augment = ["flip"]
    loss.penalty.kind = "ma-gp"
    loss.penalty.weight = 2.0
    loss.penalty.every = 1
    model.generator.nf = 32
    model.generator.z_dim = 100
    model.generator.output = "tanh"
    model.discriminator.nf = 32
    model.discriminator.gamma = 0.0

and keeps no average of the weights (ema_kimg 0.001: none to speak of). The preset differs in the text encoder (DAMSM
there, the prepared data's here), in the mirrored images (not where the caption speaks of left or right), in that images
are not cropped at random (64 of 76 px there), and in the noise at drawing (a normal truncated at 0.88 there).
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.convolution import Conv2d, upsampling_conv3
from t2i.layers import scale_and_shift
from t2i.models.base import Discriminator, Features, Generator
from t2i.models.growing import Growth, growth_at
from t2i.models.layout import LayoutMLP, check_layout
from t2i.models.registry import Architecture, register
from t2i.precision import at_least_fp32
from t2i.text.pooler import Conditioning


def widths_to(resolution: int, nf: int) -> list[int]:
    """Widths from the image inwards to 4 x 4: at 64 px and nf 32 [32, 64, 128, 256, 256]."""
    stages = resolution.bit_length() - 2  # 64 px -> 5
    return [nf * min(2**stage, 8) for stage in range(stages)]


class Affine(nn.Module):
    """Channel-wise scale and shift predicted from the condition (eq. 2 and 3). It starts as the identity."""

    def __init__(self, width: int, condition: int):
        super().__init__()
        self.scale = nn.Sequential(nn.Linear(condition, width), nn.ReLU(), nn.Linear(width, width))
        self.shift = nn.Sequential(nn.Linear(condition, width), nn.ReLU(), nn.Linear(width, width))
        for branch, start in ((self.scale, 1.0), (self.shift, 0.0)):
            last = branch[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, start)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # [B, C, h, w], [B, E]
        return scale_and_shift(x, self.scale(condition), self.shift(condition))


class Fuse(nn.Module):
    """The deep fusion block (DFBlock, fig. 4): affine and leaky ReLU, twice."""

    def __init__(self, width: int, condition: int):
        super().__init__()
        self.affines = nn.ModuleList([Affine(width, condition), Affine(width, condition)])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        for affine in self.affines:
            x = F.leaky_relu(affine(x, condition), 0.2)
        return x


class GeneratorBlock(nn.Module):
    """Upsample by 2, then shortcut + [fuse -> conv3 -> fuse -> conv3]."""

    def __init__(self, c_in: int, c_out: int, condition: int):
        super().__init__()
        self.fuse1 = Fuse(c_in, condition)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.fuse2 = Fuse(c_out, condition)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        # Pointwise operations run before upsampling, on a quarter of the pixels.
        residual = upsampling_conv3(self.fuse1(x, condition), self.conv1.weight, self.conv1.bias)
        residual = self.conv2(self.fuse2(residual, condition))
        return F.interpolate(self.shortcut(x), scale_factor=2.0, mode="nearest") + residual


class DFGANGenerator(Generator):
    """noise [B, z_dim] and a TextBatch -> images [B, C, R, R].

    With output "tanh" the images lie in [-1, 1]; with "linear" they are clamped to it when they are saved.
    `truncation_psi` scales the noise: 1 as trained; 0 gives one image a prompt.
    """

    def __init__(
        self,
        resolution: int,
        text: Conditioning,
        *,
        growth: Sequence[float] | None = None,
        rgb_resolutions: Iterable[int] = (),
        channels: int = 3,
        nf: int = 32,
        z_dim: int = 100,
        output: str = "linear",
        layout_mlp: int = 0,
    ):
        super().__init__()
        if output not in ("linear", "tanh"):
            raise ValueError(f"output is linear or tanh, not {output!r}")
        self.resolution, self.z_dim, self.channels, self.output = resolution, z_dim, channels, output
        self.rgb_resolutions, self.growth = [resolution], growth_at(growth, [resolution])
        widths = widths_to(resolution, nf)[::-1]
        self.pooler = text.pooler(learns_mixer=False)
        condition = z_dim + self.pooler.out_width
        self.stem = nn.Linear(z_dim, widths[0] * 4 * 4)
        self.blocks = nn.ModuleList(GeneratorBlock(c_in, c_out, condition) for c_in, c_out in pairwise(widths))
        self.to_rgb = nn.Conv2d(widths[-1], channels, 3, padding=1)
        sides = [4 * 2**number for number in range(len(widths))]
        check_layout(layout_mlp, sides)
        self.layout_side, self.layout = layout_mlp, None
        if layout_mlp:
            channels_there = widths[sides.index(layout_mlp)]
            self.layout = LayoutMLP(condition, channels_there, layout_mlp, lr_multiplier=text.lr_multiplier)

    def synthesis(
        self, z: Tensor, condition: Tensor, truncation_psi: float | Tensor = 1.0, growth: Growth | None = None
    ) -> Tensor:
        z = z * truncation_psi
        condition = torch.cat([z, condition], dim=1)  # [B, Z + E]
        x = self.stem(z).unflatten(1, (-1, 4, 4))  # [B, 8 nf, 4, 4]
        for block in self.blocks:
            x = block(x, condition)  # [B, C, 2h, 2w]
            if self.layout is not None and x.shape[-1] == self.layout_side:
                x = x + self.layout(condition).to(x.dtype)
        images = at_least_fp32(self.to_rgb(F.leaky_relu(x, 0.2)))
        return images.tanh() if self.output == "tanh" else images


class DiscriminatorBlock(nn.Module):
    """Halve the resolution: shortcut + gamma * [conv4 stride 2, conv3], gamma a scalar that starts at `gamma`."""

    def __init__(self, c_in: int, c_out: int, gamma: float):
        super().__init__()
        self.conv1 = Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False)
        self.conv2 = Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.shortcut = Conv2d(c_in, c_out, 1)
        self.gamma = nn.Parameter(torch.full((1,), float(gamma)))
        if gamma:
            # A branch that is active from the start needs layers that keep the variance (He et al. 2015).
            for conv in (self.conv1, self.conv2):
                nn.init.kaiming_normal_(conv.weight, a=0.2)
        if c_in == c_out:
            assert self.shortcut.bias is not None
            nn.init.dirac_(self.shortcut.weight)
            nn.init.zeros_(self.shortcut.bias)

    def forward(self, x: Tensor) -> Tensor:
        residual = F.leaky_relu(self.conv1(x), 0.2)
        residual = F.leaky_relu(self.conv2(residual), 0.2)
        # A 1x1 convolution and a mean commute: on a quarter of the pixels it is four times cheaper.
        return self.shortcut(F.avg_pool2d(x, 2)) + self.gamma * residual


class OneWayHead(nn.Module):
    """The one-way output (sec. 3.3): features and the tiled condition together give one logit."""

    def __init__(self, width: int, condition: int, hidden: int):
        super().__init__()
        self.conv1 = Conv2d(width + condition, hidden, 3, padding=1, bias=False)
        self.conv2 = Conv2d(hidden, 1, 4, bias=False)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:  # [B, C, 4, 4], [B, E] -> [B]
        tiled = condition[..., None, None].expand(-1, -1, *features.shape[2:])
        x = self.conv1(torch.cat([features, tiled.to(features.dtype)], dim=1))
        return at_least_fp32(self.conv2(F.leaky_relu(x, 0.2)).flatten())


class DFGANDiscriminator(Discriminator):
    """images [B, C, R, R] and a TextBatch -> logits [B]."""

    def __init__(
        self,
        resolution: int,
        text: Conditioning,
        *,
        channels: int = 3,
        rgb_resolutions: Iterable[int] = (),
        nf: int = 32,
        gamma: float = 0.0,
    ):
        super().__init__()
        widths = widths_to(resolution, nf)
        self.channels = channels
        self.pooler = text.pooler()
        self.from_rgb = Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(DiscriminatorBlock(c_in, c_out, gamma) for c_in, c_out in pairwise(widths))
        self.head = OneWayHead(widths[-1], self.pooler.out_width, 2 * nf)

    @property
    def blocks_from_image(self) -> list[nn.Module]:
        return [nn.ModuleList([self.from_rgb, self.blocks[0]]), *self.blocks[1:]]

    def features_of_maps(self, maps: Tensor, growth: Growth | None = None) -> Features:
        """[B, C, R, R] -> [B, 8 nf, 4, 4], both."""
        x = self.from_rgb(maps)
        for block in self.blocks:
            x = block(x)
        return Features(x, x)

    def logits(self, features: Features, condition: Tensor) -> Tensor:
        return self.head(features.summary, condition)


DFGAN = register(
    Architecture(
        name="dfgan",
        summary="DF-GAN (Tao et al. 2022): one stage, text fused into every generator block",
        generator=DFGANGenerator,
        discriminator=DFGANDiscriminator,
    )
)
