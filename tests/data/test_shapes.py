"""The drawn shapes: held-out pairs stay held out, captions are true and varied, images are exact."""

import itertools
import json
import os
import pickle
import random
import re
import subprocess
import sys
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from t2i.data import shapes, shapes_captions
from t2i.data.shapes import Scene, draw, evaluation_scenes, scene_at
from t2i.data.shapes_captions import OPPOSITE, canonical_caption, captions
from t2i.data.sources.shapes import ShapesImage, ShapesSource
from t2i.errors import UsageError

# --- captions, read back ------------------------------------------------------------------------------------

KINDS = {
    "colour": shapes_captions.COLOUR_WORDS,
    "shape": shapes_captions.SHAPE_WORDS,
    "size": shapes_captions.SIZE_WORDS,
    "background": shapes_captions.BACKGROUND_WORDS,
    "relation": shapes_captions.RELATION_WORDS,
    "side": {
        "left of": ("on the left",), "right of": ("on the right",),
        "above": ("at the top",), "below": ("at the bottom",),
    },
}  # fmt: skip
MEANING = {word: (kind, name) for kind, names in KINDS.items() for name, words in names.items() for word in words}
WORDS = re.compile(r"\b(" + "|".join(sorted(map(re.escape, MEANING), key=len, reverse=True)) + r")\b")


def read_caption(caption: str) -> dict:
    """What a caption says: its objects in its own order, each with a size or none, its page, its relation."""
    said = {"objects": [{}], "background": None, "relation": None, "relation_first": False}
    for match in WORDS.finditer(caption):
        kind, name = MEANING[match[0]]
        if kind in ("colour", "shape", "size"):
            current = said["objects"][-1]
            # "the red star is tiny" ends with its size; of two objects a size always opens the next one.
            last = kind == "size" and caption.startswith("the ")
            if {"colour", "shape"} <= current.keys() and not last:
                current = {}
                said["objects"].append(current)
            assert kind not in current, f"{kind} said twice of one object: {caption}"
            current[kind] = name
        elif kind == "side" and said["relation"]:
            assert name == OPPOSITE[said["relation"]], caption
        else:
            kind = "relation" if kind == "side" else kind
            assert said[kind] is None, f"{kind} said twice: {caption}"
            said["relation_first"] |= kind == "relation" and not said["objects"][0]
            said[kind] = name
    return said


def assert_true_of(caption: str, scene: Scene) -> None:
    said = read_caption(caption)
    told, true = said["objects"], list(scene.items)
    assert len(told) == len(true), caption
    relation = scene.relation
    if len(true) == 2:
        if told[0]["colour"] != true[0].colour:  # told from the other object
            true, relation = true[::-1], OPPOSITE[relation]
        assert said["relation"] == (OPPOSITE[relation] if said["relation_first"] else relation), caption
    for one, item in zip(told, true):
        assert (one["colour"], one["shape"]) == item.pair, caption
        assert one.get("size", item.size) == item.size, caption
    assert said["background"] in (None, scene.background), caption


def test_every_caption_is_true_of_its_image():
    for split in shapes.SPLITS:
        for record in ShapesSource(1500, split):
            for caption in record.captions:
                assert_true_of(caption, record.image.scene)


def test_the_canonical_caption_names_everything():
    for objects, seen in itertools.product((1, 2), (True, False)):
        for scene in evaluation_scenes(64, seen, objects):
            caption = canonical_caption(scene)
            assert_true_of(caption, scene)
            said = read_caption(caption)
            assert said["background"]
            assert all(one.keys() == {"size", "colour", "shape"} for one in said["objects"])
    assert re.fullmatch(
        r"a (small|medium|large) \w+ \w+ on a \w+ background", canonical_caption(evaluation_scenes(1)[0])
    )


def test_every_image_has_three_different_clean_captions():
    for record in ShapesSource(500):
        assert len(set(record.captions)) == 3
        for caption in record.captions:
            assert caption == " ".join(caption.split()) and "{" not in caption
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption), caption


def test_wording_varies_more_than_2000_captions_in_2000_records():
    assert len({caption for record in ShapesSource(2000) for caption in record.captions}) > 5000


