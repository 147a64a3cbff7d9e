"""What a training step measures, beside its gradients: means for the log, and signs of a collapse."""

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i.training.distributed import ALONE, Ranks


class Statistics:
    """Sums on the device of what is logged, read once per log line: no synchronisation inside the step.

    A sum keeps its place in memory, so that a captured step (cuda_graphs.py) adds to it.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}
        self.device_weights: dict[str, Tensor] = {}  # the part of the weights that the device alone knows

    def add(self, name: str, values: Tensor, left_out: Tensor | None = None) -> None:
        """Add a batch of values [B] (or one number a batch, []) to the running mean of `name`.

        left_out: [], how many of them, zeros, are none.
        """
        values = values.detach().float()
        self._add(name, values.sum(), values.numel(), None if left_out is None else -left_out)

    def add_ratio(self, name: str, part: Tensor, whole: Tensor) -> None:
        """Add to two sums, [] each, whose ratio is logged: that of several batches is not the mean of their ratios."""
        self._add(name, part.detach().float(), 0, whole.detach().float())

    def _add(self, name: str, total: Tensor, weight: float, device_weight: Tensor | None) -> None:
        if name not in self.sums:
            self.sums[name], self.weights[name] = torch.zeros_like(total), 0
        self.sums[name] += total
        self.weights[name] += weight
        if device_weight is not None:
            self.device_weights.setdefault(name, torch.zeros_like(device_weight)).add_(device_weight)

    def read(self, ranks: Ranks = ALONE) -> dict[str, float]:
        """The means since the last read, over all ranks; what has no weight has none."""
        weights = {name: weight + float(self.device_weights.get(name, 0)) for name, weight in self.weights.items()}
        means = ranks.add_up({name: total for name, total in self.sums.items() if weights[name]}, weights)
        for total in (*self.sums.values(), *self.device_weights.values()):
            total.zero_()
        self.weights = dict.fromkeys(self.weights, 0)
        return means


@torch.no_grad()
def watch_collapse(statistics: Statistics, reals: Tensor, fakes: Tensor) -> None:
    """Two signs of a collapse, which no loss shows.

    saturated: share of pixel values at or beyond the edge of [-1, 1], generated minus real. White pages have many in
    the reals too, hence the difference.
    diversity: how far images of different captions lie apart, as 8 x 8 thumbnails: mean pairwise squared distance
    of the generated ones over that of the reals. 0: one image for all; 1: as varied as the data.
    """
    saturated = (fakes.abs() > 0.98).float().mean() - (reals.abs() > 0.98).float().mean()
    statistics.add("saturated", saturated)
    if len(reals) > 1:
        spread = [F.adaptive_avg_pool2d(x.float().clamp(-1, 1), 8).var(0).sum() for x in (fakes, reals)]
        statistics.add_ratio("diversity", *spread)
