"""Variety: how much images of one caption differ, compared with images of different captions.

Mean distance between seeds of a caption over that between captions, in Lite2's features (one less the cosine) and in
pixels (mean absolute difference): 0 where every seed gives one image, 1 where the caption says nothing. Captions that
several real images share give the data's own value, which is the aim: those of the evaluated split, or of the training
split where the evaluated one has too few.
"""

from dataclasses import dataclass

import numpy as np

from t2i.data.prepared import PreparedDataset
from t2i.evaluation.features import FeatureNetwork
from t2i.evaluation.report import Score
from t2i.evaluation.sampler import CaptionSampler

CAPTIONS, SEEDS = 100, 4
LEAST = 10  # captions, for a score


def shared_captions(data: PreparedDataset) -> dict[int, np.ndarray]:
    """Captions of at least two images, in a fixed mixed order: id -> the numbers of up to SEEDS of its images."""
    owners: dict[int, list[int]] = {}
    for image in range(len(data)):
        for caption in data.caption_ids(image).tolist():
            owners.setdefault(caption, []).append(image)
    shared = [caption for caption, images in owners.items() if len(images) > 1]
    chosen = np.random.default_rng(0).permutation(shared)[:CAPTIONS].tolist()
    return {caption: np.array(owners[caption][:SEEDS]) for caption in chosen}


def ratios(network: FeatureNetwork, groups: list[np.ndarray]) -> tuple[float, float]:
    """Mean distance within groups of images, each uint8 [>= 2, R, R, 3], over that between their first ones: in
    features, in pixels."""
    features = [network(group) for group in groups]
    features = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in features]
    pixels = [group.reshape(len(group), -1).astype(np.float32) for group in groups]
    found = []
    for values, distance in ((features, cosine_distances), (pixels, absolute_distances)):
        within = np.mean([off_diagonal(distance(rows)).mean() for rows in values])
        between = off_diagonal(distance(np.stack([rows[0] for rows in values]))).mean()
        found.append(float(within / max(between, 1e-9)))  # a model that ignores captions: large, but finite
    return found[0], found[1]


def cosine_distances(rows: np.ndarray) -> np.ndarray:
    """[N, D] of length 1 -> [N, N]."""
    return 1 - rows @ rows.T


def absolute_distances(rows: np.ndarray) -> np.ndarray:
    """[N, P] -> [N, N]."""
    return np.stack([np.abs(rows - row).mean(1) for row in rows])


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    return matrix[~np.eye(len(matrix), dtype=bool)]


@dataclass(frozen=True)
class Variety:
    """The score on captions of `data`; own: the data's own values, where captions are shared."""

    data: PreparedDataset
    network: FeatureNetwork
    captions: np.ndarray
    own: tuple[float, float] | None

    @classmethod
    def of(
        cls, data: PreparedDataset, train: PreparedDataset | None, network: FeatureNetwork, caption_ids: np.ndarray
    ) -> "Variety":
        """caption_ids: of `data`, drawn where neither split has captions that images share; no own value then."""
        shared, shared_in = shared_captions(data), data
        if train is not None and len(shared) < CAPTIONS and len(found := shared_captions(train)) > len(shared):
            shared, shared_in = found, train
        if len(shared) < LEAST:
            return cls(data, network, np.unique(caption_ids)[:CAPTIONS], None)
        own = ratios(network, [shared_in.rgb(images) for images in shared.values()])
        return cls(shared_in, network, np.array(list(shared)), own)

    def scores(self, sampler: CaptionSampler) -> list[Score]:
        """Variety in features and in pixels of a model's images."""
        repeated = np.repeat(self.captions, SEEDS)
        seeds = np.tile(np.arange(SEEDS), len(self.captions))
        drawn = [images for _, images in sampler.draw_dataset(self.data, repeated, seeds)]
        values = ratios(self.network, np.split(np.concatenate(drawn), len(self.captions)))
        return [
            Score(
                name=f"variety, {what}", value=value, better="as the data", network=self.network.label,
                reference=f"{len(self.captions)} captions of {self.data.name} {self.data.split}, {SEEDS} seeds each",
                samples=len(repeated),
                ceiling=None if self.own is None else self.own[number],
                ceiling_of="" if self.own is None else "real images that share a caption",
            )
            for number, (what, value) in enumerate(zip(("features", "pixels"), values))
        ]  # fmt: skip
