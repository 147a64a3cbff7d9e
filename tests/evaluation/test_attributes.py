"""The exact reader reads rendered scenes right, blurred and noisy ones too, and finds nothing on a background."""

from dataclasses import replace

import numpy as np
import pytest

from t2i.data.shapes import BACKGROUNDS, Item, Scene, draw, evaluation_scenes, scene_at
from t2i.evaluation.attributes import Reading, read_image, score


def soften(images: list[np.ndarray], sigma: float, noise: float) -> list[np.ndarray]:
    """As a generator draws: Gaussian blur (sigma in pixels), then Gaussian noise (standard deviation)."""
    reach = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    batch = np.stack(images).astype(np.float64)
    for axis in (1, 2):
        wide = np.pad(batch, [(reach, reach) if a == axis else (0, 0) for a in range(4)], mode="edge")
        size = batch.shape[axis]
        batch = sum(k * wide.take(range(i, i + size), axis) for i, k in enumerate(kernel))
    batch += np.random.default_rng(0).normal(0, noise, batch.shape)
    return list(np.clip(np.rint(batch), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def singles() -> list[Scene]:
    return evaluation_scenes(900, seen=True) + evaluation_scenes(100, seen=False)


@pytest.fixture(scope="module")
def doubles() -> list[Scene]:
    return evaluation_scenes(270, seen=True, objects=2) + evaluation_scenes(30, seen=False, objects=2)


@pytest.mark.parametrize(("resolution", "every"), [pytest.param(32, 1, marks=pytest.mark.slow), (64, 3)])
def test_rendered_scenes_are_read_right(singles, doubles, resolution, every):
    scenes = singles[::every] + doubles[::every]
    scores = score([draw(scene, resolution) for scene in scenes], scenes)
    single, double = scores["single"], scores["double"]
    for name in ("colour", "shape", "size", "background", "pair", "all", "alone"):
        assert single[name] >= 0.995, name
    for name in ("colours", "objects", "relation", "background", "all"):
        assert double[name] >= 0.98, name


@pytest.mark.parametrize("resolution", [16, 100, 256])
def test_other_resolutions_are_read_too(singles, resolution):
    scenes = singles[::10]
    single = score([draw(scene, resolution) for scene in scenes], scenes)["single"]
    assert single["colour"] >= 0.98 and single["shape"] >= 0.95 and single["size"] >= 0.98


@pytest.mark.slow
def test_blurred_and_noisy_scenes_are_read_right(singles, doubles):
    scenes = singles[::2] + doubles[::2]
    scores = score(soften([draw(scene, 32) for scene in scenes], sigma=0.7, noise=8), scenes)
    for name in ("colour", "background", "size", "shape", "alone"):
        assert scores["single"][name] >= 0.98, name
    for name in ("objects", "relation", "background"):
        assert scores["double"][name] >= 0.97, name


def test_very_blurred_scenes_keep_colour_size_and_relation(singles, doubles):
    scenes = singles[::4] + doubles[::4]
    scores = score(soften([draw(scene, 32) for scene in scenes], sigma=1.2, noise=8), scenes)
    assert min(scores["single"][name] for name in ("colour", "size", "background")) >= 0.95
    assert min(scores["double"][name] for name in ("colours", "relation")) >= 0.9


def test_two_colours_that_touch_are_two_objects():
    red = Item("red", "square", "medium", (220, 30, 35), 0.342, 0.5)
    for colour, rgb in {"blue": (35, 70, 225), "yellow": (255, 225, 20), "pink": (255, 110, 190)}.items():
        for background in BACKGROUNDS:
            other = Item(colour, "square", "medium", rgb, 0.658, 0.5)
            scene = Scene((red, other), background, BACKGROUNDS[background], "left of")
            for image in (draw(scene, 32), *soften([draw(scene, 32)], 0.7, 8)):
                scores = score([image], [scene])["double"]
                assert scores["objects"] == scores["relation"] == 1, (colour, background)


def test_an_empty_background_is_wrong_in_everything(singles, doubles):
    for background, rgb in BACKGROUNDS.items():
        empty = np.full((32, 32, 3), rgb, np.uint8)
        assert read_image(empty) == Reading(background, ())
        for scenes in (singles[:50], doubles[:50]):
            (scores,) = score([empty] * 50, scenes).values()
            assert sum(value for name, value in scores.items() if name != "count") == 0


def test_noise_is_wrong(singles, doubles):
    rng = np.random.default_rng(0)
    scenes = singles[::20] + doubles[::10]
    fine = rng.integers(0, 256, (len(scenes), 32, 32, 3), dtype=np.uint8)
    coarse = np.repeat(np.repeat(fine[:, :8, :8], 4, axis=1), 4, axis=2)
    grey = np.clip(rng.normal(128, 30, fine.shape), 0, 255).astype(np.uint8)
    for images in (fine, coarse, grey):
        scores = score(images, scenes)
        assert max(scores["single"][name] for name in ("colour", "shape", "pair", "background")) <= 0.2
        assert max(scores["double"][name] for name in ("objects", "relation")) <= 0.05


def test_a_background_in_an_objects_colour_has_no_object_and_no_background(singles):
    red = np.full((32, 32, 3), (220, 30, 35), np.uint8)
    assert read_image(red) == Reading(None, ())


def test_images_of_other_prompts_score_at_chance(singles, doubles):
    rng = np.random.default_rng(0)
    singles, doubles = singles[:450], doubles[:150]
    scenes = singles + doubles
    images = [draw(singles[i], 32) for i in rng.permutation(len(singles))]
    images += [draw(doubles[i], 32) for i in rng.permutation(len(doubles))]
    scores = score(images, scenes)
    for name, chance in {"colour": 1 / 8, "shape": 1 / 8, "size": 1 / 3, "background": 1 / 4}.items():
        assert scores["single"][name] == pytest.approx(chance, abs=0.06), name
    assert scores["single"]["pair"] <= 0.05
    assert scores["double"]["objects"] <= 0.02
    assert scores["double"]["relation"] <= 0.05  # the two colours would have to be right as well


def test_each_wrong_attribute_counts_as_that_one_alone():
    true = evaluation_scenes(1, seed=3)[0]
    item = true.items[0]
    item = replace(item, size="medium", x=0.5, y=0.5)
    true = replace(true, items=(item,))
    colour, rgb = ("green", (30, 150, 50)) if item.colour != "green" else ("red", (220, 30, 35))
    other = "black" if true.background != "black" else "white"
    shape = "square" if item.shape != "square" else "star"
    wrong = {
        "colour": replace(true, items=(replace(item, colour=colour, rgb=rgb),)),
        "shape": replace(true, items=(replace(item, shape=shape),)),
        "size": replace(true, items=(replace(item, size="large"),)),
        "background": replace(true, background=other, background_rgb=BACKGROUNDS[other]),
    }
    for name, scene in wrong.items():
        scores = score([draw(scene, 32)], [true])["single"]
        assert {key for key in wrong if not scores[key]} == {name}
        assert scores["all"] == 0


def test_a_second_object_beside_the_one_asked_for_is_reported(doubles):
    for scene in doubles[:10]:
        reading = read_image(draw(scene, 32))
        wanted = next(item for item in scene.items if item.colour == reading.objects[0].colour)
        alone = Scene((wanted,), scene.background, scene.background_rgb)
        scores = score([draw(scene, 32)], [alone])["single"]
        assert scores["all"] == 1 and scores["alone"] == 0


def test_a_turned_relation_is_wrong_and_swapped_shapes_are_wrong(doubles):
    for scene in doubles[:20]:
        one, other = scene.items
        turned = replace(scene, items=(other, one))
        scores = score([draw(scene, 32)], [turned])["double"]
        assert (scores["objects"], scores["relation"]) == (1, 0)
        if one.shape != other.shape:
            crossed = (replace(one, shape=other.shape), replace(other, shape=one.shape))
            scores = score([draw(scene, 32)], [replace(scene, items=crossed)])["double"]
            assert (scores["objects"], scores["relation"]) == (0, 1)


def test_an_image_reads_alike_whether_scored_alone_or_among_others():
    scenes = [scene_at(0, index) for index in range(20)]
    images = [draw(scene, 32) for scene in scenes]
    readings = [read_image(image) for image in images]
    assert readings == [read_image(image) for image in reversed(images)][::-1]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((32, 32, 3), np.float32),
        np.zeros((32, 16, 3), np.uint8),
        np.zeros((32, 32), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match="image"):
        read_image(image)


def test_counts_must_agree():
    with pytest.raises(ValueError, match="1 images for 2 scenes"):
        score([np.zeros((32, 32, 3), np.uint8)], evaluation_scenes(2))
