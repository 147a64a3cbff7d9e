"""Which captions of a batch belong to which images, and mismatches: real images with captions of others.

Without mismatches a discriminator never learns to read, and the generator follows no prompt (Reed et al. 2016).
"""

from collections.abc import Sequence

import numpy as np


def belonging(caption_ids: np.ndarray, own_captions: Sequence[Sequence[int]]) -> np.ndarray:
    """Which of a batch's captions say what is in which image.

    caption_ids: [N] int, the captions of the batch; equal ids mean equal text.
    own_captions: for each of B images, the ids of all its captions.
    Returns [B, N] bool: True for an image's own caption, for another one of the same image (drawn twice), and for
    an equal one of another image.
    """
    different, which = np.unique(caption_ids, return_inverse=True)
    own = np.concatenate([np.asarray(captions, np.int64) for captions in own_captions])
    rows = np.repeat(np.arange(len(own_captions)), [len(captions) for captions in own_captions])
    places = np.searchsorted(different, own).clip(max=len(different) - 1)
    there = different[places] == own
    table = np.zeros((len(own_captions), len(different)), bool)
    table[rows[there], places[there]] = True
    return table[:, which]


def mismatch(belongs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A wrong caption for each image of a batch: row i gets the caption of row `result[i]`.

    belongs: [B, B] bool, see `belonging`; no image is given a caption that belongs to it.
    Returns [B] int64: a permutation wherever swaps find one (each caption is as often wrong as right), else some row's
    caption may serve twice; -1 where every caption of the batch belongs to the row's image.
    """
    size = len(belongs)
    order = rng.permutation(size)
    for row in np.flatnonzero(belongs[np.arange(size), order]):
        # Swap with a row that can take what this one cannot keep, and has what this one can take.
        for other in rng.permutation(size):
            if not belongs[row, order[other]] and not belongs[other, order[row]]:
                order[row], order[other] = order[other], order[row]
                break
        else:
            free = np.flatnonzero(~belongs[row])
            order[row] = rng.choice(free) if len(free) else -1
    return order
