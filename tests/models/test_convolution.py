"""convolution.py: the same values and derivatives as torch's own, first and second."""

import pytest
import torch
import torch.nn.functional as F
from small import captions, networks
from torch import nn

from t2i.convolution import Conv2d, _gradients, conv2d, differentiated_twice, upsampling_conv3
from t2i.losses.penalties import r1_penalty

KINDS = {"conv3": (3, 1, 1), "conv4 stride 2": (4, 2, 1), "conv1": (1, 1, 0), "conv4 without padding": (4, 1, 0)}
DOUBLE = {"dtype": torch.float64}


@pytest.mark.parametrize("kernel, stride, padding", KINDS.values(), ids=KINDS)
def test_derivatives_of_both_orders_are_right(kernel, stride, padding):
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, **DOUBLE) for shape in ((2, 3, 6, 6), (4, 3, kernel, kernel), (4,))]
    inputs = tuple(x.requires_grad_() for x in inputs)

    def twice(*tensors):
        with differentiated_twice():
            return conv2d(*tensors, stride, padding)

    torch.testing.assert_close(twice(*inputs), F.conv2d(*inputs, stride, padding))
    assert torch.autograd.gradcheck(twice, inputs)
    assert torch.autograd.gradgradcheck(twice, inputs)


def penalty_gradients(network, images, quick, autocast=None):
    """Of R1 and the logits themselves, as a discriminator's phase has them."""
    network.zero_grad()
    images = images.clone().requires_grad_()
    kind = torch.autocast("cpu", autocast, enabled=autocast is not None)
    with kind, differentiated_twice() if quick else torch.enable_grad():
        logits = network(images).sum(1)
    (r1_penalty(logits, images, images) + logits.square()).sum().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def small_network(dtype=torch.float64):
    torch.manual_seed(1)
    layers = [Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(0.2), Conv2d(8, 8, 4, 2, 1, bias=False), nn.Softplus()]
    return nn.Sequential(*layers, Conv2d(8, 1, 4), nn.Flatten()).to(dtype, memory_format=torch.channels_last)


def test_a_penalty_has_the_gradients_that_torch_gives_it():
    network, images = small_network(), torch.randn(4, 3, 8, 8, **DOUBLE)
    torch.testing.assert_close(*(penalty_gradients(network, images, quick) for quick in (True, False)))


def test_under_autocast_it_computes_in_that_format():
    network, images = small_network(torch.float32), torch.randn(4, 3, 8, 8)
    exact = penalty_gradients(network, images, True)
    for quick in (True, False):
        half = penalty_gradients(network, images, quick, torch.bfloat16)
        for name, gradient in exact.items():
            assert 0 < (half[name] - gradient).norm() < 0.05 * gradient.norm(), name


def test_frozen_weights_get_no_gradient_and_images_do():
    network, images = small_network().requires_grad_(False), torch.randn(4, 3, 8, 8, **DOUBLE, requires_grad=True)
    with differentiated_twice():
        (gradient,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
    assert gradient.abs().sum() > 0
    (gradient.square().sum() + images.sum()).backward()
    assert images.grad is not None
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_penalty_computes_no_weight_gradients_on_its_way(monkeypatch):
    """They cost as much as a pass, and only the derivative with respect to the images is asked for."""
    wanted = []
    monkeypatch.setattr("t2i.convolution._gradients", lambda *given: wanted.append(given[-1]) or _gradients(*given))
    network, images = small_network(), torch.randn(4, 3, 8, 8, **DOUBLE, requires_grad=True)
    with differentiated_twice():
        logits = network(images).sum(1)
    penalty = r1_penalty(logits, images, images)
    assert wanted == [(True, False)] * 3
    penalty.sum().backward()  # of the whole, weights do
    assert (False, True) in wanted


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_repeated_pixels(bias):
    torch.manual_seed(0)
    x, conv = torch.randn(2, 5, 6, 4, **DOUBLE), nn.Conv2d(5, 3, 3, padding=1, bias=bias).double()
    found, expected = upsampling_conv3(x, conv.weight, conv.bias), conv(F.interpolate(x, scale_factor=2.0))
    torch.testing.assert_close(found, expected)
    for output in (found, expected):
        conv.zero_grad()
        output.square().sum().backward()
        output.gradients = conv.weight.grad
    torch.testing.assert_close(found.gradients, expected.gradients)


def test_dfgan_repeats_pixels_after_what_works_on_each_alone():
    """As published: upsampled first."""
    from t2i.models.dfgan import GeneratorBlock

    torch.manual_seed(0)
    block = GeneratorBlock(8, 4, 10).double()
    for parameter in block.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x, condition = torch.randn(2, 8, 4, 4, **DOUBLE), torch.randn(2, 10, **DOUBLE)
    up = F.interpolate(x, scale_factor=2.0)
    residual = block.conv2(block.fuse2(block.conv1(block.fuse1(up, condition)), condition))
    torch.testing.assert_close(block(x, condition), block.shortcut(up) + residual)


@pytest.mark.parametrize("arch", ["dfgan", "stylegan2"])
def test_a_penalised_pass_goes_through_it_alone(arch):
    """(stylegan's low-pass filters have no weights to learn.)"""
    discriminator = networks(arch, conditioning="sentence")[1]
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    with differentiated_twice():
        logits = discriminator(images, captions(4))
    convolutions = {name for name in nodes(logits.grad_fn) if "Convolution" in name}
    assert convolutions == {"_ConvolutionBackward"}


def nodes(node):
    """Names of all that a result's gradient goes through."""
    found, waiting = set(), [node]
    while waiting:
        if (node := waiting.pop()) and node not in found:
            found.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return {node.name() for node in found}
