"""Every image once an epoch, in an order that (seed, position) alone decides."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from t2i.data.sampler import BLOCK, choice_at, image_at, mix, run_of_images


def epoch(size, seed=0, number=0):
    return image_at(np.arange(number * size, (number + 1) * size), size, seed)


@pytest.mark.parametrize("size", [*range(1, 70), 97, 255, 256, 257, 1009, 4096, 65_537])
def test_every_image_comes_once_an_epoch(size):
    for number in (0, 1, 1000):
        assert np.array_equal(np.sort(epoch(size, 7, number)), np.arange(size))


@settings(max_examples=150)
@given(size=st.integers(1, 5000), seed=st.integers(0, 2**64 - 1), number=st.integers(0, 10**9))
def test_every_image_comes_once_whatever_size_seed_and_epoch(size, seed, number):
    assert np.array_equal(np.sort(epoch(size, seed, number)), np.arange(size))


@settings(max_examples=100)
@given(
    size=st.integers(1, 10**12),
    seed=st.integers(0, 2**64 - 1),
    positions=st.lists(st.integers(0, 2**62), min_size=1, max_size=50),
)
def test_a_image_depends_on_its_position_alone(size, seed, positions):
    """Not on the batch it is drawn in: any rank can ask for any share of a batch."""
    together = image_at(np.array(positions), size, seed)
    alone = [int(image_at(np.array([position]), size, seed)[0]) for position in positions]
    assert together.dtype == np.int64 and together.tolist() == alone
    assert together.min() >= 0 and together.max() < size


@settings(max_examples=50)
@given(first=st.integers(0, 10**12), count=st.integers(1, 2 * BLOCK), size=st.integers(1, 10**9))
@example(first=BLOCK - 1, count=1, size=10)
@example(first=BLOCK - 1, count=2, size=10)
@example(first=BLOCK, count=BLOCK, size=10)
def test_a_run_of_images_is_what_its_positions_say(first, count, size):
    assert np.array_equal(run_of_images(first, count, size, 7), image_at(np.arange(first, first + count), size, 7))


def test_a_batch_may_reach_over_the_end_of_an_epoch():
    whole = np.concatenate([epoch(10, 3, 0), epoch(10, 3, 1)])
    assert np.array_equal(image_at(np.arange(7, 15), 10, 3), whole[7:15])


def test_the_order_is_the_same_on_every_machine():
    """Frozen: a run that goes on with another version of t2i must not see an image twice."""
    assert epoch(10, 0).tolist() == [3, 2, 7, 9, 1, 5, 6, 4, 8, 0]
    assert choice_at(np.arange(10), np.full(10, 5), 0).tolist() == [3, 4, 3, 4, 3, 3, 0, 4, 1, 2]


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {tuple(epoch(50, seed, number)) for seed in range(20) for number in range(20)}
    assert len(orders) == 400


def test_the_order_shows_no_trace_of_the_sources_order():
    """Neighbours in the source (a class a folder, frames of a film) come apart; no place is preferred."""
    size = 1000
    orders = np.stack([epoch(size, 1, number) for number in range(200)]).astype(float)
    ramp = np.arange(size)
    correlations = np.array([np.corrcoef(ramp, order)[0, 1] for order in orders])
    assert abs(correlations.mean()) < 0.01 and correlations.std() == pytest.approx(size**-0.5, rel=0.2)
    follows = (np.diff(orders, axis=1) == 1).sum(1)  # once an epoch by chance
    assert 0.6 < follows.mean() < 1.4
    # The mean index at each place, over the epochs: normal around the middle.
    means = (orders.mean(0) - (size - 1) / 2) / (size / np.sqrt(12 * len(orders)))
    assert means.std() == pytest.approx(1, abs=0.12) and abs(means).max() < 5


@pytest.mark.parametrize("size", [2, 3, 4])
def test_small_sets_are_shuffled_too(size):
    """Each order comes about as often as any other."""
    orders, counts = np.unique([epoch(size, 5, number) for number in range(2400)], axis=0, return_counts=True)
    expected = 2400 / {2: 2, 3: 6, 4: 24}[size]
    assert len(orders) == 2400 / expected
    assert abs(counts - expected).max() < 6 * np.sqrt(expected)


def test_a_billion_images_cost_no_memory():
    tracemalloc.start()
    try:
        drawn = image_at(np.arange(10**12, 10**12 + 4096), 10**9, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(np.unique(drawn)) > 4090 and drawn.max() < 10**9  # two epochs meet here: a few may come twice
    assert abs(drawn.mean() / 10**9 - 0.5) < 0.03
    assert peak < 2**21


def test_every_caption_of_a_image_is_as_likely():
    for count in (1, 2, 3, 5, 7, 100):
        choices = choice_at(np.arange(20_000), np.full(20_000, count), 1)
        assert choices.dtype == np.int64
        shares = np.bincount(choices, minlength=count)
        expected = 20_000 / count
        assert len(shares) == count and ((shares - expected) ** 2 / expected).sum() < count + 6 * np.sqrt(2 * count)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 2**62), st.integers(1, 2**31)), min_size=1, max_size=50), st.integers(0, 2**63)
)
def test_a_choice_is_below_its_count_and_depends_on_its_position_alone(pairs, seed):
    positions, counts = np.array(pairs).T
    choices = choice_at(positions, counts, seed)
    assert (choices >= 0).all() and (choices < counts).all()
    assert choices[-1] == choice_at(positions[-1:], counts[-1:], seed)[0]


def test_the_caption_changes_from_epoch_to_epoch_and_not_with_the_image():
    size, epochs = 97, 60
    positions = np.arange(size * epochs)
    images = image_at(positions, size, 0)
    choices = choice_at(positions, np.full(len(positions), 5), 0)
    table = np.zeros((size, 5), int)
    np.add.at(table, (images, choices), 1)
    assert (table > 0).all()


def test_mix_is_splitmix64():
    """The first outputs for seed 0, as published with the algorithm."""
    state = np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert [hex(value) for value in mix(state).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]
