"""The token mixer: direction of the heads, padding, and its purpose."""

import pytest
import torch
import torch.nn.functional as F
from short_runs import CPU, config
from small import batch, networks
from torch import nn

from t2i.layers import Linear
from t2i.text.attention import TokenMixer
from t2i.text.pooler import AttentionPooler, TextBatch, TextStatistics
from t2i.training.randomness import StepRandom
from t2i.training.schedule import Schedule
from t2i.training.text import FrozenText
from t2i.training.trainer import Trainer


def test_half_of_the_heads_look_back_and_half_ahead_near_words_first():
    scores = TokenMixer(12, 1).scores(torch.ones(1, 4, dtype=torch.bool))[0]  # [H, L, L]
    assert len(scores) == 8
    ahead = torch.arange(4) - torch.arange(4)[:, None]
    for head, slope in enumerate([1.0, 0.5, 0.25, 0.0] * 2):
        seen = ahead <= 0 if head < 4 else ahead >= 0
        assert torch.equal(scores[head].isfinite(), seen)
        assert torch.equal(scores[head][seen], (-slope * ahead.abs())[seen])


@pytest.mark.parametrize("layers", [1, 2])
def test_padding_changes_nothing_and_gives_no_nan(layers):
    mixer, tokens = TokenMixer(12, layers), torch.randn(3, 6, 12)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True] + [False] * 5])
    found = mixer(tokens, mask)
    assert found.isfinite().all()
    for row, length in enumerate((6, 4, 1)):
        alone = mixer(tokens[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(found[row, :length], alone[0])


def test_words_that_change_places_are_read_otherwise():
    """Pooled from the tokens alone they are the same; mixed first they are not."""
    statistics = TextStatistics.identity(12)
    tokens, mask = torch.randn(1, 5, 12), torch.ones(1, 5, dtype=torch.bool)
    turned = TextBatch(tokens[:, [4, 1, 2, 3, 0]], mask)
    plain, mixing = AttentionPooler(statistics), AttentionPooler(statistics, text_layers=1)
    torch.testing.assert_close(plain(turned), plain(TextBatch(tokens, mask)))
    assert not torch.allclose(mixing(turned), mixing(TextBatch(tokens, mask)), atol=1e-2)


@pytest.mark.parametrize("rows", [3, 30], ids=["fewer numbers than weights", "more"])
def test_a_multiplier_slows_the_steps_and_changes_nothing_else(rows):
    torch.manual_seed(0)
    plain = Linear(8, 4)
    slow = Linear(8, 4, lr_multiplier=0.1)
    plain.keep_variance()
    slow.weight.data.copy_(plain.weight * 10)
    x = torch.randn(rows, 8)
    torch.testing.assert_close(slow(x), plain(x))
    before = slow(x)
    for layer in (plain, slow):
        adam = torch.optim.Adam(layer.parameters(), lr=1e-3, betas=(0.0, 0.9))
        layer(x).square().sum().backward()
        adam.step()
    moved = [(layer(x) - before).norm() for layer in (plain, slow)]
    torch.testing.assert_close(moved[1], 0.1 * moved[0], rtol=0.02, atol=0)


def test_who_is_left_of_whom_is_learned():
    """Eight things, two a caption, and a word between them that says which one is left: mixed, then pooled.

    The tokens of a word are the same wherever it stands, as if an encoder had forgotten the order.
    """
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(10, 32, generator=generator)  # eight things, "left of", "right of"

    def examples(count):
        things = torch.stack([torch.randperm(8, generator=generator)[:2] for _ in range(count)])
        way = torch.randint(0, 2, (count,), generator=generator)
        text = words[torch.stack([things[:, 0], 8 + way, things[:, 1]], dim=1)]
        left = torch.where(way == 0, things[:, 0], things[:, 1])
        return TextBatch(text, torch.ones(count, 3, dtype=torch.bool)), left

    torch.manual_seed(0)
    pooler = AttentionPooler(TextStatistics.identity(32), text_layers=1)
    network = nn.ModuleList([pooler, nn.Linear(pooler.out_width, 8)])
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(150):
        text, left = examples(64)
        loss = F.cross_entropy(network[1](pooler(text)), left)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    text, left = examples(500)
    assert (network[1](pooler(text)).argmax(1) == left).float().mean() > 0.95


def test_the_generators_mixer_is_copied_from_the_discriminators_after_a_step(monkeypatch):
    settings = config(growing=False, lr_d=1e-2)
    trainer = Trainer(settings, 16, FrozenText(), CPU, networks=networks("dfgan"))
    mixers = [network.pooler.mixer for network in (trainer.discriminator, trainer.generator)]
    before, updated = mixers[0].enter.weight.clone(), []
    update = trainer._update

    def look(phase, plan):
        update(phase, plan)
        updated.append([torch.equal(mixer.enter.weight, before) for mixer in mixers])

    monkeypatch.setattr(trainer, "_update", look)
    trainer.step(Schedule(settings, 16).plan(0), batch(8), StepRandom(0, 0, 8))
    assert updated == [[False, True], [False, True]]  # after either phase: the generator learns with what it drew with
    learned, copied = (mixer.state_dict() for mixer in mixers)
    assert not torch.equal(copied["enter.weight"], before)
    assert all(torch.equal(value, learned[name]) for name, value in copied.items())
