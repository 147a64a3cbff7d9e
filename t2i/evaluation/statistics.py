"""Distances between two sets of features, precision, recall, density and coverage, in float64.

Features are arrays [N, D] of any float type, a row an image, of any network.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

LEAST = 100  # images a side; below, these scores mean nothing
SUBSETS, SUBSET_SIZE = 100, 1000  # of the kernel distance, as in its paper
NEIGHBOURS, NEIGHBOURS_NAEEM = 3, 5  # k of precision and recall, and of density and coverage, as in their papers
_ROWS = 1024  # rows of a distance matrix held at once


@dataclass(frozen=True)
class Moments:
    """Mean [D] and covariance of a set of features; the covariance as a factor, S = factorᵀ factor."""

    mean: np.ndarray
    factor: np.ndarray  # [min(N, D), D]


def moments(features: np.ndarray) -> Moments:
    """Mean and covariance (with N - 1) of features [N, D]. Raises ValueError below two rows."""
    features = np.asarray(features, np.float64)
    if len(features) < 2:
        raise ValueError("a covariance needs at least two rows")
    mean = features.mean(axis=0)
    # The QR decomposition's R has RᵀR = XᵀX. Nothing is squared, so no digits are lost.
    return Moments(mean, np.linalg.qr(features - mean, mode="r") / np.sqrt(len(features) - 1))


def frechet_distance(first: Moments, second: Moments) -> float:
    """The Fréchet distance between two Gaussians (Dowson and Landau 1982; as a score: Heusel et al. 2017, FID).

    |m₁ - m₂|² + tr S₁ + tr S₂ - 2 tr (S₁ S₂)^½. With S = FᵀF the last trace is the sum of the singular values of
    F₁ F₂ᵀ, which needs no matrix root and no imaginary part to drop. At least 0 up to rounding; 0 for equal sets.
    """
    shift = float(((first.mean - second.mean) ** 2).sum())
    spread = float((first.factor**2).sum() + (second.factor**2).sum())
    shared = float(np.linalg.svd(first.factor @ second.factor.T, compute_uv=False).sum())
    return shift + spread - 2 * shared


def kernel_distance(
    real: np.ndarray, fake: np.ndarray, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = 0
) -> tuple[float, float]:
    """The squared maximum mean discrepancy with the kernel (x·y / D + 1)³ (Bińkowski et al. 2018, KID).

    Unbiased whatever the counts: the mean over random subsets of `size` rows of each side, at most half of the
    smaller one, so that subsets differ. Around 0, also below it, where the sets come from one distribution.
    Returns the mean and the standard deviation over the subsets.
    """
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    size = min(size, len(real) // 2, len(fake) // 2)
    if size < 2:
        raise ValueError("the kernel distance needs at least four rows a side")
    random = np.random.default_rng(seed)
    found = []
    for _ in range(subsets):
        x = real[random.choice(len(real), size, replace=False)]
        y = fake[random.choice(len(fake), size, replace=False)]
        found.append(squared_mmd(x, y))
    return float(np.mean(found)), float(np.std(found))


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate from all of x [N, D] and y [M, D] (Gretton et al. 2012, Lemma 6)."""
    return _mean_off_diagonal(_kernel(x, x)) + _mean_off_diagonal(_kernel(y, y)) - 2 * float(_kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_off_diagonal(gram: np.ndarray) -> float:
    return float((gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1)))


@dataclass(frozen=True)
class Neighbourhoods:
    """Features [N, D] in float64, with the squared distance of each to its k-th nearest neighbour: k -> [N]."""

    features: np.ndarray
    radii: dict[int, np.ndarray]


def neighbourhoods(features: np.ndarray) -> Neighbourhoods:
    """The balls around each feature that reach to its k-th neighbour. Raises ValueError with too few rows."""
    features = np.asarray(features, np.float64)
    most = max(NEIGHBOURS, NEIGHBOURS_NAEEM)
    if len(features) <= most:
        raise ValueError(f"{most} neighbours need more than {len(features)} rows")
    radii = {k: np.empty(len(features)) for k in (NEIGHBOURS, NEIGHBOURS_NAEEM)}
    for rows, distances in _squared_distances(features, features):
        distances[np.arange(len(distances)), np.arange(len(features))[rows]] = np.inf  # not its own neighbour
        nearest = np.sort(np.partition(distances, most - 1, axis=1)[:, :most], axis=1)
        for k, radius in radii.items():
            radius[rows] = nearest[:, k - 1]
    return Neighbourhoods(features, radii)


def manifold_scores(real: Neighbourhoods, fake: Neighbourhoods) -> dict[str, float]:
    """precision, recall, density and coverage of the fakes; give both sides the same number of rows.

    Precision and recall (Kynkäänniemi et al. 2019, k = 3): the share of fakes within some real image's ball, and
    the share of reals within some fake's. Density and coverage (Naeem et al. 2020, k = 5): in how many of the
    reals' balls a fake lies, by k; the share of reals' balls that hold a fake. Only density passes 1.
    """
    inside_real = np.zeros(len(fake.features), bool)
    inside_fake = np.zeros(len(real.features), bool)
    covered = np.zeros(len(real.features), bool)
    lies_in = 0
    for rows, distances in _squared_distances(real.features, fake.features):
        near = distances <= real.radii[NEIGHBOURS][rows, None]
        inside_real |= near.any(axis=0)
        inside_fake[rows] = (distances <= fake.radii[NEIGHBOURS][None]).any(axis=1)
        near = distances <= real.radii[NEIGHBOURS_NAEEM][rows, None]
        covered[rows] = near.any(axis=1)
        lies_in += int(near.sum())
    return {
        "precision": float(inside_real.mean()),
        "recall": float(inside_fake.mean()),
        "density": lies_in / (NEIGHBOURS_NAEEM * len(fake.features)),
        "coverage": float(covered.mean()),
    }


def _squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances [rows, len(y)] between x [N, D] and y [M, D], `_ROWS` rows at a time."""
    x_norms, y_norms = (x**2).sum(axis=1), (y**2).sum(axis=1)
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        scale = x_norms[rows, None] + y_norms[None]
        distances = scale - 2 * (x[rows] @ y.T)
        distances[distances < 1e-12 * scale] = 0  # equal rows: what is left of them is rounding
        yield rows, distances
