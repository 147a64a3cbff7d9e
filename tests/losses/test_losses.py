"""Losses and penalties against known answers; augmentation and mismatches as promised."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import networks

from t2i.augment import AUGMENT_NUMBERS, augment
from t2i.data.negatives import belonging, mismatch
from t2i.losses.adversarial import HINGE, LOGISTIC, RELATIVISTIC
from t2i.losses.penalties import default_weight, matching_aware_penalty, r1_penalty


def test_hinge_and_logistic_values():
    d = torch.tensor([-2.0, 0.0, 0.5, 3.0])
    assert HINGE.real(d).tolist() == [3.0, 1.0, 0.5, 0.0]
    assert HINGE.fake(d, -d).tolist() == [0.0, 1.0, 1.5, 4.0]
    assert HINGE.generator(d, -d).tolist() == [2.0, 0.0, -0.5, -3.0]
    torch.testing.assert_close(LOGISTIC.real(d), torch.log1p(torch.exp(-d)))
    torch.testing.assert_close(LOGISTIC.fake(d, -d), torch.log1p(torch.exp(d)))
    torch.testing.assert_close(LOGISTIC.generator(d, -d), LOGISTIC.real(d))
    torch.testing.assert_close(RELATIVISTIC.fake(d, -d), LOGISTIC.real(-2 * d))
    torch.testing.assert_close(RELATIVISTIC.generator(d, -d), LOGISTIC.real(2 * d))


def test_penalties_of_a_linear_discriminator_are_the_closed_form():
    images = torch.randn(3, 3, 4, 4, requires_grad=True)
    condition = torch.randn(3, 5, requires_grad=True)
    w, v = torch.randn(3 * 16), torch.randn(5)
    logits = images.flatten(1) @ w + condition @ v
    squares = w.square().sum() + v.square().sum()
    torch.testing.assert_close(matching_aware_penalty(logits, images, condition), (squares**3).expand(3))
    torch.testing.assert_close(r1_penalty(logits, images, condition), (0.5 * w.square().sum()).expand(3))


def test_ma_gp_is_finite_with_finite_gradients_where_the_discriminator_is_flat():
    weight = torch.zeros(48, requires_grad=True)
    images, condition = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    logits = images.flatten(1) @ weight + 0 * condition.sum(1)
    penalty = matching_aware_penalty(logits, images, condition).mean()
    penalty.backward()
    assert penalty == 0
    assert torch.isfinite(weight.grad).all()


def test_ma_gp_gradients_match_finite_differences_in_float64():
    """Small steps avoid the kinks of dfgan's discriminator."""
    _, network = networks("dfgan", width=6, conditioning="sentence", model__discriminator__nf=2)
    for parameter in network.double().parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    condition = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)

    def penalty():
        logits = network.logits(network.features(images), condition)
        return matching_aware_penalty(logits, images, condition).mean()

    penalty().backward()
    step, checked = 1e-6, 0
    for name, parameter in network.named_parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.reshape(-1)
        for index in {0, flat.numel() // 2, flat.numel() - 1}:
            start = flat[index].item()
            values = []
            for moved in (start + step, start - step):
                flat[index] = moved
                values.append(penalty().item())
            flat[index] = start
            numeric = (values[0] - values[1]) / (2 * step)
            assert gradient[index].item() == pytest.approx(numeric, rel=1e-4, abs=1e-7), name
            checked += 1
    assert checked > 30


def test_r1_weight_follows_the_heuristic():
    assert default_weight("r1", 64, 32) == pytest.approx(0.0002 * 64 * 64 / 32)
    assert default_weight("ma-gp", 64, 32) == 2.0


# ---- DiffAugment ----


def test_augmentation_is_a_function_of_its_numbers_and_differentiable():
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    numbers = torch.rand(4, AUGMENT_NUMBERS)
    first = augment(images, numbers, ("translation", "cutout"))
    assert torch.equal(first, augment(images, numbers, ("translation", "cutout")))
    assert not torch.equal(first, augment(images, torch.rand(4, AUGMENT_NUMBERS), ("translation", "cutout")))
    first.sum().backward()
    assert images.grad.abs().sum() > 0


def test_translation_shifts_and_repeats_the_edge():
    image = torch.arange(64.0).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    down_right = augment(image, torch.tensor([[0.99, 0.99, 0.0, 0.0]]), ("translation",))
    assert torch.equal(down_right[..., :-1, :-1], image[..., 1:, 1:])
    centre = augment(image, torch.tensor([[0.5, 0.5, 0.0, 0.0]]), ("translation",))
    assert torch.equal(centre, image)
    white = torch.ones(8, 3, 16, 16)
    assert torch.equal(augment(white, torch.rand(8, AUGMENT_NUMBERS), ("translation",)), white)


def test_cutout_blanks_at_most_a_quarter_and_keeps_the_rest():
    images = torch.rand(64, 3, 16, 16) + 1
    cut = augment(images, torch.rand(64, AUGMENT_NUMBERS), ("cutout",))
    gone = (cut == 0).float().mean((1, 2, 3))
    assert gone.max() <= 0.25
    assert gone.mean() > 0.1
    assert torch.equal(cut[cut != 0], images[cut != 0])


def test_no_augmentation_leaves_images_alone():
    images = torch.randn(2, 3, 8, 8)
    assert augment(images, torch.rand(2, AUGMENT_NUMBERS), ()) is images


# ---- mismatched captions ----


@settings(max_examples=300)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=24), st.integers(0, 2**32 - 1))
def test_mismatch_never_gives_an_image_one_of_its_own_captions(captions, seed):
    ids = np.array(captions)
    own = [[c, (c + 1) % 13] for c in captions]  # a second caption of each image, which others may have drawn
    result = mismatch(belonging(ids, own), np.random.default_rng(seed))
    for row, other in enumerate(result):
        if other < 0:
            assert all(c in own[row] for c in captions)
        else:
            assert ids[other] not in own[row]


def test_what_belongs_to_an_image_is_its_own_caption_another_of_it_and_an_equal_one():
    ids = np.array([4, 5, 4, 9, 6])
    own = [[4, 5], [4, 5], [4], [9, 2], [3, 6, 9]]
    expected = [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    assert (belonging(ids, own) == np.array(expected, bool)).all()


@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_mismatch_of_different_captions_is_a_derangement(size, seed):
    result = mismatch(np.eye(size, dtype=bool), np.random.default_rng(seed))
    assert sorted(result) == list(range(size))
    assert (result != np.arange(size)).all()
