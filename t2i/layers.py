"""Layers that networks share: learning-rate multipliers, equalised learning rate, spectral norm, filters."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.convolution import conv2d, upsampling_conv3
from t2i.precision import at_least_fp32

SQRT2 = math.sqrt(2)
VECTOR = 32  # bf16 numbers that a CPU works on at once
GROUP = 4  # images in a group of the minibatch standard deviation


def resolutions_to(resolution: int) -> list[int]:
    """[4, 8, ..., resolution]. Raises ValueError where it is no power of two from 4 on."""
    if resolution < 4 or resolution & (resolution - 1):
        raise ValueError(f"a StyleGAN's resolution is a power of two from 4 on, not {resolution}")
    return [2**power for power in range(2, resolution.bit_length())]


def width(resolution: int, fmap_base: int, fmap_max: int) -> int:
    """Channels at a resolution: at most fmap_max, and fmap_base over half of the resolution (SG1, table of PG)."""
    return max(1, min(2 * fmap_base // resolution, fmap_max))


def leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


class Linear(nn.Linear):
    """A linear layer whose steps are lr_multiplier times as large: its weights are stored divided by it.

    Beside networks with an equalised learning rate Adam takes steps that are made for weights of size 1. It begins as
    those do then, with normal weights that keep the variance of the input, else as torch's own.
    """

    def __init__(self, c_in: int, c_out: int, bias: bool = True, lr_multiplier: float = 1.0):
        if not lr_multiplier > 0:
            raise ValueError(f"text.lr_multiplier is above 0, not {lr_multiplier}")
        self.lr_multiplier = lr_multiplier
        super().__init__(c_in, c_out, bias)

    def reset_parameters(self) -> None:
        if self.lr_multiplier == 1:
            super().reset_parameters()
        else:
            self.keep_variance()

    def keep_variance(self) -> None:
        nn.init.normal_(self.weight, std=self.in_features**-0.5 / self.lr_multiplier)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.lr_multiplier == 1:
            return F.linear(x, self.weight, self.bias)
        bias = None if self.bias is None else self.bias * self.lr_multiplier
        if x.numel() < self.weight.numel():  # the fewer numbers are multiplied
            return F.linear(x * self.lr_multiplier, self.weight, bias)
        return F.linear(x, self.weight * self.lr_multiplier, bias)


class EqualLinear(nn.Module):
    """A linear layer with equalised learning rate: Karras et al. 2018, sec. 4.1; [.., c_in] -> [.., c_out].

    Weights are stored as N(0, 1 / lr_multiplier) and scaled to He's variance at run time, so that Adam's steps are as
    large, compared to the weights, in every layer; lr_multiplier scales these steps.
    """

    def __init__(self, c_in: int, c_out: int, *, gain: float = SQRT2, bias: float = 0.0, lr_multiplier: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((c_out,), bias / lr_multiplier))
        self.scale = gain / math.sqrt(c_in) * lr_multiplier
        self.lr_multiplier = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.lr_multiplier)


class EqualConv2d(nn.Module):
    """A convolution with equalised learning rate; [B, c_in, h, w] -> [B, c_out, h / stride, w / stride].

    factor: what the result is multiplied with, bias and all; here it costs nothing.
    upsampled: kernel 3 on the input with each pixel repeated, -> [B, c_out, 2 h, 2 w].
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        stride: int = 1,
        gain: float = SQRT2,
        bias: bool = True,
        factor: float = 1.0,
        upsampled: bool = False,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self.scale, self.factor = factor * gain / math.sqrt(c_in * kernel * kernel), factor
        self.stride, self.padding, self.upsampled = stride, (kernel - 1) // 2, upsampled

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias if self.bias is None or self.factor == 1 else self.bias * self.factor
        weight = self.weight * self.scale
        if self.upsampled:
            return upsampling_conv3(x, weight, bias)
        return conv2d(x, weight, bias, self.stride, self.padding)


