"""The diversity term: two pictures of one caption, and how far apart they are."""

import torch

from t2i.losses.diversity import LIMIT, diversity


def test_it_is_the_mean_absolute_difference_of_each_pair():
    first = torch.zeros(3, 3, 2, 2)
    second = torch.stack([torch.full((3, 2, 2), 0.0), torch.full((3, 2, 2), 0.1), torch.full((3, 2, 2), -0.2)])
    torch.testing.assert_close(diversity(first, second), torch.tensor([0.0, 0.1, 0.2]))
    half = diversity(first.bfloat16(), second.bfloat16())
    assert half.dtype == torch.float32


def test_what_differs_enough_is_not_driven_further():
    first, second = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.1)
    second[1] = 0.9
    first.requires_grad_(True)
    found = diversity(first, second)
    torch.testing.assert_close(found, torch.tensor([0.1, LIMIT]))
    found.sum().backward()
    assert (first.grad[0] < 0).all()  # up the gradient, the pictures part
    assert (first.grad[1] == 0).all()
