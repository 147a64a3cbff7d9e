"""Variety: 0 where every seed gives one image, 1 where captions say nothing, and the data's own beside."""

import numpy as np
import pytest

from t2i.evaluation import variety
from t2i.evaluation.variety import SEEDS, Variety, ratios, shared_captions


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    monkeypatch.setattr(variety, "CAPTIONS", 100)


class Colours:
    """A feature network: the mean colour, and a 1 beside."""

    label = "colours"

    def __call__(self, images):
        means = images.reshape(len(images), -1, 3).mean(1) / 255
        return np.concatenate([means, np.ones((len(images), 1))], axis=1)


class Split:
    """`images` images, `shared` captions that two of them have each, and one caption of its own for each."""

    name, split = "made", "val"

    def __init__(self, images=60, shared=20, split="val"):
        self.count, self.shared, self.split = images, shared, split
        self.pixels = np.random.default_rng(1).integers(0, 256, (images, 8, 8, 3), np.uint8)

    def __len__(self):
        return self.count

    def caption_ids(self, image):
        own = [1000 + image]
        return np.array([*own, image // 2] if image // 2 < self.shared else own)

    def rgb(self, rows):
        return self.pixels[rows]


class Drawn:
    """A sampler: an image is a function of its caption and seed."""

    def __init__(self, colour):
        self.colour = colour

    def draw_dataset(self, data, captions, seeds):
        for caption, seed in zip(captions.tolist(), seeds.tolist()):
            yield 0, np.broadcast_to(self.colour(caption, seed), (1, 8, 8, 3)).astype(np.uint8)


def random_colour(*key):
    return np.random.default_rng(key).integers(0, 256, 3)


@pytest.mark.parametrize("colour, expected", [
    (lambda caption, seed: random_colour(caption), 0.0),
    (lambda caption, seed: random_colour(caption, seed), 1.0),
    (lambda caption, seed: random_colour(seed), None),
])  # fmt: skip
def test_seeds_and_captions(colour, expected):
    data = Split()
    score = Variety.of(data, None, Colours(), np.arange(60))
    values = [each.value for each in score.scores(Drawn(colour))]
    assert [each.ceiling for each in score.scores(Drawn(colour))] == list(score.own)
    if expected is None:  # captions that say nothing: images of other captions, with the same seed, do not differ
        assert all(1e3 < value < np.inf for value in values)
    else:
        assert values == pytest.approx([expected, expected], abs=0.3)


def test_the_data_s_own_is_that_of_images_that_share_a_caption():
    data = Split()
    shared = shared_captions(data)
    assert {c: rows.tolist() for c, rows in shared.items()} == {c: [2 * c, 2 * c + 1] for c in range(20)}
    groups = [data.rgb(rows) for rows in shared.values()]
    assert Variety.of(data, None, Colours(), np.arange(60)).own == ratios(Colours(), groups)
    assert ratios(Colours(), [np.repeat(group[:1], 2, 0) for group in groups]) == (pytest.approx(0, abs=1e-6), 0)


@pytest.mark.parametrize("shared, in_train, drawn_of", [(20, 25, "train"), (20, 5, "val"), (120, 125, "val")])
def test_where_the_evaluated_split_has_few_shared_captions_the_training_split_has_more(shared, in_train, drawn_of):
    data, train = Split(300, shared), Split(300, in_train, "train")
    score = Variety.of(data, train, Colours(), np.arange(60))
    assert score.data.split == drawn_of
    assert len(score.captions) == min({"val": shared, "train": in_train}[drawn_of], 100)


def test_where_no_captions_are_shared_there_is_a_value_but_none_of_the_data():
    score = Variety.of(Split(shared=2), None, Colours(), np.array([5, 5, 3]))
    assert score.own is None and score.captions.tolist() == [3, 5]
    for each in score.scores(Drawn(lambda caption, seed: random_colour(caption, seed))):
        assert each.ceiling is None and each.samples == 2 * SEEDS and each.value > 0
