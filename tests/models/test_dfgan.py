"""DF-GAN is the published network."""

import pytest
import torch
from small import captions, networks

from t2i.models.dfgan import Affine, DiscriminatorBlock, widths_to

PUBLISHED = {64: (4.87, 3.21, 0.30), 256: (9.74, 6.62, 0.30)}  # million parameters: generator, trunk, head


def millions(module):
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize("resolution", PUBLISHED)
def test_parameter_counts_are_the_published_ones(resolution):
    nf = {"model__generator__nf": 32, "model__discriminator__nf": 32}
    generator, discriminator = networks("dfgan", resolution, width=256, conditioning="sentence", **nf)
    head = millions(discriminator.head)
    counts = (millions(generator), millions(discriminator) - head, head)
    assert tuple(round(count, 2) for count in counts) == PUBLISHED[resolution]


def test_widths_follow_the_published_table():
    assert widths_to(64, 32) == [32, 64, 128, 256, 256]
    assert widths_to(128, 32) == [32, 64, 128, 256, 256, 256]
    assert widths_to(256, 32) == [32, 64, 128, 256, 256, 256, 256]


def test_affine_starts_as_the_identity():
    x = torch.randn(2, 6, 4, 4)
    assert torch.equal(Affine(6, 5)(x, torch.randn(2, 5)), x)


def test_discriminator_block_starts_as_its_shortcut_and_with_gamma_1_in_full():
    x = torch.randn(2, 6, 8, 8)
    shortcut = torch.nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(DiscriminatorBlock(6, 6, gamma=0.0)(x), shortcut)
    branch = DiscriminatorBlock(6, 6, gamma=1.0)(x) - shortcut
    assert 0.3 < branch.std() / x.std() < 3


def test_tanh_output_stays_inside_and_linear_does_not():
    for output, bounded in (("tanh", True), ("linear", False)):
        generator, _ = networks("dfgan", 32, model__generator__output=output)
        generator.to_rgb.weight.data.mul_(1000)
        images = generator(torch.randn(4, generator.z_dim), captions(4))
        assert (images.abs().max() <= 1) == bounded
