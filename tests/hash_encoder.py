"""A text encoder that costs nothing, in a file of its own: processes that tests start import it, and no torch."""

import hashlib

import numpy as np


class HashEncoder:
    """A text encoder for tests: a word's vector comes from its hash. Exact, instant, the same in every process."""

    name = "hash"
    width = 24
    max_tokens = 16
    sha256 = "0" * 64

    def __init__(self) -> None:
        self.truncated = self.unknown = 0

    def encode(self, texts):
        self.truncated += sum(len(text.split()) > self.max_tokens for text in texts)
        return [np.stack([self._word(word) for word in text.split()[: self.max_tokens]]) for text in texts]

    def describe(self):
        return {"name": self.name, "sha256": self.sha256, "width": self.width, "max_tokens": self.max_tokens}

    def _word(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "little")
        return np.random.default_rng(seed).standard_normal(self.width).astype(np.float16)
