"""Distances and overlaps between feature sets: known answers, and another library's."""

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from t2i.evaluation.statistics import (
    frechet_distance,
    kernel_distance,
    manifold_scores,
    moments,
    neighbourhoods,
    squared_mmd,
)


def normal(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width))


# ---- Fréchet distance ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [40, 400])  # fewer and more rows than columns
def test_the_frechet_distance_of_a_set_to_itself_is_zero(count):
    features = normal(count, 64).astype(np.float32)
    assert abs(frechet_distance(moments(features), moments(features[::-1]))) < 1e-10


def test_the_frechet_distance_of_gaussians_has_its_closed_form():
    # Commuting covariances: |m1 - m2|² + sum (s1 - s2)². Sets with exactly these moments, by whitening.
    raw = normal(500, 6)
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    scales, shift = np.array([1.0, 2, 3, 0.5, 1, 4]), np.array([3.0, 0, -4, 0, 0, 0])
    found = frechet_distance(moments(white), moments(white * scales + shift))
    assert found == pytest.approx(25 + ((scales - 1) ** 2).sum(), rel=1e-9)


def test_the_frechet_distance_is_that_of_torchmetrics():
    class Flat(nn.Module):
        num_features = 48

        def forward(self, images):
            return images.flatten(1)

    random = np.random.default_rng(0)
    mixed = random.standard_normal((48, 48)) / 7
    real, fake = random.standard_normal((300, 48)) @ mixed, random.standard_normal((200, 48)) * 1.3 + 0.1
    metric = FrechetInceptionDistance(feature=Flat(), normalize=True).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real).reshape(-1, 3, 4, 4), real=True)
    metric.update(torch.from_numpy(fake).reshape(-1, 3, 4, 4), real=False)
    assert frechet_distance(moments(real), moments(fake)) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_a_collapsed_set_has_a_finite_distance():
    real, fake = normal(100, 16), np.ones((100, 16))
    closed = ((real.mean(0) - 1) ** 2).sum() + np.trace(np.cov(real.T))
    assert frechet_distance(moments(real), moments(fake)) == pytest.approx(closed)
    with pytest.raises(ValueError, match="two rows"):
        moments(fake[:1])


# ---- kernel distance -------------------------------------------------------------------------------------------


def test_the_kernel_distance_is_that_of_torchmetrics():
    real, fake = normal(90, 32), normal(90, 32, seed=1) * 1.1 + 0.2
    theirs = float(poly_mmd(torch.from_numpy(real), torch.from_numpy(fake)))
    assert squared_mmd(real, fake) == pytest.approx(theirs, rel=1e-9)


def test_the_kernel_distance_is_unbiased_at_any_size():
    pairs = [(normal(60, 16, seed), normal(60, 16, seed + 1000)) for seed in range(40)]
    equal = [kernel_distance(x, y, subsets=10)[0] for x, y in pairs]
    assert abs(np.mean(equal)) < 3 * np.std(equal) / np.sqrt(len(equal))
    shifted = [kernel_distance(x, y + 0.5, subsets=10)[0] for x, y in pairs]
    assert min(shifted) > max(equal)
    value, spread = kernel_distance(*pairs[0], subsets=10)
    assert (value, spread) == kernel_distance(*pairs[0], subsets=10) and spread > 0


# ---- precision, recall, density, coverage ----------------------------------------------------------------------


def naive(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """The papers' definitions, loop by loop."""

    def radius(points, row, k):
        return np.sort([np.linalg.norm(points[row] - other) for other in np.delete(points, row, axis=0)])[k - 1]

    real3, fake3 = ([radius(points, row, 3) for row in range(len(points))] for points in (real, fake))
    real5 = [radius(real, row, 5) for row in range(len(real))]
    distance = np.array([[np.linalg.norm(r - f) for f in fake] for r in real])
    return {
        "precision": np.mean([(distance[:, f] <= real3).any() for f in range(len(fake))]),
        "recall": np.mean([(distance[r] <= fake3).any() for r in range(len(real))]),
        "density": np.mean([(distance[:, f] <= real5).sum() for f in range(len(fake))]) / 5,
        "coverage": np.mean([distance[r].min() <= real5[r] for r in range(len(real))]),
    }


def test_precision_recall_density_and_coverage_are_those_of_the_papers():
    real, fake = normal(40, 3), normal(40, 3, seed=1) * 0.6 + 0.4
    found = manifold_scores(neighbourhoods(real), neighbourhoods(fake))
    assert found == pytest.approx(naive(real, fake))
    assert 0 < found["recall"] < found["precision"] <= 1


def test_known_manifolds():
    real = normal(200, 8)
    balls = neighbourhoods(real)
    copied = manifold_scores(balls, neighbourhoods(real[::-1]))
    assert copied == {"precision": 1.0, "recall": 1.0, "density": pytest.approx(1.0, abs=0.25), "coverage": 1.0}
    far = manifold_scores(balls, neighbourhoods(real + 100))
    assert far == {"precision": 0.0, "recall": 0.0, "density": 0.0, "coverage": 0.0}
    # One good image generated again and again: good, and nothing of the variety.
    collapsed = manifold_scores(balls, neighbourhoods(np.repeat(real[:1], 200, axis=0)))
    assert collapsed["precision"] == 1.0 and collapsed["recall"] <= 0.01 and collapsed["coverage"] < 0.15
    with pytest.raises(ValueError, match="neighbours"):
        neighbourhoods(real[:5])


def test_many_rows_are_the_same_in_blocks(monkeypatch):
    real, fake = normal(50, 4), normal(50, 4, seed=1)
    whole = manifold_scores(neighbourhoods(real), neighbourhoods(fake))
    monkeypatch.setattr("t2i.evaluation.statistics._ROWS", 7)
    assert manifold_scores(neighbourhoods(real), neighbourhoods(fake)) == whole
