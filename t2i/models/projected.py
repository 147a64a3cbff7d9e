"""Projected discriminator: small heads over the features of a frozen, pretrained network.

Sauer et al., "Projected GANs Converge Faster", NeurIPS 2021: images go through EfficientNet-Lite0. Frozen random
convolutions mix its maps of four sizes across channels and scales, so that the heads cannot rely on a few channels.
Each scale has its own head. Text enters each head by projection, as in StyleGAN-T (Sauer et al. 2023, sec. 3.2). The
backbone's pooled features join the summary, by which the contrastive term compares images and captions.

Departures: no batch norm in the heads, and a spectral norm without state (SpectralConv2d), so that a batch in pieces
has the gradients of the whole batch. Images may enter at 64 px instead of 224: a step takes a third of the time of
128 px, and the quality is sufficient for icons (docs/research-log/2026-11-27-recipes.md).
"""

import copy
from collections.abc import Iterable
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.layers import Linear, SpectralConv2d, leaky_relu
from t2i.models.base import Discriminator, Features
from t2i.models.features import EfficientNetLite, load_lite
from t2i.models.growing import Growth
from t2i.models.registry import register_discriminator
from t2i.precision import at_least_fp32
from t2i.text.pooler import Conditioning

TAPS = (24, 40, 112, 320)  # channels of EfficientNet-Lite0 at 1/4, 1/8, 1/16, 1/32 of the input
MIXED = (64, 128, 256, 256)
HEAD = 64
PATCHES = 4  # a head's map is 4 x 4

Network = TypeVar("Network", bound=nn.Module)


class ProjectedDiscriminator(Discriminator):
    """images [B, 3, R, R] and a TextBatch -> logits [B, 4], one a head.

    input_resolution: size of the backbone's input. Raises UserError, one line, where its weights are not installed.
    """

    grows = True  # images of every size are resized
    rgb_alone = True

    def __init__(
        self,
        resolution: int,
        text: Conditioning,
        *,
        rgb_resolutions: Iterable[int] = (),
        input_resolution: int = 128,
    ):
        super().__init__()
        if input_resolution < 64 or input_resolution % 32:
            raise ValueError(f"input_resolution is a multiple of 32 from 64 on, not {input_resolution}")
        self.input_resolution = input_resolution
        self.pooler = text.pooler()
        self.network = frozen(load_lite("lite0"))
        self._converted: dict[tuple[torch.dtype, torch.device], EfficientNetLite] = {}  # not in the state dict
        for number, (c_in, c_out) in enumerate(zip(TAPS, MIXED)):
            self.register_buffer(f"mix{number}", torch.randn(c_out, c_in, 1, 1) * c_in**-0.5)
        for number, (c_out, c_in) in enumerate(pairwise(MIXED)):
            self.register_buffer(f"down{number}", torch.randn(c_out, c_in, 1, 1) * c_in**-0.5)
        sizes = [input_resolution // stride for stride in (4, 8, 16, 32)]
        self.heads = nn.ModuleList(_Head(c, size) for c, size in zip(MIXED, sizes))
        self.projections = nn.ModuleList(
            Linear(self.pooler.out_width, HEAD, lr_multiplier=text.lr_multiplier) for _ in MIXED
        )
        self.unconditional = nn.ModuleList(SpectralConv2d(HEAD, 1, 1) for _ in MIXED)

    def extract(self, images: Tensor) -> list[Tensor]:
        """[B, 3, R, R] -> the backbone's maps, the finest first, and its pooled features, [B, 1280, 1, 1]."""
        side = self.input_resolution
        pixels = (F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False) + 1) * 127.5
        network = self._network(images.device)
        maps = network.maps(pixels)[1:]
        return [*maps, network.head(maps[-1]).mean((2, 3), keepdim=True)]

    def _network(self, device: torch.device) -> EfficientNetLite:
        """The backbone, converted once to autocast's dtype, which would convert it in every pass."""
        if not torch.is_autocast_enabled(device.type):
            return self.network
        kind = torch.get_autocast_dtype(device.type), device
        if kind not in self._converted:
            self._converted[kind] = copy.deepcopy(self.network).to(device, kind[0])
        return self._converted[kind]

    def features_of_maps(self, maps: list[Tensor], growth: Growth | None = None) -> Features:
        """regions: the heads' maps, concatenated, [B, 4 * 64, 4, 4]. summary: their means and the backbone's pooled
        features, [B, 4 * 64 + 1280]."""
        *scales, last = maps
        mixed: list[Tensor] = []
        for number in reversed(range(len(scales))):
            x = F.conv2d(scales[number], getattr(self, f"mix{number}"))
            if mixed:  # from the coarser scale, with the same variance and size
                coarse = F.interpolate(mixed[-1], size=x.shape[2:], mode="bilinear", align_corners=False)
                x = (x + F.conv2d(coarse, getattr(self, f"down{number}"))) * 0.5**0.5
            mixed.append(x)
        found = torch.cat([head(x) for head, x in zip(self.heads, reversed(mixed))], dim=1)
        return Features(torch.cat([found.mean((2, 3)), last[..., 0, 0]], dim=1), found)

    def logits(self, features: Features, condition: Tensor) -> Tensor:
        """[B, 4]: for each head the mean over its patches of an unconditional logit plus the text projection."""
        logits = []
        parts = features.regions.chunk(len(self.heads), dim=1)
        for part, project, unconditional in zip(parts, self.projections, self.unconditional):
            text = at_least_fp32(project(condition))
            match = (at_least_fp32(part).mean((2, 3)) * text).sum(1) * HEAD**-0.5
            logits.append(at_least_fp32(unconditional(part)).mean((1, 2, 3)) + match)
        return torch.stack(logits, dim=1)


class _Head(nn.Module):
    """[B, c_in, s, s] -> [B, 64, 4, 4]: convolutions that halve the size until it is 4."""

    def __init__(self, c_in: int, side: int):
        super().__init__()
        self.convs = nn.ModuleList()
        while side >= 2 * PATCHES:
            self.convs.append(SpectralConv2d(c_in, HEAD, 4, stride=2, padding=1))
            c_in, side = HEAD, side // 2
        self.convs.append(SpectralConv2d(c_in, HEAD, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = leaky_relu(conv(x))
        return F.adaptive_avg_pool2d(x, PATCHES) if x.shape[-1] != PATCHES else x


def frozen(network: Network) -> Network:
    """Turn parameters into buffers, which no optimiser updates and no checkpoint holds."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach(), persistent=False)
    return network


register_discriminator("projected", ProjectedDiscriminator)
