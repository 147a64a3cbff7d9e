"""Captions that speak of sides, and the flipped images that belie them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from short_runs import CPU, config
from small import batch, networks

from t2i.data.spatial_words import flip_axis
from t2i.training.loading import BatchLoader
from t2i.training.randomness import StepRandom
from t2i.training.schedule import Schedule
from t2i.training.step import discriminator_loss
from t2i.training.text import FrozenText, PreparedText
from t2i.training.trainer import Trainer


@pytest.mark.parametrize(
    "caption, axis",
    [
        ("a red circle to the Left of a box", 3),
        ("right of a star is a ring", 3),
        ("a dog under the table, left of a cat", 3),
        ("a ring at the top and a star at the bottom", 2),
        ("a bird over the sea", 2),
        ("a bright, leftover overcoat", 0),
        ("", 0),
    ],
)
def test_the_axis_along_which_a_caption_is_belied(caption, axis):
    assert flip_axis(caption) == axis


@pytest.mark.parametrize("axes", [[0, 3, 2, 3], [0, 0, 2, 0], [0, 0, 0, 0]], ids=str)
@pytest.mark.parametrize(
    "arch, penalty", [("stylegan2", "none"), ("dfgan", "r1"), ("dfgan", "wgan-gp"), ("dfgan", "ma-gp")]
)
def test_flipped_real_images_are_judged_with_their_own_captions(arch, penalty, axes):
    losses = {"loss__contrastive__weight": 1.0, "loss__word_region__weight": 2.0}
    settings = config(arch, growing=False, penalty=penalty, penalty_every=1, augment=(), **losses)
    trainer = Trainer(settings, 16, FrozenText(), CPU, networks=networks(arch))
    plan, plain, (_, term) = Schedule(settings, 16).plan(0), batch(4), trainer.terms
    without, found = (
        discriminator_loss(trainer.objective, plan, each, StepRandom(0, 0, 4))[0]
        for each in (plain, replace(plain, flip_axis=np.array(axes)))
    )
    tokens = trainer.discriminator.read(plain.text)
    expected = torch.zeros(4)
    for row, axis in enumerate(axes):
        if axis:
            regions = trainer.discriminator.features(plain.images[row : row + 1].flip(axis)).regions
            expected[row] = F.softplus(term.head(regions, tokens)[0, row])
    torch.testing.assert_close(found - without, 2.0 * expected.mean(), rtol=1e-4, atol=1e-6)
    logged = trainer.statistics.read().get("flipped_negatives", 0.0)
    assert logged == pytest.approx(expected.sum().item() / max(np.count_nonzero(axes), 1), rel=1e-5)


def test_batches_say_which_images_only_where_asked(shapes_data):
    text, drawn = PreparedText(shapes_data), []
    text.batch = lambda ids, batch=text.batch: (drawn.append(ids), batch(ids))[1]
    for asked in (False, True):
        drawn.clear()
        loader = BatchLoader(shapes_data, text, 0, "cpu", flips=asked)
        loaded = loader.load(0, 32)
        loader.close()
        captions = [shapes_data.caption(int(number)) for number in drawn[0]]
        expected = [flip_axis(caption) if asked else 0 for caption in captions]
        assert loaded.flip_axis.tolist() == expected
        assert any(expected) == asked
        assert loaded[4:8].flip_axis.tolist() == expected[4:8]
