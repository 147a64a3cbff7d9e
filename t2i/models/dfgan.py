"""DF-GAN: Tao et al., "DF-GAN: A Simple and Effective Baseline for Text-to-Image Synthesis", CVPR 2022.

One generator and one discriminator at full resolution; the text is fused into every block of the generator by
channel-wise affine maps. Read it top to bottom: affine, fusion, generator; block, head, discriminator.

Departures from the paper:
- `conditioning="attention"` (default) pools the caption's tokens with learned queries; "sentence" is the paper's.
- `gamma` is 1 in the small presets, where the paper starts at 0: with all residual branches off the discriminator is
  close to linear in its pixels, and in a short run it learns colours but no shapes (docs/recipes.md).
- `output="linear"` (default in the presets) drops the last tanh, `output="tanh"` is the paper's: see docs/recipes.md.
- The 1x1 convolution on a discriminator shortcut whose width does not change is in the published weights but is
  never called there. Here it is called, and starts as the identity.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.convolution import Conv2d, upsampling_conv3
from t2i.models.base import Discriminator, Features, Generator
from t2i.models.layers import scale_and_shift
from t2i.models.registry import Architecture, preset_rows, register
from t2i.precision import at_least_fp32
from t2i.text.pooler import TextStatistics, make_pooler


def channels(resolution: int, nf: int) -> list[int]:
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
            nn.init.zeros_(branch[-1].weight)
            nn.init.constant_(branch[-1].bias, start)

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
        # What works on each pixel by itself works on a quarter of them: before each is repeated.
        residual = upsampling_conv3(self.fuse1(x, condition), self.conv1.weight, self.conv1.bias)
        residual = self.conv2(self.fuse2(residual, condition))
        return F.interpolate(self.shortcut(x), scale_factor=2.0, mode="nearest") + residual


class DFGANGenerator(Generator):
    """noise [B, z_dim] and a TextBatch -> images [B, 3, R, R].

    With output "tanh" the images lie in [-1, 1]; with "linear" they aim there and are clamped where they are shown.
    `truncation_psi` scales the noise: 1 is what it was trained on, 0 draws one picture a prompt.
    """

    def __init__(
        self,
        resolution: int,
        conditioning: str,
        statistics: TextStatistics,
        *,
        nf: int = 32,
        z_dim: int = 100,
        output: str = "linear",
        text_layers: int = 0,
        text_lr: float = 1.0,
        gamma: float = 0.0,  # the discriminator's
    ):
        super().__init__()
        if output not in ("linear", "tanh"):
            raise ValueError(f"output is linear or tanh, not {output!r}")
        self.resolution, self.z_dim, self.output = resolution, z_dim, output
        widths = channels(resolution, nf)[::-1]
        self.pooler = make_pooler(conditioning, statistics, text_layers, text_lr, taught=True)
        condition = z_dim + self.pooler.out_width
        self.stem = nn.Linear(z_dim, widths[0] * 4 * 4)
        self.blocks = nn.ModuleList(GeneratorBlock(c_in, c_out, condition) for c_in, c_out in pairwise(widths))
        self.to_rgb = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def synthesis(self, z: Tensor, condition: Tensor, truncation_psi: float = 1.0) -> Tensor:
        z = z * truncation_psi
        condition = torch.cat([z, condition], dim=1)  # [B, Z + E]
        x = self.stem(z).unflatten(1, (-1, 4, 4))  # [B, 8 nf, 4, 4]
        for block in self.blocks:
            x = block(x, condition)  # [B, C, 2h, 2w]
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
            # A branch that counts from the start needs a variance that its layers keep (He et al. 2015).
            for conv in (self.conv1, self.conv2):
                nn.init.kaiming_normal_(conv.weight, a=0.2)
        if c_in == c_out:
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
    """images [B, 3, R, R] and a TextBatch -> logits [B]."""

    def __init__(
        self,
        resolution: int,
        conditioning: str,
        statistics: TextStatistics,
        *,
        nf: int = 32,
        gamma: float = 0.0,
        text_layers: int = 0,
        text_lr: float = 1.0,
        **_generator_only: object,
    ):
        super().__init__()
        widths = channels(resolution, nf)
        self.pooler = make_pooler(conditioning, statistics, text_layers, text_lr)
        self.from_rgb = Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(DiscriminatorBlock(c_in, c_out, gamma) for c_in, c_out in pairwise(widths))
        self.head = OneWayHead(widths[-1], self.pooler.out_width, 2 * nf)

    def features(self, images: Tensor) -> Features:  # [B, 3, R, R] -> [B, 8 nf, 4, 4], both
        x = self.from_rgb(images)
        for block in self.blocks:
            x = block(x)
        return Features(x, x)

    def logits(self, features: Features, condition: Tensor) -> Tensor:
        return self.head(features.summary, condition)


# Two rows a resolution: as published, and what a CPU can train in minutes (docs/recipes.md has the comparison).
#    preset   px    nf gamma batch  lr_g   lr_d  beta2  loss        penalty weight every  kimg
_TABLE = (
    ("paper", 32,  32, 0.0,  32,    1e-4,  4e-4, 0.9,   "hinge",    "ma-gp",  2.0,  1,    2_000),
    ("paper", 64,  32, 0.0,  32,    1e-4,  4e-4, 0.9,   "hinge",    "ma-gp",  2.0,  1,    4_000),
    ("paper", 128, 32, 0.0,  32,    1e-4,  4e-4, 0.9,   "hinge",    "ma-gp",  2.0,  1,    8_000),
    ("paper", 256, 32, 0.0,  32,    1e-4,  4e-4, 0.9,   "hinge",    "ma-gp",  2.0,  1,    12_000),
    ("small", 32,  16, 1.0,  32,    1e-3,  1e-3, 0.99,  "logistic", "r1",     0.1,  8,    200),
    ("small", 64,  16, 1.0,  32,    1e-3,  1e-3, 0.99,  "logistic", "r1",     0.4,  8,    400),
    ("small", 128, 16, 1.0,  32,    1e-3,  1e-3, 0.99,  "logistic", "r1",     1.6,  8,    800),
    ("small", 256, 8,  1.0,  32,    1e-3,  1e-3, 0.99,  "logistic", "r1",     6.4,  8,    1_600),
)  # fmt: skip
_COLUMNS = (
    "nf", "gamma", "batch", "lr_g", "lr_d", "beta2", "loss", "penalty", "penalty_weight", "penalty_every", "kimg",
)  # fmt: skip
_PRESETS = preset_rows(_COLUMNS, _TABLE, common={"small": {"beta1": 0.5, "contrastive": 1.0}})


DFGAN = register(
    Architecture(
        name="dfgan",
        summary="DF-GAN (Tao et al. 2022): one stage, text fused into every generator block",
        build_generator=DFGANGenerator,
        build_discriminator=DFGANDiscriminator,
        model_options={"nf": 32, "z_dim": 100, "output": "linear", "gamma": 0.0, "text_layers": 0, "text_lr": 1.0},
        presets=_PRESETS,
        defaults={"loss": "hinge", "penalty": "ma-gp", "beta1": 0.0},
        smallest={"nf": 4, "text_layers": 1},
    )
)
