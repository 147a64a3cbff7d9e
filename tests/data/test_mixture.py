"""Several data sets as one: exact shares, a pure order, captions that are the same, and what does not go together."""

import collections
import json

import numpy as np
import pytest
from hash_encoder import HashEncoder
from short_runs import CPU, assert_same_bits, config, final_tensors, first_batch, start

from t2i.cli import run as t2i
from t2i.data.mixture import Mixture, open_datasets
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import PreparedDataset
from t2i.data.records import Framing
from t2i.data.sources.shapes import ShapesSource
from t2i.errors import UsageError, UserError
from t2i.pixels import PixelFormat
from t2i.training.loop import train
from t2i.training.run import Run, find_data


def make(root, name, count, seed=0, encoder=None, **options):
    out = root / name
    prepare(
        ShapesSource(count, seed=seed), out, encoder or HashEncoder(),
        PrepareOptions(**{"resolution": 16, "workers": 1, **options}),
    )  # fmt: skip
    return PreparedDataset(out)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return make(root, "one", 20), make(root, "two", 33, seed=5)


@pytest.mark.parametrize("weights", [(1, 1), (2, 1), (3, 5), (1, 40)])
def test_shares_are_exact_whatever_the_batch(sets, weights):
    mixture = Mixture(sets, weights)
    cycle = sum(weights)
    order = mixture.order(0, 6 * cycle, 7)
    from_two = order >= len(sets[0])
    assert (from_two.reshape(-1, cycle).sum(1) == weights[1]).all()
    pieces = [mixture.order(start, 3, 7) for start in range(0, 6 * cycle, 3)]
    assert np.array_equal(np.concatenate(pieces)[: len(order)], order), "a pure function of the position"
    assert not np.array_equal(mixture.order(0, 6 * cycle, 8), order)


def test_within_a_part_each_image_comes_once_an_epoch(sets):
    mixture = Mixture(sets, (2, 1))
    order = mixture.order(0, 30, 3)
    counted = collections.Counter(order[order < 20].tolist())
    assert set(counted) == set(range(20)) and set(counted.values()) == {1}


def test_it_reads_like_its_parts(sets):
    one, two = sets
    mixture = Mixture(sets)
    indices = np.array([0, 19, 20, 52, 3])
    assert len(mixture) == 53
    expected = [one.images([0])[0], one.images([19])[0], two.images([0])[0], two.images([32])[0], one.images([3])[0]]
    assert np.array_equal(mixture.images(indices), np.stack(expected))
    for index, (part, own) in zip(indices, [(one, 0), (one, 19), (two, 0), (two, 32), (one, 3)]):
        texts = [mixture.caption(caption) for caption in mixture.caption_ids(int(index))]
        assert texts == [part.caption(int(caption)) for caption in part.caption_ids(own)]
    assert mixture.caption_counts(indices).tolist() == [3] * 5
    ids = np.array([0, mixture.caption_count - 1, one.caption_count])
    for found, caption in zip(mixture.tokens(ids), ids):
        (alone,) = mixture.tokens([caption])
        assert np.array_equal(found, alone)
    assert np.array_equal(mixture.tokens([one.caption_count])[0], two.tokens([0])[0])
    assert len(list(mixture.records())) == 53


def test_equal_captions_of_two_sets_are_one(sets):
    one, _ = sets
    mixture = Mixture([one, one])
    for index in range(20):
        assert np.array_equal(mixture.caption_ids(index), mixture.caption_ids(index + 20))
    batch = first_batch(mixture, count=16)
    images = mixture.order(0, 16, first_batch_seed())
    same = (images[:, None] - images[None]) % 20 == 0
    assert (batch.belongs.numpy()[same]).all(), "no caption is wrong for an image that has it in the other set"


def first_batch_seed():
    from t2i.training.randomness import derive_seed

    return derive_seed(0, "order")


def test_statistics_are_those_of_what_a_run_sees(sets):
    one, two = sets
    assert np.allclose(Mixture([one, one]).text_statistics(), one.text_statistics(), atol=1e-6)
    mean = (2 * one.text_statistics()[0] + two.text_statistics()[0]) / 3
    assert np.allclose(Mixture(sets, (2, 1)).text_statistics()[0], mean, atol=1e-6)


@pytest.mark.parametrize("weights, said", [
    ((1,), "1 of them for 2 data sets"), ((0, 1), "--weights 0 1: whole numbers from 1 on"),
    ((1, 5000), "at most 1000 to 1"),
])  # fmt: skip
def test_weights_that_are_none(sets, weights, said):
    with pytest.raises(UsageError, match=said):
        Mixture(sets, weights)


def test_what_does_not_go_together_is_one_line(sets, tmp_path):
    one, _ = sets
    large = make(tmp_path, "large", 8, resolution=32)
    wide = make(tmp_path, "wide", 8, framing=Framing(form=PixelFormat(aspect=(2, 1))))
    stranger = HashEncoder()
    stranger.sha256 = "1" * 64
    other = make(tmp_path, "other", 8, encoder=stranger)
    for second, said in ((large, "16 px, .* 32 px"), (wide, "16 px, .* 16 x 8 px"), (other, "different text encoders")):
        with pytest.raises(UserError, match=said):
            Mixture([one, second])
    with pytest.raises(UsageError, match="--weights is for several data sets"):
        open_datasets([one.path], [1])


def test_a_run_resumes_to_the_bit_and_finds_its_parts(sets, tmp_path):
    mixture = Mixture(sets, (2, 1))
    whole, _ = start(config("dfgan"), mixture, tmp_path / "whole")
    run = Run.begin(tmp_path / "stopped", config("dfgan"), mixture, CPU)
    seen = iter(range(4))
    train(config("dfgan"), mixture, run, CPU, stop=lambda: next(seen) == 3)
    found = find_data(mixture.fingerprint, run.folder)
    assert isinstance(found, Mixture) and found.weights == (2, 1)
    train(config("dfgan"), found, run, CPU, resume=True)
    assert_same_bits(final_tensors(run), final_tensors(whole))


def test_the_command_line(sets, tmp_path, monkeypatch, capfd, minilm_data):
    monkeypatch.chdir(tmp_path)
    small = "[model.generator]\nnf = 4\n[model.discriminator]\nkind = 'dfgan'\nnf = 4\n[loss.energy]\nfeatures = 0.0\n"
    (tmp_path / "small.toml").write_text(small + "[schedule]\nwarm_up_kimg = 0.0\n")
    common = ["--arch", "dfgan", "--config", "small.toml", "--kimg", "0.016", "--batch", "8"]
    assert t2i(["train", str(minilm_data), str(minilm_data), "--weights", "4", "2", *common]) == 0
    run = next((tmp_path / "runs").iterdir())
    facts = json.loads((run / "config.json").read_text())["data"]
    assert facts["weights"] == [2, 1] and len(facts["parts"]) == 2 and facts["pictures"] == 96
    assert t2i(["train", "--resume", str(run), "--kimg", "0.032"]) == 0
    assert "32 images seen" in capfd.readouterr().out
    assert t2i(["train", "--resume", str(run), "--weights", "1", "1"]) == 2
    assert t2i(["train", str(minilm_data), "--weights", "1", *common]) == 2
