"""A subword tokenizer, trained on a data set's own captions.

The ids index the encoder's embedding, so the vocabulary is trained once a run and saved beside the weights.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from t2i.errors import UsageError, UserError
from t2i.files import atomic_write, describe_os_error, encodable, first_line

PAD, UNK = "[PAD]", "[UNK]"
PAD_ID, UNK_ID = 0, 1
MAX_TOKENS = 100
VOCABULARY = 4096
SMALLEST = 2 + 256  # the special tokens and the bytes
SLICE = 8192  # captions at once: their tokens are Python objects in memory


class CaptionTokenizer:
    """Captions to ids: NFKC, lower case, any white space as one; then byte-level byte pairs.

    Byte-level byte pairs (Sennrich et al. 2016) for two reasons. With all 256 bytes in the vocabulary no word is
    unknown, in any script, though small data lack most words. And the trainers of other kinds are not reproducible:
    WordPiece numbers its tokens in the order of a hash table, unigram sums floats in the order of its threads.

    max_tokens: longer captions are cut there; truncated: captions cut so far; sha256: of the file that `save` writes.
    """

    def __init__(self, serialised: str):
        """serialised: the content of a tokenizer.json that `save` wrote. Raises ValueError for any other."""
        self.serialised = serialised
        self.sha256 = hashlib.sha256(serialised.encode()).hexdigest()
        self.truncated = 0
        try:
            self._tokenizer = Tokenizer.from_str(serialised)
        except Exception as error:  # the library raises plain Exception
            raise ValueError(first_line(error)) from error
        self.max_tokens = _check(self._tokenizer)
        self._tokenizer.encode_special_tokens = True  # "[PAD]" in a caption is text, not padding

    @classmethod
    def train(
        cls, captions: Iterable[str], vocabulary: int = VOCABULARY, max_tokens: int = MAX_TOKENS
    ) -> "CaptionTokenizer":
        """A vocabulary of at most `vocabulary` tokens; fewer where the captions repeat fewer pieces.

        It depends on the set of captions only, not on their order or number: the same captions give the same bytes.
        Raises UsageError for a vocabulary below 258 or max_tokens below 1.
        """
        if vocabulary < SMALLEST:
            raise UsageError(f"a vocabulary has at least {SMALLEST} tokens (256 bytes and 2 more), not {vocabulary}")
        if max_tokens < 1:
            raise UsageError(f"a caption has at least 1 token, not {max_tokens}")
        tokenizer = _untrained()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,  # a single occurrence cannot train an embedding
            special_tokens=[PAD, UNK],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(sorted({encodable(caption) for caption in captions}), trainer)
        tokenizer.enable_truncation(max_tokens)
        return cls(tokenizer.to_str())

    def save(self, path: Path | str) -> None:
        """Write tokenizer.json, atomically. Raises UserError, one line."""
        with atomic_write(path) as stream:
            stream.write(self.serialised.encode())

    @classmethod
    def load(cls, path: Path | str) -> "CaptionTokenizer":
        """Read what `save` wrote. Raises UserError, one line, for a file that is damaged or another program's."""
        try:
            return cls(Path(path).read_bytes().decode())
        except OSError as error:
            raise describe_os_error(error, path) from error
        except ValueError as error:
            raise UserError(f"{path}: damaged, or not a tokenizer of t2i ({first_line(error)})") from error

    @property
    def vocabulary_size(self) -> int:
        """Ids lie in [0, vocabulary_size)."""
        return self._tokenizer.get_vocab_size()

    def encode(self, captions: Sequence[str]) -> list[np.ndarray]:
        """Each caption's ids, int32 [1..max_tokens]; a caption without words is one unknown token.

        A caption's ids do not depend on the others. Captions that are cut are counted in `truncated`.
        """
        rows: list[np.ndarray] = []
        for start in range(0, len(captions), SLICE):
            texts = [encodable(caption) for caption in captions[start : start + SLICE]]
            for encoding in self._tokenizer.encode_batch_fast(texts):
                rows.append(np.array(encoding.ids or [UNK_ID], np.int32))
                self.truncated += bool(encoding.overflowing)
        return rows


def _untrained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    # Split at white space and punctuation first, then mark the start of every word, so that a word has the same ids
    # at the start of a caption, after a space, in brackets and after a hyphen.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    )
    return tokenizer


def _check(tokenizer: Tokenizer) -> int:
    """max_tokens of a tokenizer that `train` made. Raises ValueError for any other."""
    max_tokens = (tokenizer.truncation or {}).get("max_length", 0)
    if max_tokens < 1:
        raise ValueError("it has no limit of tokens")
    expected = _untrained()
    expected.add_special_tokens([PAD, UNK])
    expected.enable_truncation(max_tokens)
    if _settings(tokenizer) != _settings(expected):
        raise ValueError("it splits captions in another way")
    ids = tokenizer.get_vocab()
    if any(byte not in ids for byte in pre_tokenizers.ByteLevel.alphabet()):
        raise ValueError("its vocabulary lacks a byte")
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError("its ids are not 0, 1, 2, ...")
    return max_tokens


def _settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of a tokenizer.json, as this version of the library writes it, without the learned parts."""
    settings = json.loads(tokenizer.to_str())
    learned = ("vocab", "merges")
    return {**settings, "model": {name: value for name, value in settings["model"].items() if name not in learned}}
