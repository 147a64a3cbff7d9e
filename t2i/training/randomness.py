"""Random numbers without state.

Every number of a training step is made from (seed, images seen, name of the draw), for the whole global batch; a
rank or a micro-batch takes its rows of it. So a resumed run, a run on two machines and a run in smaller pieces all
draw what one uninterrupted process would have drawn, and no generator's state has to be saved.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

from t2i.device import send


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any numbers and names; the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class StepRandom:
    """The random numbers of one step.

    rows: which rows of the global batch this process and micro-batch works on.
    """

    def __init__(self, seed: int, images_seen: int, batch: int, rows: slice | None = None, device: str = "cpu"):
        self.seed, self.images_seen, self.batch = seed, images_seen, batch
        self.rows = rows or slice(0, batch)
        self.device = device

    def take(self, rows: slice) -> "StepRandom":
        """The same numbers, for other rows."""
        return StepRandom(self.seed, self.images_seen, self.batch, rows, self.device)

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers [rows, *shape]."""
        return self._slice(torch.randn(self.batch, *shape, generator=self._generator(name)))

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), [rows, *shape]."""
        return self._slice(torch.rand(self.batch, *shape, generator=self._generator(name)))

    def numpy(self, name: str) -> np.random.Generator:
        """A NumPy generator for what is decided for the whole batch at once."""
        return np.random.default_rng(derive_seed(self.seed, self.images_seen, name))

    def _generator(self, name: str) -> torch.Generator:
        # On the CPU whatever the device: the same numbers everywhere. They are small.
        return torch.Generator().manual_seed(derive_seed(self.seed, self.images_seen, name))

    def _slice(self, numbers: Tensor) -> Tensor:
        return send(numbers[self.rows], self.device)
