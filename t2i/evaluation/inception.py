"""The Inception-v3 of FID: TensorFlow's graph of 2015-12-05, as PyTorch's state dicts of it have it.

torchvision's Inception-v3 (Szegedy et al. 2015, arXiv:1512.00567) with that graph's differences: average pools do not
count the padding, the last block pools by the maximum, there are 1,008 classes and no auxiliary head, and the input is
(x - 128) / 128. The weights are the user's file, for instance pt_inception-2015-12-05-6726825d.pth.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2i.errors import UserError
from t2i.evaluation.features import FeatureNetwork
from t2i.files import sha256
from t2i.models.features import read_weights

RESOLUTION, WIDTH = 299, 2048
KNOWN = "6726825d"  # the first digits of the published file's SHA-256, which its name repeats


class _Convolution(nn.Module):
    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _A(nn.Module):
    """35 x 35: 1x1, 5x5 and two 3x3 beside a pool."""

    def __init__(self, channels: int, pool: int):
        super().__init__()
        self.branch1x1 = _Convolution(channels, 64, 1)
        self.branch5x5_1 = _Convolution(channels, 48, 1)
        self.branch5x5_2 = _Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Convolution(channels, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, padding=1)
        self.branch_pool = _Convolution(channels, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], 1)


class _B(nn.Module):
    """35 x 35 -> 17 x 17."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch3x3 = _Convolution(channels, 384, 3, 2)
        self.branch3x3dbl_1 = _Convolution(channels, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, 2)], 1)


class _C(nn.Module):
    """17 x 17: convolutions of 7 in one direction and then in the other; `narrow` channels between them."""

    def __init__(self, narrow: int):
        super().__init__()
        self.branch1x1 = _Convolution(768, 192, 1)
        self.branch7x7_1 = _Convolution(768, narrow, 1)
        self.branch7x7_2 = _Convolution(narrow, narrow, (1, 7), padding=(0, 3))
        self.branch7x7_3 = _Convolution(narrow, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = _Convolution(768, narrow, 1)
        self.branch7x7dbl_2 = _Convolution(narrow, narrow, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = _Convolution(narrow, narrow, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = _Convolution(narrow, narrow, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = _Convolution(narrow, 192, (1, 7), padding=(0, 3))
        self.branch_pool = _Convolution(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), seven, twice, self.branch_pool(_average(x))], 1)


class _D(nn.Module):
    """17 x 17 -> 8 x 8."""

    def __init__(self):
        super().__init__()
        self.branch3x3_1 = _Convolution(768, 192, 1)
        self.branch3x3_2 = _Convolution(192, 320, 3, 2)
        self.branch7x7x3_1 = _Convolution(768, 192, 1)
        self.branch7x7x3_2 = _Convolution(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = _Convolution(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = _Convolution(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class _E(nn.Module):
    """8 x 8: branches that split into 1x3 and 3x1. The graph's last block pools by the maximum."""

    def __init__(self, channels: int, by_maximum: bool):
        super().__init__()
        self.by_maximum = by_maximum
        self.branch1x1 = _Convolution(channels, 320, 1)
        self.branch3x3_1 = _Convolution(channels, 384, 1)
        self.branch3x3_2a = _Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Convolution(channels, 448, 1)
        self.branch3x3dbl_2 = _Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = _Convolution(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.by_maximum else _average(x)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(three), self.branch3x3_2b(three),
                self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice),
                self.branch_pool(pooled),
            ], 1,
        )  # fmt: skip


class FidInception(nn.Module):
    """Pixel values in [0, 255], [B, 3, 299, 299] -> the pooled features of FID, [B, 2048]; names as torchvision's."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _A(192, 32), _A(256, 64), _A(288, 64)
        self.Mixed_6a = _B(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _C(128), _C(160), _C(160), _C(192)
        self.Mixed_7a = _D()
        self.Mixed_7b, self.Mixed_7c = _E(1280, by_maximum=False), _E(2048, by_maximum=True)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # [B, 64, 147, 147]
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))  # [B, 192, 71, 71]
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))  # [B, 288, 35, 35]
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # [B, 768, 17, 17]
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # [B, 2048, 8, 8]
        return x.mean((2, 3))


def load_inception(path: Path | str, device: torch.device | str = "cpu") -> FeatureNetwork:
    """The network of FID with the weights in `path`, a PyTorch state dict or safetensors.

    The label tells whether the file is the published one. Raises UserError, one line, where it does not fit.
    """
    path = Path(path).expanduser()
    weights = read_weights(path)
    network = FidInception()
    wanted = network.state_dict()
    # The classifier is not needed; counts of batches are in some files and not in others.
    found = {name: value for name, value in weights.items() if name in wanted}
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    strange = [name for name in weights if name not in wanted and not name.startswith("fc.")]
    shapes = [name for name, value in found.items() if value.shape != wanted[name].shape]
    if missing or strange or shapes:
        what = f"lacks {missing[0]}" if missing else f"has {(strange or shapes)[0]}, which does not fit"
        raise UserError(f"{path}: not the Inception-v3 of FID ({what}); give pt_inception-2015-12-05-6726825d.pth")
    network.load_state_dict(found, strict=False)
    network = network.float().eval().requires_grad_(False).to(memory_format=torch.channels_last).to(device)
    digest = sha256(path)
    name = "Inception-v3 2015-12-05" if digest.startswith(KNOWN) else "Inception-v3 of unknown weights"
    return FeatureNetwork(name, digest, RESOLUTION, WIDTH, network, torch.device(device))
