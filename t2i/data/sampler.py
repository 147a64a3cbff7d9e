"""Which images, and which of their captions, make up a batch: a pure function of (seed, images seen).

There is no sampler state. Image number `images_seen` of a run is found by a keyed permutation of the data set for
each epoch, computed position by position (a Feistel network with cycle walking), so that nothing of the data set's
size is held in memory and any rank can ask for any position.
"""

import functools

import numpy as np

ROUNDS = 6
BLOCK = 4096  # positions that run_of_images computes at once: 64 of them cost nearly as much


def image_at(positions: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Indices in [0, size) of the images drawn at `positions` (counted from the run's start), int64.

    Within an epoch, `size` positions from a multiple of `size` on, every image comes once.
    """
    positions = np.asarray(positions, np.uint64)
    epochs, values = positions // np.uint64(size), positions % np.uint64(size)
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = mix(epochs ^ mix(np.uint64(seed)))
    result = _feistel(values, keys, half_bits)
    # The network permutes [0, 4 ** half_bits); walking on from values outside [0, size) permutes [0, size).
    outside = result >= size
    while outside.any():
        result[outside] = _feistel(result[outside], keys[outside], half_bits)
        outside = result >= size
    return result.astype(np.int64)


def run_of_images(first: int, count: int, size: int, seed: int) -> np.ndarray:
    """image_at of the positions first ... first + count - 1; cheap where one run follows the other."""
    blocks = range(first // BLOCK, (first + count - 1) // BLOCK + 1)
    images = np.concatenate([_block(block, size, seed) for block in blocks])
    return images[first - blocks[0] * BLOCK :][:count]


@functools.lru_cache(maxsize=8)
def _block(number: int, size: int, seed: int) -> np.ndarray:
    return image_at(np.arange(number * BLOCK, (number + 1) * BLOCK), size, seed)


def choice_at(positions: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """For each position a uniform choice in [0, counts), int64: which caption of the image is drawn this time."""
    random = mix(np.asarray(positions, np.uint64) ^ mix(np.uint64(seed ^ 0x5EED)))
    return (random % np.asarray(counts, np.uint64)).astype(np.int64)


def mix(values: np.ndarray | np.uint64) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014): uint64 -> well-mixed uint64."""
    mixed = np.asarray(values, np.uint64)
    if not mixed.ndim:
        return mix(mixed[None])[0]  # NumPy warns of an overflow in a scalar, and of none in an array
    mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


_ROUND_KEYS = mix(np.arange(ROUNDS))


def _feistel(values: np.ndarray, keys: np.ndarray, half_bits: int) -> np.ndarray:
    bits, low = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & low
    for round_key in _ROUND_KEYS:
        left, right = right, left ^ (mix(right ^ keys ^ round_key) & low)
    return (left << bits) | right
