"""Captions that speak of sides, and the pictures that belie them."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_models import build, make_batch, make_objective

from t2i.data.spatial_words import mirror_axis
from t2i.losses.contrastive import ContrastiveHead, PlacesHead
from t2i.losses.penalties import PENALTIES
from t2i.models import get_architecture
from t2i.training.loading import BatchLoader
from t2i.training.randomness import StepRandom
from t2i.training.text import PreparedText


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
    assert mirror_axis(caption) == axis


def test_mirrored_pictures_are_judged_with_their_own_captions():
    architecture = get_architecture("stylegan2")
    generator, discriminator = build(architecture)
    objective = make_objective(architecture, generator, discriminator)
    _, channels, side, _ = discriminator.features(torch.zeros(1, 3, 32, 32)).regions.shape
    objective.places = PlacesHead(channels, discriminator.pooler.read_width, side)
    objective.contrast_weight = 2.0
    batch = make_batch(4)
    read, axes = discriminator.read(batch.text), np.array([0, 3, 2, 3])
    found = objective._mirrored(batch.images, read, axes)
    assert found[0] == 0
    for row, axis in ((1, 3), (2, 2), (3, 3)):
        regions = discriminator.features(batch.images[row : row + 1].flip(axis)).regions
        expected = 2.0 * F.softplus(objective.places(regions, read)[0, row])
        torch.testing.assert_close(found[row], expected)
    assert (objective._mirrored(batch.images, read, np.zeros(4)) == 0).all()


@pytest.mark.parametrize("penalty", ["r1", "wgan-gp"])
def test_pictures_that_are_mirrored_are_the_real_ones(penalty, monkeypatch):
    architecture = get_architecture("dfgan")
    generator, discriminator = build(architecture)
    objective = make_objective(architecture, generator, discriminator)
    objective.penalty, objective.drawer.augments = PENALTIES[penalty], ()
    objective.contrast = ContrastiveHead(32, discriminator.pooler.out_width)
    objective.places = PlacesHead(32, discriminator.pooler.read_width)
    batch, given = dataclasses.replace(make_batch(4), mirror=np.array([0, 3, 2, 3])), []
    monkeypatch.setattr(objective, "_mirrored", lambda images, *_: given.append(images) or torch.zeros(4))
    objective._discriminator_loss(batch, 0, StepRandom(0, 0, 4))
    torch.testing.assert_close(given[0], batch.images)


def test_batches_say_which_pictures_only_where_asked(shapes_data):
    text, drawn = PreparedText(shapes_data), []
    text.batch = lambda ids, batch=text.batch: (drawn.append(ids), batch(ids))[1]
    for asked in (False, True):
        drawn.clear()
        loader = BatchLoader(shapes_data, text, 0, "cpu", mirrors=asked)
        batch = loader.load(0, 32)
        loader.close()
        captions = [shapes_data.caption(int(number)) for number in drawn[0]]
        expected = [mirror_axis(caption) if asked else 0 for caption in captions]
        assert batch.mirror.tolist() == expected
        assert any(expected) == asked
        assert batch[4:8].mirror.tolist() == expected[4:8]


def test_pieces_of_a_batch_have_its_gradients():
    architecture = get_architecture("dfgan")
    generator, discriminator = (network.double() for network in build(architecture))
    objective = make_objective(architecture, generator, discriminator)
    objective.places = PlacesHead(32, discriminator.pooler.read_width).double()
    axes = np.array([3, 0, 2, 2, 0, 3, 3, 0])
    images = make_batch(8).images.double()
    text = make_batch(8).text
    found = {}
    for size in (8, 2):
        discriminator.zero_grad()
        for start in range(0, 8, size):
            rows = slice(start, start + size)
            read = discriminator.read(text.to("cpu", torch.float64))[rows]
            (objective._mirrored(images[rows], read, axes[rows]).mean() * size / 8).backward()
        found[size] = {n: p.grad.clone() for n, p in discriminator.named_parameters() if p.grad is not None}
    assert found[8].keys() == found[2].keys()
    for name, gradient in found[8].items():
        torch.testing.assert_close(found[2][name], gradient, msg=name)
