"""Contrastive and word-region loss against their formulas, by hand."""

import math

import pytest
import torch
from torch import nn

from t2i.losses.contrastive import MAX_SCALE, ContrastiveHead, contrastive_loss
from t2i.losses.word_region import WordRegionHead
from t2i.text.pooler import TextBatch


def log_odds(x):
    return math.log(1 + math.exp(x))


def test_hand_made_logits():
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    expected = [log_odds(-2) + log_odds(-1), log_odds(0.5) + log_odds(-3)]
    torch.testing.assert_close(contrastive_loss(logits), torch.tensor(expected))
    turned = contrastive_loss(logits, torch.tensor([1, 0]))
    torch.testing.assert_close(turned, torch.tensor([log_odds(2) + log_odds(1), log_odds(-0.5) + log_odds(3)]))


def test_pieces_with_all_captions_are_the_whole():
    logits, ids = torch.randn(21, 21), torch.randint(0, 12, (21,))
    for belongs in (None, ids[:, None] == ids):
        whole = contrastive_loss(logits, belongs=belongs)
        parts = [
            contrastive_loss(logits[own], own, None if belongs is None else belongs[own])
            for own in torch.arange(21).split(8)
        ]
        torch.testing.assert_close(whole, torch.cat(parts))


def test_what_belongs_to_an_image_besides_is_no_wrong_caption():
    logits, ids = torch.randn(4, 4), torch.tensor([7, 3, 7, 4])
    losses = contrastive_loss(logits, belongs=ids[:, None] == ids)
    for row in (0, 2):
        kept = contrastive_loss(logits[row, [row, 1, 3]][None])
        torch.testing.assert_close(losses[row], kept[0])
    alike = contrastive_loss(logits, belongs=torch.ones(4, 4, dtype=torch.bool))
    torch.testing.assert_close(alike, nn.functional.softplus(-logits.diagonal()))


@pytest.mark.parametrize("count", [1, 3])
def test_extreme_logits_have_finite_gradients(count):
    logits = (torch.eye(count) * -2 + 1).mul(1e4).requires_grad_(True)  # all of them wrong, and sure of it
    loss = contrastive_loss(logits, belongs=torch.eye(count, dtype=torch.bool))
    loss.mean().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()
    torch.testing.assert_close(loss, torch.full((count,), 1e4 * count))


def captions(count, length=5, width=7):
    mask = torch.ones(count, length, dtype=torch.bool)
    mask[0, 3:] = False
    return TextBatch(torch.randn(count, length, width), mask)


def by_hand(head, regions, tokens):
    """The logit of one image [C, h, w] and one caption [L, W] without padding."""
    places = nn.functional.normalize(head.image(regions.flatten(1).T) + head.position, dim=1)
    words = nn.functional.normalize(head.text(tokens), dim=1)
    best = (20 * places @ words.T).exp().sum(0).log() / 20  # of each word, over the regions
    importance = head.importance(tokens)[:, 0].softmax(0)
    return 10 * (importance * best).sum() - 4


def test_the_head_is_the_formula_in_fp32_under_autocast():
    head = ContrastiveHead(6, 5)
    features, condition = torch.randn(3, 6, 4, 4), torch.randn(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(features, condition)
    image = nn.functional.normalize(head.image(features.mean((2, 3))), dim=1)
    text = nn.functional.normalize(head.text(condition), dim=1)
    torch.testing.assert_close(logits, 10 * image @ text.T - 4)
    torch.testing.assert_close(head(features.mean((2, 3)), condition), logits)


def test_words_and_regions_are_the_formula_in_fp32_under_autocast():
    head = WordRegionHead(6, 7)
    nn.init.normal_(head.position)
    regions, text = torch.randn(3, 6, 4, 4), captions(4)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(regions, text)
    for image, row in zip(regions, logits):
        for tokens, mask, logit in zip(text.tokens, text.mask, row):
            torch.testing.assert_close(logit, by_hand(head, image, tokens[mask]))
    torch.testing.assert_close(head.pairs(regions, text[1:]), logits[:, 1:].diagonal())


def test_padding_says_nothing():
    head, regions, text = WordRegionHead(6, 7), torch.randn(3, 6, 4, 4), captions(4)
    other = TextBatch(text.tokens.masked_fill(~text.mask[..., None], 50.0), text.mask)
    torch.testing.assert_close(head(regions, other), head(regions, text))


def test_the_scale_is_learned_and_bounded():
    for head, text in ((ContrastiveHead(6, 5), torch.randn(3, 5)), (WordRegionHead(6, 7), captions(3))):
        torch.testing.assert_close(head.scale, torch.tensor(10.0))
        head.log_scale.data.fill_(9.0)
        torch.testing.assert_close(head.scale, torch.tensor(MAX_SCALE))
        head.log_scale.data.fill_(1.0)
        contrastive_loss(head(torch.randn(3, 6, 4, 4), text)).mean().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def test_a_scale_at_its_limit_comes_down_again():
    head = ContrastiveHead(4, 4)
    torch.nn.init.constant_(head.log_scale, math.log(MAX_SCALE) + 1)
    assert head.scale.item() == pytest.approx(MAX_SCALE)
    optimizer = torch.optim.SGD([head.log_scale], 0.1)
    head.scale.backward()
    optimizer.step()
    assert head.scale.item() < MAX_SCALE / 2
