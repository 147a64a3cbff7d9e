"""Which images of a source prepare takes: fractions, limits, training and validation parts."""

import pytest
from hash_encoder import HashEncoder
from listed_source import Listed, listed

from t2i.data import image_shards
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import PreparedDataset


def keys(path):
    return [record["key"] for record in PreparedDataset(path).records()]


def test_a_fraction_is_exact_and_does_not_depend_on_the_order(tmp_path):
    entries = listed(57)
    chosen = {}
    for name, order in (("a", entries), ("again", entries), ("turned", entries[::-1])):
        options = PrepareOptions(resolution=16, workers=1, fraction=0.3)
        prepare(Listed(order), tmp_path / name, HashEncoder(), options)
        chosen[name] = keys(tmp_path / name)
    assert len(chosen["a"]) == round(57 * 0.3)
    assert chosen["a"] == chosen["again"] == chosen["turned"][::-1] == sorted(chosen["a"])
    assert chosen["a"] != [key for key, _ in entries[: len(chosen["a"])]]


def selected(entries, **options):
    chosen, total = image_shards.select(Listed(entries), PrepareOptions(**options))
    found = [entry.key for entry in chosen]
    assert len(found) == total
    return found


@pytest.mark.parametrize("count", [2, 3, 10, 101])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_training_and_validation_parts_are_disjoint_and_complete(count, share):
    entries = listed(count)
    train = selected(entries, val_fraction=share, part="train")
    held_out = selected(entries, val_fraction=share, part="val")
    assert sorted(train + held_out) == [key for key, _ in entries]
    assert train and held_out
    assert abs(len(held_out) - count * share) <= 1


def test_larger_fractions_hold_the_smaller_ones_whatever_is_held_out():
    entries = listed(400)
    quarter, half = selected(entries, fraction=0.25), selected(entries, fraction=0.5)
    assert (len(quarter), len(half)) == (100, 200) and set(quarter) < set(half)
    for share in (0.1, 0.2):
        training = selected(entries, fraction=0.25, val_fraction=share, part="train")
        assert len(training) == round(400 * (1 - share) * 0.25) and set(training) <= set(quarter)


def test_a_tiny_fraction_keeps_one_and_a_limit_takes_the_first():
    assert len(selected(listed(10), fraction=0.001)) == 1
    assert selected(listed(10), limit=3) == ["key-0000", "key-0001", "key-0002"]
    assert len(selected(listed(10), limit=30)) == 10
    assert selected(listed(100), fraction=0.5, limit=3) == selected(listed(100), fraction=0.5)[:3]
    assert selected([], fraction=0.5) == selected([], part="val", val_fraction=0.5) == []
