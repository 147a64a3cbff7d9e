"""Mismatched captions: a real picture with a caption that is not its own, from the same batch.

Without them a discriminator never learns to read, and the generator follows no prompt (Reed et al. 2016).
"""

from collections.abc import Sequence

import numpy as np


def mismatch(caption_ids: np.ndarray, own_captions: Sequence[Sequence[int]], rng: np.random.Generator) -> np.ndarray:
    """A wrong caption for each picture of a batch: row i gets the caption of row `result[i]`.

    caption_ids: [B] int, the caption drawn for each row; equal ids mean equal text.
    own_captions: for each row, all the captions of its picture. None of them is given to it, which also rules out
        the picture itself drawn twice.
    Returns [B] int64: a permutation wherever swaps find one (each caption is as often wrong as right), else some row's
    caption may serve twice; -1 where every caption of the batch belongs to the row's picture.
    """
    size = len(caption_ids)
    order = rng.permutation(size)
    taken = [caption in own_captions[row] for row, caption in enumerate(caption_ids[order].tolist())]
    for row in np.flatnonzero(taken):
        # Swap with a row that can take what this one cannot keep, and has what this one can take.
        for other in rng.permutation(size):
            mine, theirs = int(caption_ids[order[row]]), int(caption_ids[order[other]])
            if theirs not in own_captions[row] and mine not in own_captions[other]:
                order[row], order[other] = order[other], order[row]
                break
        else:
            free = [i for i, caption in enumerate(caption_ids) if int(caption) not in own_captions[row]]
            order[row] = rng.choice(free) if free else -1
    return order
