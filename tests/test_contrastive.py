"""Does a picture know its caption: the contrastive term against the formula, by hand."""

import math

import pytest
import torch
from torch import nn

from t2i.losses.contrastive import MAX_SCALE, ContrastiveHead, contrastive_loss


def unit(*rows):
    return nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def random_units(count, width=5):
    return nn.functional.normalize(torch.randn(count, width), dim=1)


def test_hand_made_vectors():
    image, text = unit([1, 0], [0, 1]), unit([1, 0], [1, 1])
    # Products times 2: [[2, sqrt 2], [0, sqrt 2]], a picture a row.
    half = math.sqrt(2)
    expected = [math.log(math.exp(2) + math.exp(half)) - 2, math.log(1 + math.exp(half)) - half]
    torch.testing.assert_close(contrastive_loss(image, text, 2.0), torch.tensor(expected))
    same = unit([1, 0]).expand(8, 2)
    torch.testing.assert_close(contrastive_loss(same, same, 10.0), torch.full((8,), math.log(8)))


def test_pieces_with_all_captions_are_the_whole():
    image, text, ids = random_units(21), random_units(21), torch.randint(0, 12, (21,))
    for caption_ids in (None, ids):
        whole = contrastive_loss(image, text, 5.0, caption_ids=caption_ids)
        rows = torch.arange(21).split(8)
        parts = [contrastive_loss(image[own], text, 5.0, own, caption_ids) for own in rows]
        torch.testing.assert_close(whole, torch.cat(parts))


def test_the_same_caption_is_no_wrong_one():
    image, text = random_units(4), random_units(4)
    text[2] = text[0]
    masked = contrastive_loss(image, text, 5.0, caption_ids=torch.tensor([7, 3, 7, 4]))
    for row in (0, 2):
        keep = torch.tensor([row, 1, 3])
        torch.testing.assert_close(masked[row], contrastive_loss(image[keep], text[keep], 5.0)[0])
    alike = contrastive_loss(image, text, 5.0, caption_ids=torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(alike, torch.zeros(4))


@pytest.mark.parametrize("ids", [None, torch.zeros(3, dtype=torch.long)])
def test_a_picture_without_wrong_captions_has_no_loss_and_finite_gradients(ids):
    count = 1 if ids is None else 3
    head = ContrastiveHead(6, 5, width=4)
    features, condition = torch.randn(count, 6, 2, 2, requires_grad=True), torch.randn(count, 5, requires_grad=True)
    loss = contrastive_loss(*head(features, condition), head.scale, caption_ids=ids)
    loss.mean().backward()
    torch.testing.assert_close(loss, torch.zeros(count))
    for tensor in (features, condition, *head.parameters()):
        assert torch.isfinite(tensor.grad).all()


def test_the_head_is_the_formula_in_fp32_under_autocast():
    head = ContrastiveHead(6, 5)
    features, condition = torch.randn(3, 6, 4, 4), torch.randn(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        image, text = head(features, condition)
        loss = contrastive_loss(image, text, head.scale)
    torch.testing.assert_close(image, nn.functional.normalize(head.image(features.mean((2, 3))), dim=1))
    torch.testing.assert_close(text, nn.functional.normalize(head.text(condition), dim=1))
    assert image.shape == (3, 128)
    torch.testing.assert_close(loss, contrastive_loss(image, text, head.scale), rtol=0, atol=0)


def test_the_scale_is_learned_and_bounded():
    head = ContrastiveHead(6, 5)
    torch.testing.assert_close(head.scale, torch.tensor(1 / 0.07))
    head.log_scale.data.fill_(9.0)
    torch.testing.assert_close(head.scale, torch.tensor(MAX_SCALE))