class SpectralConv2d(nn.Module):
    """A convolution whose weight, as a matrix, has a spectral norm of about 1 (Miyato et al. 2018).

    The norm is estimated anew each time by power iterations from a fixed start: with torch's running estimate, which
    every pass moves, a batch in pieces would have other gradients than the whole. Weights begin with variance 1:
    the norm takes their size out, so that it only says how much a step of the optimiser changes them, which is as much
    as it does where learning rates are equalised.
    """

    start: Tensor
    SQUARINGS = 3  # 8 power iterations in a few products of small matrices, where a GPU needs as long as for one

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.stride, self.padding = stride, padding
        self.register_buffer("start", F.normalize(torch.randn(c_out), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = self.weight / self.norm()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)

    def norm(self) -> Tensor:
        """The largest singular value, []; its gradient is that of u^T W v with the singular vectors held fixed."""
        matrix = self.weight.flatten(1)
        if len(matrix) == 1:
            return torch.linalg.vector_norm(matrix)
        with torch.no_grad():
            power = matrix @ matrix.T  # [c_out, c_out]
            power = power / power.diagonal().sum()  # eigenvalues in [0, 1]
            for _ in range(self.SQUARINGS):
                power = power @ power
            u = F.normalize(power @ self.start, dim=0, eps=0.0)
        return torch.linalg.vector_norm(u @ matrix)  # v is u @ matrix, normalised


def scale_and_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x [B, C, h, w] * scale [B, C] + shift [C] or [B, C], in x's number format."""
    scale, shift = scale.to(x.dtype), shift.to(x.dtype).expand_as(scale)
    channels, columns = x.shape[1], x.shape[3]
    if x.device.type != "cpu" or x.dtype is not torch.bfloat16 or channels % VECTOR == 0:
        return torch.addcmul(shift[..., None, None], x, scale[..., None, None])
    # A broadcast over few channels, which lie innermost, is not vectorised there: repeat both along a row of pixels and
    # take that as one long vector.
    scale, shift = (v[:, None].expand(-1, columns, -1).flatten(1)[:, None] for v in (scale, shift))  # [B, 1, w C]
    rows = x.permute(0, 2, 3, 1).flatten(2)  # [B, h, w C]
    return torch.addcmul(shift, rows, scale).unflatten(2, (columns, channels)).permute(0, 3, 1, 2)


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Each row of [B, C] scaled to mean square 1 (Karras et al. 2018, sec. 4.2). At least fp32."""
    x = at_least_fp32(x)
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + eps)


def mapping_network(c_in: int, w_dim: int, layers: int) -> nn.ModuleList:
    """Linear layers from [B, c_in] to [B, w_dim] that learn 100 times as slowly (SG1, sec. C).

    Raises ValueError where layers is less than 1.
    """
    if layers < 1:
        raise ValueError(f"mapping_layers is 1 or more, not {layers}")
    widths = [c_in] + [w_dim] * layers
    return nn.ModuleList(EqualLinear(a, b, lr_multiplier=0.01) for a, b in pairwise(widths))


def upsample(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, C, 2h, 2w], each pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def downsample(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, C, h/2, w/2], the mean of each four pixels."""
    return F.avg_pool2d(x, 2)


class Blur(nn.Module):
    """The low-pass filter [1, 2, 1] in both directions, the edge repeated; keeps the size."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(kernel, kernel)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)


def minibatch_std(x: Tensor) -> Tensor:
    """Append how much the images of a group differ as one more channel: Karras et al. 2018, sec. 3.

    x: [B, C, h, w] -> [B, C + 1, h, w]. A group is GROUP consecutive rows (or the largest power of two below it that
    divides B), so that a batch in pieces of whole groups gives what the batch gives. Sums in at least fp32.
    """
    group = math.gcd(x.shape[0], GROUP)
    y = at_least_fp32(x).unflatten(0, (-1, group))  # [B / G, G, C, h, w]
    std = (y.var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # [B / G]
    std = std.repeat_interleave(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, std.to(x.dtype)], dim=1)


class TextLayer(nn.Module):
    """condition [B, E] -> [B, width]: a layer in which words that were pooled side by side can act on each other."""

    def __init__(self, condition: int, width: int):
        super().__init__()
        self.linear = EqualLinear(condition, width)

    def forward(self, condition: Tensor) -> Tensor:
        return leaky_relu(self.linear(pixel_norm(condition)))


class ProjectionHead(nn.Module):
    """The last layers of a style-based discriminator: 4x4 features and a caption's condition -> a logit.

    The logit is an unconditional one plus the projection of the features on the condition (Miyato & Koyama 2018).
    width: of the space in which both are compared; left out, `channels`. text_width: of a layer that the condition
    goes through before; 0 for none.
    """

    def __init__(self, channels: int, condition: int, width: int | None = None, text_width: int = 0):
        super().__init__()
        width = width or channels
        self.conv = EqualConv2d(channels + 1, channels, 3)
        self.dense = EqualLinear(channels * 4 * 4, width)
        self.unconditional = EqualLinear(width, 1, gain=1.0)
        self.text = TextLayer(condition, text_width) if text_width else nn.Identity()
        self.project = EqualLinear(text_width or condition, width, gain=1.0)

    def features(self, x: Tensor) -> Tensor:
        """[B, C, 4, 4] -> [B, width], which know how much the images of a group differ."""
        x = leaky_relu(self.conv(minibatch_std(x)))
        return leaky_relu(self.dense(x.flatten(1)))

    def logits(self, features: Tensor, condition: Tensor) -> Tensor:
        """[B, width] and [B, E] -> [B], in at least fp32."""
        features = at_least_fp32(features)
        with torch.autocast(features.device.type, enabled=False):
            text = self.project(self.text(condition.to(features.dtype)))
            match = (features * text).sum(1) * text.shape[1] ** -0.5
            return self.unconditional(features).flatten() + match