def test_some_captions_leave_out_size_or_background_and_some_do_not():
    said = [read_caption(c) for record in ShapesSource(300) for c in record.captions]
    for share in (
        np.mean([one["background"] is not None for one in said]),
        np.mean(["size" in one["objects"][0] for one in said]),
    ):
        assert 0.45 < share < 0.75


def test_no_word_means_two_things_and_every_name_has_words():
    counts = Counter(word for names in KINDS.values() for words in names.values() for word in words)
    assert set(counts.values()) == {1}
    assert tuple(shapes_captions.COLOUR_WORDS) == tuple(shapes.COLOURS)
    assert tuple(shapes_captions.SHAPE_WORDS) == shapes.SHAPES
    assert tuple(shapes_captions.SIZE_WORDS) == tuple(shapes.SIZES)
    assert tuple(shapes_captions.BACKGROUND_WORDS) == tuple(shapes.BACKGROUNDS)
    assert tuple(shapes_captions.RELATION_WORDS) == shapes.RELATIONS


# --- held-out pairs --------------------------------------------------------------------------------------------


def test_held_out_pairs_are_in_no_training_image_and_in_no_caption_of_one():
    for record in ShapesSource(20_000):
        assert record.attributes["unseen"] is False
        for item in record.attributes["items"]:
            assert (item["colour"], item["shape"]) not in shapes.HELD_OUT_PAIRS
        for caption in record.captions:
            for one in read_caption(caption)["objects"]:
                assert (one["colour"], one["shape"]) not in shapes.HELD_OUT_PAIRS, caption


def test_every_pair_that_is_not_held_out_trains_and_so_does_every_colour_and_shape():
    shown = Counter(item.pair for index in range(5000) for item in scene_at(0, index).items)
    assert set(shown) == set(shapes.SEEN_PAIRS)
    assert min(shown.values()) > 50
    for held in ([pair[0] for pair in shapes.HELD_OUT_PAIRS], [pair[1] for pair in shapes.HELD_OUT_PAIRS]):
        assert len(set(held)) == len(held) == 8  # each colour and each shape is missing in one pair only


def test_half_of_the_single_objects_in_val_are_unseen_pairs_and_say_so():
    singles = []
    for record in ShapesSource(1000, "val"):
        pairs = [(item["colour"], item["shape"]) for item in record.attributes["items"]]
        assert record.attributes["unseen"] is any(pair in shapes.HELD_OUT_PAIRS for pair in pairs)
        if len(pairs) == 1:
            singles.append(record.attributes["unseen"])
        else:
            assert not record.attributes["unseen"]
    assert 600 < len(singles) < 800
    assert 0.4 < np.mean(singles) < 0.6


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("seen", [True, False])
def test_evaluation_scenes_show_every_pair_equally_often(seen, objects):
    pairs = shapes.SEEN_PAIRS if seen else shapes.UNSEEN_PAIRS
    scenes = evaluation_scenes(len(pairs) * 3, seen, objects)
    assert set(Counter(scene.items[0].pair for scene in scenes).values()) == {3}
    assert all(len(scene.items) == objects and scene.unseen is not seen for scene in scenes)
    assert all(item.pair in pairs for scene in scenes for item in scene.items)
    assert scenes == evaluation_scenes(len(pairs) * 3, seen, objects)
    assert scenes != evaluation_scenes(len(pairs) * 3, seen, objects, seed=1)


# --- images -----------------------------------------------------------------------------------------------

DIGEST = """
import hashlib, sys
from t2i.data.sources.shapes import ShapesSource
digest = hashlib.sha256()
for split in ("train", "val"):
    for record in ShapesSource(40, split, seed=7):
        digest.update(repr((record.key, record.captions, record.attributes)).encode())
        digest.update(record.image.load(32).tobytes() + record.image.load(100).tobytes())
assert "torch" not in sys.modules
print(digest.hexdigest())
"""


def test_another_process_draws_and_writes_the_same_bytes():
    runs = [
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1] and len(runs[0].strip()) == 64


def test_splits_seeds_and_indices_all_give_other_scenes():
    scenes = [scene_at(seed, index, split) for seed in (0, 1) for split in shapes.SPLITS for index in range(200)]
    assert len(set(scenes)) == len(scenes)


