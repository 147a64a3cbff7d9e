"""The diversity term: two pictures of one caption, and how far apart they are."""

import pytest
import torch
from short_runs import CPU, config

from t2i.losses.diversity import LIMIT, diversity
from t2i.training.loading import BatchLoader
from t2i.training.randomness import StepRandom
from t2i.training.state import TrainingState
from t2i.training.text import PreparedText


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


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 30, 32])
def test_its_weight_is_the_same_for_every_batch(count, shapes_data):
    """Only some pictures are drawn a second time; all of these differ by more than is rewarded."""
    text = PreparedText(shapes_data)
    state = TrainingState(config(batch=count, diversity=4.0), shapes_data.resolution, text, CPU)
    loader = BatchLoader(shapes_data, text, 0, "cpu")
    batch = loader.load(0, count)
    loader.close()
    pieces = [slice(0, count // 2), slice(count // 2, count)]
    fakes, random = torch.full((count, 3, 16, 16), 100.0), StepRandom(0, 0, count)
    whole = state.objective._diversity(fakes, batch.text, random)
    assert whole.mean().item() == pytest.approx(4.0 * LIMIT)
    parts = [state.objective._diversity(fakes[r], batch.text[r], random.take(r)) for r in pieces]
    torch.testing.assert_close(torch.cat(parts), whole)
