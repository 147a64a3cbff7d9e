"""Real images mirrored by chance (augment = ["flip"]): never one of which a caption speaks of sides."""

import numpy as np
import pytest
import torch
from hash_encoder import HashEncoder
from listed_source import Listed

from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import PreparedDataset
from t2i.data.spatial_words import speaks_of_sides
from t2i.training.loading import BatchLoader, gather_images
from t2i.training.text import PreparedText


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    captions = ["a red cross on the Left", "RIGHT of it", "a copyright sign", "leftover food", "above the sea", "a cat"]
    entries = [(f"{number:02d}", ["plain", captions[number % 6]]) for number in range(48)]
    out = tmp_path_factory.mktemp("sides") / "out"
    prepare(Listed(entries), out, HashEncoder(), PrepareOptions(resolution=16, workers=1))
    return PreparedDataset(out)


def batches(data, resident=False, **how):
    images = gather_images(data, torch.device("cpu")) if resident else None
    loader = BatchLoader(data, PreparedText(data), 0, "cpu", resident=images, **how)
    try:
        return torch.cat([loader.load(seen, 16).images for seen in range(0, 480, 16)])
    finally:
        loader.close()


@pytest.mark.parametrize("resident", [False, True])
def test_half_of_the_images_are_mirrored_and_none_of_which_a_caption_speaks_of_sides(data, resident):
    plain, mirrored = batches(data, resident), batches(data, resident, mirror=True)
    turned = (plain.flip(3) == mirrored).flatten(1).all(1) & (plain != mirrored).flatten(1).any(1)
    same = (plain == mirrored).flatten(1).all(1)
    assert (turned | same).all()
    everything = torch.from_numpy(data.images(range(48))).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    found = [int(np.flatnonzero((everything == image).flatten(1).all(1))[0]) for image in plain]
    sides = torch.tensor(
        [any(speaks_of_sides(data.caption(int(i))) for i in data.caption_ids(number)) for number in found]
    )
    assert sides.float().mean() > 0.2 and not turned[sides].any()
    symmetric = (plain == plain.flip(3)).flatten(1).all(1)
    assert 0.35 < turned[~sides & ~symmetric].float().mean() < 0.65
    assert torch.equal(mirrored, batches(data, not resident, mirror=True))


def test_words_of_sides():
    assert all(map(speaks_of_sides, ("on the left", "Right!", "the left-hand one")))
    assert not any(map(speaks_of_sides, ("leftover", "bright", "above", "copyright")))
