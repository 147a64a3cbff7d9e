"""The scores that compare two sets of images in the feature space of one network, and their ceilings."""

from dataclasses import dataclass

import numpy as np

from t2i.evaluation import statistics
from t2i.evaluation.report import Score

FEW = 10_000  # samples below which a Fréchet distance is flagged: its bias grows as one over their number
MANIFOLD = ("precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class RealFeatures:
    """features: [N, D] of real images; what: their data set and split, as scores print it."""

    features: np.ndarray
    what: str

    def first(self, count: int) -> "RealFeatures":
        return RealFeatures(self.features[:count], self.what)

    def __str__(self) -> str:
        return f"{len(self.features):,} images of {self.what}"


class Distances:
    """Scores of generated images against a reference set, in the feature space of one network.

    names: the scores to compute, from "frechet", "kernel" and "manifold", with their names in a report ("FID").
    network: its label. other: real images of another split for the ceiling, at most as many as samples; None: the
    ceiling compares the two halves of the reference, with half the counts.
    """

    def __init__(
        self, names: dict[str, str], network: str, reference: RealFeatures, other: RealFeatures | None, samples: int
    ):
        self.names, self.network, self.reference = names, network, reference
        self.equal = min(samples, len(reference.features))  # precision, recall, density and coverage need equal counts
        if other is None:
            half = len(reference.features) // 2
            base, other = RealFeatures(reference.features[half:], reference.what), reference.first(half)
            self.ceiling_of = f"{other}, against the other {len(base.features):,}"
        else:
            base, other = reference, other.first(samples)
            self.ceiling_of = str(other)
        enough = min(len(base.features), len(other.features)) >= statistics.LEAST
        self._moments = statistics.moments(reference.features) if "frechet" in names else None
        self._balls = None
        if "manifold" in names:
            self._balls = statistics.neighbourhoods(reference.features[: self.equal])
        self._ceilings = self._measure(other.features, base.features, shared=base is reference) if enough else {}

    def scores(self, features: np.ndarray) -> list[Score]:
        """The scores of generated images, from their features [N, D]."""
        found = self._measure(features, self.reference.features, shared=True)
        scores = []
        for name, (value, error) in found.items():
            equal = name in MANIFOLD
            reference = self.reference.first(self.equal) if equal else self.reference
            counts = {"samples": len(features), "real images": len(self.reference.features)}
            few = [f"{what} ({count:,})" for what, count in counts.items() if count < FEW]
            flagged = "frechet" in self.names and name == self.names["frechet"] and bool(few)
            scores.append(
                Score(
                    name=name, value=value, better="higher" if equal else "lower", network=self.network,
                    reference=str(reference), samples=self.equal if equal else len(features),
                    ceiling=self._ceilings.get(name, (None,))[0],
                    ceiling_of=self.ceiling_of if name in self._ceilings else "", error=error,
                    note=f"fewer than {FEW:,} {' and '.join(few)}: biased upwards" * flagged,
                )
            )  # fmt: skip
        return scores

    def _measure(self, features: np.ndarray, base: np.ndarray, shared: bool) -> dict[str, tuple[float, float | None]]:
        """Name -> value and error of `features` against `base`; shared: `base` is the reference."""
        found: dict[str, tuple[float, float | None]] = {}
        if "frechet" in self.names:
            moments = self._moments if shared else statistics.moments(base)
            assert moments is not None
            value = statistics.frechet_distance(moments, statistics.moments(features))
            found[self.names["frechet"]] = (max(0.0, value), None)  # rounding may leave -1e-13
        if "kernel" in self.names:
            found[self.names["kernel"]] = statistics.kernel_distance(base, features)
        if "manifold" in self.names:
            count = min(self.equal, len(features), len(base))
            balls = self._balls if shared and count == self.equal else statistics.neighbourhoods(base[:count])
            assert balls is not None
            values = statistics.manifold_scores(balls, statistics.neighbourhoods(features[:count]))
            found |= {name: (values[name], None) for name in MANIFOLD}
        return found
