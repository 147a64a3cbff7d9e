"""Images that are the same but for a crop or a recompression: found, and kept in one part."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.data import near_duplicates
from t2i.data.near_duplicates import SAME, fine_distance, group, nearest, thumbnails
from t2i.data.prepared import PreparedDataset


def recropped(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A crop of 82 % to all of the side, enlarged, and a JPEG of quality 40 to 95 of it."""
    side = int(random.integers(round(0.82 * len(image)), len(image)))
    left, top = random.integers(0, len(image) - side + 1, 2)
    crop = Image.fromarray(image).crop((left, top, left + side, top + side))
    encoded = io.BytesIO()
    crop.resize(image.shape[:2], Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=int(random.integers(40, 95)))
    return np.asarray(Image.open(encoded).convert("RGB"))


def textured(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """Images of smooth noise, each another one: uint8 [count, side, side, 3]."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) for image in noise]
    )


def test_recrops_and_recompressions_are_found_and_others_are_not():
    random = np.random.default_rng(1)
    images = textured(120)
    planted = np.stack([recropped(image, random) for image in images[:20]])
    found = nearest(thumbnails(planted), thumbnails(images))
    assert (found.numbers == np.arange(20)).mean() >= 0.95 and (found.distances < SAME).mean() >= 0.95
    others = nearest(thumbnails(textured(20, seed=2)), thumbnails(images))
    assert (others.distances > SAME).all()
    turned = nearest(thumbnails(images[:5]), thumbnails(planted))  # the image that is there may be the crop
    assert (turned.numbers == np.arange(5)).all() and (turned.distances < SAME).sum() >= 4


def test_an_image_is_not_its_own_copy_and_many_are_compared_block_by_block(monkeypatch):
    small = thumbnails(textured(40))
    whole = nearest(small[:7], small, np.arange(7))
    assert (whole.numbers != np.arange(7)).all() and (whole.distances > SAME).all()
    assert (nearest(small[:7], small).distances == 0).all()
    monkeypatch.setattr(near_duplicates, "BLOCK", 9)
    monkeypatch.setattr(near_duplicates, "CHUNK", 3)
    assert np.allclose(nearest(small[:7], small, np.arange(7)).distances, whole.distances)


def test_the_inside_of_a_disc_is_no_square():
    y, x = np.mgrid[:32, :32]
    disc = np.where((np.hypot(x - 15.5, y - 15.5) < 15)[..., None], (90, 170, 240), 255).astype(np.uint8)
    square = np.full((32, 32, 3), (90, 170, 240), np.uint8)
    assert fine_distance(square, disc, near_duplicates.BOXES[-5]) >= SAME


def test_groups_hold_all_that_are_alike():
    random = np.random.default_rng(3)
    images = textured(12)
    planted = [recropped(images[0], random), recropped(images[0], random), recropped(images[5], random)]
    keys = [f"{number}.png" for number in range(15)]
    assert group(keys, np.stack([*images, *planted])) == {
        "0.png": "0.png", "12.png": "0.png", "13.png": "0.png", "5.png": "5.png", "14.png": "5.png",
    }  # fmt: skip


def test_prepare_keeps_near_duplicates_in_one_part(here, t2i):
    random = np.random.default_rng(0)
    folder = Path("images")
    folder.mkdir()
    for number, image in enumerate(textured(24, 48)):
        Image.fromarray(image).save(folder / f"{number:02}-a.png")
        Image.fromarray(recropped(image, random)).save(folder / f"{number:02}-b.png")
        for name in "ab":
            (folder / f"{number:02}-{name}.txt").write_text(f"image {number}")
    said = t2i("prepare", "--images", folder, "--val-fraction", "0.25", "--resolution", "16", "--workers", "1")
    assert "near-duplicates: 48 images in 24 groups" in said
    parts = {}
    for part in ("train", "val"):
        records = PreparedDataset(next(Path("t2i-data").glob(f"*-{part}-16"))).records()
        parts[part] = {record["key"].split("/")[-1].split("-")[0] for record in records}
    assert not parts["train"] & parts["val"] and len(parts["train"] | parts["val"]) == 24
    assert 5 <= len(parts["val"]) <= 7


@pytest.mark.slow
def test_95_percent_are_found_and_1_percent_are_false():
    random = np.random.default_rng(4)
    images = textured(3000)
    planted = np.stack([recropped(image, random) for image in images[:200]])
    found = nearest(thumbnails(planted), thumbnails(images))
    assert ((found.numbers == np.arange(200)) & (found.distances < SAME)).mean() >= 0.95
    others = nearest(thumbnails(textured(200, seed=5)), thumbnails(images))
    assert (others.distances < SAME).mean() <= 0.01
