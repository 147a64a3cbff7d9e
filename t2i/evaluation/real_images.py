"""Real images of an evaluation: their fixed order, their features, and how many are in two data sets."""

import hashlib
from collections.abc import Iterator

import numpy as np

from t2i.data.prepared import PreparedDataset
from t2i.data.sampler import image_at
from t2i.evaluation.cache import cached
from t2i.evaluation.features import RESIZE, FeatureNetwork, Progress, silent
from t2i.evaluation.matcher import VERSION, degrade
from t2i.evaluation.sampler import CHUNK


def data_features(
    network: FeatureNetwork, data: PreparedDataset, count: int, progress: Progress, degraded: bool = False
) -> np.ndarray:
    """Features of the first `count` images in the fixed order (of all if there are fewer): float32 [N, D].

    degraded: of the images after `degrade`. Cached beside the data set.
    """
    order = fixed_order(data, count)
    key = {
        "network": network.sha256, "input": f"{network.resolution} px, {RESIZE}", "fingerprint": data.fingerprint,
        "pictures": len(order), **({"degraded": VERSION} if degraded else {}),
    }  # fmt: skip
    stage = f"features of {name_of(data)}{', degraded' * degraded}"

    def make() -> dict[str, np.ndarray]:
        out = np.empty((len(order), network.width), np.float32)
        for start in range(0, len(order), CHUNK):
            progress(stage, start, len(order))
            numbers = order[start : start + CHUNK]
            images = data.rgb(numbers)
            out[start : start + CHUNK] = network(degrade(images, numbers) if degraded else images)
        progress(stage, len(order), len(order))
        return {"features": out}

    return cached(data.path, "features", key, make)["features"]


def shared_images(data: PreparedDataset, other: PreparedDataset, progress: Progress = silent) -> int:
    """The number of images of `data` that are in `other` too, pixel for pixel. Cached beside `data`."""

    def make() -> dict[str, np.ndarray]:
        known = set(_hashes(other, progress))
        return {"shared": np.array([sum(digest in known for digest in _hashes(data, progress))])}

    key = {"fingerprint": data.fingerprint, "other": other.fingerprint}
    return int(cached(data.path, "shared", key, make)["shared"][0])


def _hashes(data: PreparedDataset, progress: Progress) -> Iterator[bytes]:
    for start in range(0, len(data), CHUNK):
        progress(f"comparing {name_of(data)}", start, len(data))
        for image in data.rgb(np.arange(start, min(start + CHUNK, len(data)))):
            yield hashlib.blake2b(image.data, digest_size=12).digest()


def fixed_order(data: PreparedDataset, count: int) -> np.ndarray:
    """The first `count` images of a data set in a fixed random order, all of them if there are fewer: int64."""
    return image_at(np.arange(min(count, len(data))), len(data), seed=0)


def name_of(data: PreparedDataset) -> str:
    """ "emoji val": how reports call a data set."""
    return f"{data.name} {data.split}"
