"""The captioning term: word after word, from the picture and the words before."""

import math

import pytest
import torch

from t2i.losses.captioning import PLACES, CaptionHead
from t2i.text.pooler import TextBatch

VECTOR, MAP = (6,), (6, 2, 3)


def head(features=VECTOR, vocabulary=11):
    torch.manual_seed(0)
    return CaptionHead(features, vocabulary, width=16, layers=2, heads=2)


def words(*lengths, vocabulary=11):
    noise = torch.Generator().manual_seed(1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return TextBatch(torch.randint(0, vocabulary, mask.shape, generator=noise), mask)


@pytest.mark.parametrize("shape", [VECTOR, MAP])
def test_it_gives_a_probability_to_every_caption(shape):
    """Over all captions of two words the probabilities sum to 1: it is a distribution, and it knows no later word."""
    captions = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    picture = torch.randn(shape).expand(25, *shape)
    ids = TextBatch(captions, torch.ones(25, 2, dtype=torch.bool))
    likelihood = head(shape, 5)(picture, ids).sum(1).exp()
    torch.testing.assert_close(likelihood.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("shape", [VECTOR, MAP])
def test_a_caption_does_not_depend_on_its_padding_or_company(shape):
    features, ids, ours = torch.randn(3, *shape), words(4, 7, 1), head(shape)
    together = ours(features, ids)
    assert together.dtype == torch.float32 and (together[~ids.mask] == 0).all()
    for row, length in enumerate((4, 7, 1)):
        alone = ours(
            features[row : row + 1], TextBatch(ids.tokens[row : row + 1, :length], ids.mask[row : row + 1, :length])
        )
        torch.testing.assert_close(together[row, :length], alone[0])


def test_autocast_changes_nothing():
    features, ids, ours = torch.randn(2, *VECTOR), words(4, 3), head()
    with torch.autocast("cpu", torch.bfloat16):
        half = ours(features, ids)
    torch.testing.assert_close(half, ours(features, ids))


def test_an_untrained_head_guesses():
    surprise = -head(VECTOR, 300)(torch.randn(8, *VECTOR), words(*[9] * 8, vocabulary=300)).mean()
    assert abs(surprise - math.log(300)) < 1


@pytest.mark.parametrize("shape", [VECTOR, MAP])
def test_every_weight_and_the_picture_learn(shape):
    ours, features = head(shape), torch.randn(3, *shape, requires_grad=True)
    ours(features, words(4, 7, 5)).sum().backward()
    assert features.grad.abs().sum() > 0
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert ours.places == (6 if shape == MAP else PLACES)


def test_it_learns_which_of_two_lies_left():
    """What a matching loss is slow to learn: two words, and which of them comes first depends on the picture."""
    torch.manual_seed(0)
    ours = head((4,), 4)
    optimizer = torch.optim.Adam(ours.parameters(), 1e-2)
    for _ in range(150):
        order = torch.stack([torch.randperm(3)[:2] for _ in range(32)])  # the objects on the left and on the right
        features = torch.cat([torch.nn.functional.one_hot(order[:, 0], 3), torch.zeros(32, 1)], 1).float()
        features[:, 3] = order[:, 1]
        first = torch.rand(32) < 0.5  # told from the left one, or from the right one
        told = torch.where(first[:, None], order, order.flip(1))
        ids = TextBatch(told, torch.ones(32, 2, dtype=torch.bool))
        losses = -ours(features, ids)
        optimizer.zero_grad()
        losses.sum(1).mean().backward()
        optimizer.step()
    assert losses[:, 1].mean() < 0.1  # the second word follows from the picture and the first
    assert 0.6 < losses[:, 0].mean() < 0.9  # which comes first is a coin's toss: log 2
