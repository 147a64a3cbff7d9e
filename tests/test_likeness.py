"""The likeness term: what is seen from afar."""

import torch

from t2i.losses.likeness import coarse_difference


def test_only_coarse_differences_count():
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    checker = 0.5 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2 - 1.0)
    torch.testing.assert_close(coarse_difference(image + checker, image), torch.zeros(2))
    torch.testing.assert_close(coarse_difference(image + 0.25, image), torch.full((2,), 0.25))


def test_a_patch_counts_by_its_share_at_each_scale():
    first, second = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    first[:, 0, :2, :2] = 1.0  # one pixel of 16 x 16, a quarter of one of 8 x 8
    expected = (1 / 3 / 16**2 + 0.25 / 3 / 8**2) / 2
    torch.testing.assert_close(coarse_difference(first, second), torch.tensor([expected]))


def test_half_precision_is_compared_in_fp32():
    first, second = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    found = coarse_difference(first.bfloat16(), second)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, coarse_difference(first.bfloat16().float(), second))
