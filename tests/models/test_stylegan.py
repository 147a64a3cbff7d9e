"""What the StyleGAN papers say, checked on our layers."""

import math

import pytest
import torch
import torch.nn.functional as F
from small import captions, networks

from t2i.layers import (
    Blur,
    EqualConv2d,
    EqualLinear,
    downsample,
    minibatch_std,
    pixel_norm,
    resolutions_to,
    upsample,
    width,
)
from t2i.models.stylegan import MIXING, StyleLayer, mix_styles


@pytest.fixture
def generator():
    return networks("stylegan")[0]


@pytest.mark.parametrize("layer, shape", [
    (EqualLinear(300, 200), (500, 300)), (EqualLinear(300, 200, lr_multiplier=0.01), (500, 300)),
    (EqualConv2d(64, 64, 3), (4, 64, 16, 16)),
])  # fmt: skip
def test_equalised_layers_keep_the_variance_at_he_gain(layer, shape):
    torch.manual_seed(0)
    out = layer(torch.randn(shape))
    assert out[..., 1:-1].std().item() == pytest.approx(math.sqrt(2), rel=0.1)


def test_a_learning_rate_multiplier_slows_the_output_down_as_much():
    """The same step of Adam moves the output of a layer with multiplier 0.01 a hundredth as far."""
    torch.manual_seed(0)
    x, moves = torch.randn(8, 30), []
    for multiplier in (1.0, 0.01):
        layer = EqualLinear(30, 20, lr_multiplier=multiplier)
        before = layer(x)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter += 1e-3
        moves.append((layer(x) - before).abs().mean().item())
    assert moves[1] / moves[0] == pytest.approx(0.01, rel=1e-2)


def test_blur_keeps_flat_images_and_removes_the_finest_pattern():
    blur = Blur()
    flat = torch.full((1, 3, 8, 8), 0.7)
    torch.testing.assert_close(blur(flat), flat)
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert blur(board.expand(1, 3, 8, 8))[..., 1:-1, 1:-1].abs().max() < 1e-6


def test_up_and_down_are_inverse():
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(downsample(upsample(x)), x)


def test_pixel_norm_scales_rows_to_mean_square_one():
    assert pixel_norm(torch.randn(4, 50) * 7).square().mean(1).tolist() == pytest.approx([1.0] * 4)


