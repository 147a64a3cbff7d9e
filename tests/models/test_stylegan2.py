"""StyleGAN2's parts against their definitions."""

import pytest
import torch
import torch.nn.functional as F
from small import captions, networks

from t2i.layers import scale_and_shift
from t2i.models.stylegan2 import ModulatedConv2d, ResidualBlock, StyledConv, upsample


@pytest.fixture
def generator():
    return networks("stylegan2")[0].eval()


@pytest.mark.parametrize("demodulate", [True, False])
def test_scaling_in_and_out_is_a_kernel_for_each_image(demodulate):
    """SG2, eq. 1 and 3, with the kernels written out, one group an image."""
    torch.manual_seed(0)
    gain = 1.5 if demodulate else 1.0
    conv = ModulatedConv2d(6, 5, 3, 7, demodulate=demodulate, gain=gain).double()
    x, w, bias = torch.randn(4, 6, 8, 8).double(), torch.randn(4, 7).double(), torch.randn(5).double()
    kernels = conv.weight * conv.scale * conv.style(w)[:, None, :, None, None]  # [B, c_out, c_in, k, k]
    if demodulate:
        kernels = kernels / (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    expected = F.conv2d(x.reshape(1, 24, 8, 8), kernels.reshape(20, 6, 3, 3), padding=1, groups=4)
    expected = gain * (expected.reshape(4, 5, 8, 8) + bias[:, None, None])
    torch.testing.assert_close(conv(x, w, bias), expected)


def test_upsampled_is_the_convolution_of_the_input_at_twice_its_size():
    torch.manual_seed(0)
    plain, twice = ModulatedConv2d(6, 5, 3, 7).double(), ModulatedConv2d(6, 5, 3, 7, upsampled=True).double()
    twice.load_state_dict(plain.state_dict())
    x, w, bias = torch.randn(4, 6, 8, 8).double(), torch.randn(4, 7).double(), torch.randn(5).double()
    torch.testing.assert_close(twice(x, w, bias), plain(upsample(x), w, bias))


@pytest.mark.parametrize("each", [False, True], ids=["one shift", "a shift each"])
@pytest.mark.parametrize("channels", [24, 32])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_scaling_and_shifting_rows_of_pixels_is_scaling_and_shifting_channels(layout, channels, each):
    torch.manual_seed(0)
    x = torch.randn(3, channels, 4, 6).to(memory_format=layout)
    scale, shift = torch.randn(3, channels), torch.randn(3, channels) if each else torch.randn(channels)
    expected = x * scale[..., None, None] + (shift if each else shift.expand(3, -1))[..., None, None]
    torch.testing.assert_close(scale_and_shift(x, scale, shift), expected)
    half = [v.bfloat16().requires_grad_(True) for v in (x, scale, shift)]
    found = scale_and_shift(*half)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.04)
    assert found.dtype == torch.bfloat16 and found.shape == x.shape
    found.sum().backward()
    torch.testing.assert_close(half[1].grad.float(), x.sum((2, 3)), rtol=0.02, atol=0.1)
    torch.testing.assert_close(half[2].grad.float(), torch.full_like(shift, 24 if each else 72))


def test_a_style_starts_at_one_and_a_layer_keeps_the_variance():
    torch.manual_seed(0)
    layer = StyledConv(64, 64, 32)
    assert torch.equal(layer.conv.style.bias, torch.ones(64))
    x = layer(torch.randn(8, 64, 16, 16), torch.zeros(8, 32))
    assert float(x[..., 1:-1, 1:-1].detach().square().mean()) == pytest.approx(1.0, rel=0.1)


def test_up_is_the_papers_filter():
    """[1, 3, 3, 1] in both directions, inside the borders."""
    kernel = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.outer(kernel, kernel)[None, None]
    x = torch.randn(2, 1, 8, 8)
    spread = torch.zeros(2, 1, 16, 16)
    spread[..., ::2, ::2] = x
    expected = F.conv2d(F.pad(spread, (2, 1, 2, 1)), 4 * kernel)
    torch.testing.assert_close(upsample(x)[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])


def test_a_block_of_the_discriminator_halves_the_image_and_keeps_its_variance():
    torch.manual_seed(0)
    y = ResidualBlock(32, 64)(torch.randn(16, 32, 16, 16))
    assert y.shape == (16, 64, 8, 8)
    assert float(y.detach().square().mean()) == pytest.approx(0.5 * (1 + 1 / 4), rel=0.3)  # the shortcut is a mean of 4


def test_truncation_takes_the_noise_and_leaves_the_text(generator):
    z = torch.randn(6, generator.z_dim)
    condition = generator.pool(captions(1)).expand(6, -1)
    full, half, none = (generator.styles(z, condition, psi) for psi in (1.0, 0.5, 0.0))
    width = generator.w_width // 2
    for styles in (half, none):
        assert torch.equal(styles[..., width:], full[..., width:])  # what the prompt says
    torch.testing.assert_close(none[0], none[5])  # one image a prompt
    torch.testing.assert_close(half[..., :width], (full + none)[..., :width] / 2)


def test_every_style_layer_is_read(generator):
    """Each w of render moves the image: none is passed over."""
    styles = torch.randn(1, 6, generator.w_width + generator.pooler.out_width)
    plain = generator.render(styles)
    assert plain.shape == (1, 3, 16, 16)
    for layer in range(6):
        moved = styles.clone()
        moved[:, layer] += 1
        assert not torch.allclose(generator.render(moved), plain), layer
    with pytest.raises(IndexError):
        generator.render(styles[:, :-1])


def test_noise_and_text_both_move_the_image(generator):
    z, text = torch.randn(2, generator.z_dim), captions()
    plain = generator(z, text)
    assert not torch.allclose(generator(z.flip(0), text), plain)
    assert not torch.allclose(generator(z, text[torch.tensor([1, 0])]), plain)


def test_layout_mlp_changes_some_positions_more_than_others(generator):
    """By the first layer's styles alone."""
    styles = generator.styles(torch.randn(2, generator.z_dim), generator.pool(captions()))
    assert styles.shape[2] == generator.w_width + generator.pooler.out_width
    plain = generator.render(styles)
    changed = styles.clone()
    changed[:, 0, generator.w_width :] += 1
    moved = (generator.render(changed) - plain).abs().mean(1)
    assert moved.min() < 0.5 * moved.max()
    changed = styles.clone()
    changed[:, 1:, generator.w_width :] += 1
    assert torch.equal(generator.render(changed), plain)


@pytest.mark.parametrize("side", [4, 12, 32])
def test_layout_mlp_of_no_resolution_of_the_generator_is_refused(side):
    with pytest.raises(ValueError, match=f"layout_mlp is one of 0, 8, 16, not {side}"):
        networks("stylegan2", model__generator__layout_mlp=side)