def test_a_scene_is_the_same_image_at_every_resolution():
    for index in range(30):
        scene = scene_at(0, index)
        small = draw(scene, 32).astype(float)
        for factor in (2, 4, 8):
            large = draw(scene, 32 * factor).astype(float)
            averaged = large.reshape(32, factor, 32, factor, 3).mean(axis=(1, 3))
            assert np.abs(averaged - small).mean() < 0.5
            assert np.abs(averaged - small).max() < 40  # a rim pixel's share is known to a sixteenth


@pytest.mark.parametrize("resolution", [16, 17, 100, 256])
def test_any_resolution_from_16_to_256_can_be_drawn(resolution):
    image = ShapesImage(scene_at(0, 1)).load(resolution)
    assert image.shape == (resolution, resolution, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("resolution", [0, 8, 15, 257])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(UsageError, match="16 to 256"):
        draw(scene_at(0, 1), resolution)


def test_objects_lie_on_the_page_apart_from_each_other_and_as_the_relation_says():
    relations = Counter()
    for index in range(3000):
        scene = scene_at(0, index)
        boxes = []
        for item in scene.items:
            width, height = shapes.extent(item.shape, item.size)
            box = (item.x - width / 2, item.y - height / 2, item.x + width / 2, item.y + height / 2)
            assert min(box) > shapes.MARGIN - 0.001 and max(box) < 1 - shapes.MARGIN + 0.001
            boxes.append(box)
        if len(boxes) == 2:
            one, other = boxes
            gaps = {
                "left of": other[0] - one[2], "right of": one[0] - other[2],
                "above": other[1] - one[3], "below": one[1] - other[3],
            }  # fmt: skip
            assert gaps[scene.relation] > shapes.GAP - 0.001
            assert scene.items[0].colour != scene.items[1].colour
        relations[scene.relation] += 1
    assert 0.65 < relations.pop(None) / 3000 < 0.75
    assert set(relations) == set(shapes.RELATIONS) and min(relations.values()) > 150


def test_colours_are_far_apart():
    palette = {**shapes.COLOURS, **shapes.BACKGROUNDS}
    for one, other in itertools.combinations(palette.values(), 2):
        assert np.linalg.norm(np.subtract(one, other)) >= 100


def test_an_object_covers_its_size_whatever_its_shape():
    for scene in evaluation_scenes(112):
        item = scene.items[0]
        contrast = np.linalg.norm(draw(scene, 256) - np.array(scene.background_rgb, float), axis=2)
        full = np.linalg.norm(np.subtract(item.rgb, scene.background_rgb))
        assert (contrast / full).mean() == pytest.approx(shapes.SIZES[item.size], rel=0.03)


# --- scenes and the source ----------------------------------------------------------------------------------


def test_a_scene_can_be_written_as_json_and_an_image_survives_pickling():
    for record in ShapesSource(50, "val"):
        assert json.loads(json.dumps(record.attributes)) == record.image.scene.to_dict()
        assert pickle.loads(pickle.dumps(record.image)) == record.image


def test_a_source_of_a_million_is_walked_in_flat_memory():
    source = ShapesSource(1_000_000)
    assert len(source) == 1_000_000
    assert source.record(999_999).key == "train-999999"
    tracemalloc.start()
    for record in itertools.islice(source, 1000):
        record.image.load(16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_record_depends_on_its_number_and_not_on_the_count_or_the_walk():
    walked = list(ShapesSource(20, "val", seed=3))
    assert walked == list(ShapesSource(1000, "val", seed=3).record(i) for i in range(20))
    assert [record.key for record in walked[:2]] == ["val-000000", "val-000001"]


def test_the_source_describes_itself_without_paths():
    source = ShapesSource(5, "val", seed=2)
    assert source.describe() == {"kind": "shapes", "count": 5, "split": "val", "seed": 2}
    assert (source.name, source.split, source.notes) == ("shapes", "val", [])


@pytest.mark.parametrize(
    "call",
    [
        lambda: ShapesSource(0),
        lambda: ShapesSource(5, "test"),
        lambda: evaluation_scenes(0),
        lambda: evaluation_scenes(5, objects=3),
    ],
)
def test_bad_options_are_refused(call):
    with pytest.raises(UsageError):
        call()


def test_captions_can_be_asked_for_in_any_number():
    assert len(set(captions(scene_at(0, 5), random.Random(0).random, count=20))) == 20