def test_minibatch_std_sees_a_group_of_equal_images():
    same, varied = torch.ones(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    std = minibatch_std(torch.cat([same, varied]))[:, 2]
    assert std[:4].max() < 1e-3
    assert std[4:].min() > 0.3
    expected = varied.var(0, unbiased=False).add(1e-8).sqrt().mean()
    assert std[4, 0, 0].item() == pytest.approx(expected.item())


def test_adain_gives_each_channel_the_mean_and_deviation_of_its_style():
    layer = StyleLayer(6, 8, 5).double()
    w = torch.randn(3, 5, dtype=torch.float64)
    out = layer(torch.randn(3, 6, 8, 8, dtype=torch.float64) * 9 + 2, w, None)
    scale, shift = layer.style(w).chunk(2, dim=1)
    torch.testing.assert_close(out.mean((2, 3)), shift)
    torch.testing.assert_close(out.std((2, 3), unbiased=False), (scale + 1).abs(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_rows_of_pixels_are_what_the_paper_writes(memory_format):
    torch.manual_seed(0)
    layer = StyleLayer(6, 8, 5)
    torch.nn.init.normal_(layer.noise_strength)
    torch.nn.init.normal_(layer.bias)
    x, w = torch.randn(3, 6, 8, 8), torch.randn(3, 5)
    scale, shift = layer.style(w).chunk(2, dim=1)
    for noise in (None, torch.randn(3, 1, 8, 8)):
        own = layer.noise if noise is None else noise
        plain = x + layer.noise_strength[:, None, None] * own + layer.bias[:, None, None]
        plain = F.instance_norm(F.leaky_relu(plain, 0.2), eps=1e-8)
        plain = (1 + scale)[..., None, None] * plain + shift[..., None, None]
        torch.testing.assert_close(layer(x.to(memory_format=memory_format), w, noise), plain, rtol=1e-5, atol=1e-5)


def test_widths_are_those_of_the_paper():
    assert [width(side, 8192, 512) for side in (4, 8, 16, 32, 64, 128, 256, 512, 1024)] == [
        512, 512, 512, 512, 256, 128, 64, 32, 16]  # fmt: skip
    assert [width(side, 4096, 256) for side in (4, 32, 64, 1024)] == [256, 256, 128, 8]  # the original project's


def test_it_builds_up_to_1024_px():
    with torch.device("meta"):
        widths = {"fmap_base": 512, "fmap_max": 16}
        tables = {"generator": widths, "discriminator": widths}
        generator, discriminator = networks("stylegan", 1024, model=tables, text__layers=0)
        assert generator(torch.empty(1, 8), captions(1).to("meta")).shape == (1, 3, 1024, 1024)
        assert discriminator.features(torch.empty(1, 3, 1024, 1024)).summary.shape == (1, 16)


@pytest.mark.parametrize("resolution", [2, 12, 48, 0])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match="power of two"):
        resolutions_to(resolution)


def test_truncation_pulls_to_the_prompts_own_mean(generator):
    z, conditions = torch.randn(2, generator.z_dim), generator.pool(captions())
    noises = generator.w_avg_samples
    for condition in conditions.split(1):
        centre = generator.styles(z[:1], condition, truncation_psi=0.0)
        mean = generator.styles(noises, condition.expand(len(noises), -1)).mean(0, keepdim=True)
        torch.testing.assert_close(centre, mean)
        half = generator.styles(z[:1], condition, truncation_psi=0.5)
        torch.testing.assert_close(half, (centre + generator.styles(z[:1], condition)) / 2)
    centres = generator.styles(z, conditions, truncation_psi=0.0)
    assert not torch.allclose(centres[0], centres[1], atol=1e-3)  # psi 0 does not forget the prompt


def test_style_mixing_takes_coarse_layers_from_one_noise_and_fine_ones_from_another():
    count, layers = 2000, 6
    styles, others = torch.zeros(count, layers, 4), torch.ones(count, layers, 4)
    mixed = mix_styles(styles, others, torch.randn(count, 2, generator=torch.Generator().manual_seed(0)))[..., 0]
    assert (mixed.diff(dim=1) >= 0).all()  # one crossover, coarse first
    assert (mixed[:, 0] == 0).all()
    share = (mixed[:, -1] == 1).float().mean().item()
    assert share == pytest.approx(MIXING, abs=0.03)
    crossovers = (mixed == 0).sum(1)[mixed[:, -1] == 1]
    assert set(crossovers.tolist()) == set(range(1, layers))


def test_training_varies_noise_and_styles_and_inference_does_not(generator):
    for layer in generator.modules():
        if isinstance(layer, StyleLayer):
            torch.nn.init.ones_(layer.noise_strength)
    z, count = torch.randn(2, generator.z_dim), generator.training_noise()
    assert torch.equal(generator(z, captions()), generator(z, captions()))
    varied = [generator(z, captions(), training_noise=torch.randn(2, count)) for _ in range(2)]
    assert not torch.allclose(*varied, atol=1e-3)


def test_text_moves_a_logit_by_projection_and_an_unconditional_one_stays():
    _, discriminator = networks("stylegan")
    features = discriminator.features(torch.rand(2, 3, 16, 16))
    pooled = discriminator.pool(captions())
    bias = discriminator.head.project.bias.detach() * discriminator.head.project.lr_multiplier
    alone = (
        discriminator.head.unconditional(features.summary).flatten()
        + (features.summary * bias).sum(1) * bias.numel() ** -0.5
    )
    torch.testing.assert_close(discriminator.logits(features, torch.zeros_like(pooled)), alone)
    first, second = discriminator.logits(features, pooled), discriminator.logits(features, 3 * pooled)
    torch.testing.assert_close(second - alone, 3 * (first - alone))
