"""Is the prompt's own caption first among 100? R-precision (Xu et al. 2018, AttnGAN, section 4).

A question is a picture's own caption beside 99 of other pictures of the same split. Captions that read the same as the
own one are no distractors, and the picture's other captions neither. By chance 1 % are right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from t2i.data.prepared import PreparedDataset
from t2i.errors import UserError
from t2i.evaluation.report import Score

CHOICES = 100  # the own caption and 99 others


@dataclass(frozen=True)
class Judge:
    """Says which caption a picture goes with: both have vectors in one space, of length 1.

    name: of the share of right answers; network: the label of what it looks through.
    vectors: a network's features [N, D] -> [N, E]; texts: [captions, E].
    choices: rows of texts, int64 [N, CHOICES], the own caption first, a row a sample; or [N, 1], which asks nothing.
    real: vectors [N, E] of the real pictures of the same captions; real_of: which they are.
    cosine: what 100 times the mean cosine is called where it is a score too, else empty.
    """

    name: str
    network: str
    vectors: Callable[[np.ndarray], np.ndarray]
    texts: np.ndarray
    choices: np.ndarray
    real: np.ndarray
    real_of: str
    cosine: str = ""

    @property
    def asks(self) -> bool:
        return self.choices.shape[1] > 1

    def similarities(self, vectors: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Cosines of pictures' vectors [n, E] with their choices': float32 [n, CHOICES]. rows: which samples."""
        choices = self.choices if rows is None else self.choices[rows]
        out = np.empty(choices.shape, np.float32)
        for start in range(0, len(choices), 256):
            part = slice(start, start + 256)
            out[part] = np.einsum("ne,nce->nc", vectors[part], self.texts[choices[part]])
        return out

    def margins(self, features: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """How much nearer each picture is to its own caption than to the others on average: [n].

        On average, not to the nearest: a face drawn well may be nearest to another face's caption, and is no failure.
        """
        similarities = self.similarities(self.vectors(features), rows)
        return similarities[:, 0] - similarities[:, 1:].mean(axis=1)

    def scores(self, features: np.ndarray, seed: int = 0) -> list[Score]:
        """The scores of drawn pictures, from their features [N, D]: model, ceiling and floor."""
        vectors = self.vectors(features)
        away = shuffled(len(vectors), seed)
        model, ceiling, floor = (self.similarities(v) for v in (vectors, self.real, vectors[away]))
        count = len(vectors)
        scores = []
        if self.cosine:
            values = [100 * np.maximum(similarities[:, 0], 0) for similarities in (model, ceiling, floor)]
            means = [float(value.mean()) for value in values]
            error = float(values[0].std() / np.sqrt(count))
            scores.append(
                Score(
                    name=self.cosine, value=means[0], ceiling=means[1], floor=means[2], error=error,
                    reference="the prompt", better="higher", network=self.network, samples=count,
                    ceiling_of=self.real_of,
                )
            )  # fmt: skip
        if self.asks:
            choices = self.choices.shape[1]
            shares = [float(right(similarities).mean()) for similarities in (model, ceiling, floor)]
            scores.append(
                Score(
                    name=self.name, value=shares[0], ceiling=shares[1], floor=shares[2],
                    error=float(np.sqrt(shares[0] * (1 - shares[0]) / count)),
                    reference=f"the own caption among {choices} ({1 / choices:g} by chance)",
                    better="higher", network=self.network, samples=count, ceiling_of=self.real_of,
                )
            )  # fmt: skip
        return scores


def right(similarities: np.ndarray) -> np.ndarray:
    """bool [N]: is the own caption strictly first?"""
    return similarities[:, 0] > similarities[:, 1:].max(axis=1)


def ask(data: PreparedDataset, pictures: np.ndarray, caption_ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """The choices of pictures [N] of a data set with their own captions [N]: int64 [N, CHOICES], the own one first.

    Raises UserError, one line, where the data set has too few captions to choose from.
    """
    used = np.unique(np.concatenate([data.caption_ids(index) for index in range(len(data))])).astype(np.int64)
    reads = np.full(data.caption_count, -1, np.int64)
    reads[used] = _same_reading([data.caption(int(caption)) for caption in used])
    pool = used[np.unique(reads[used], return_index=True)[1]]  # one caption of each reading
    choices = np.empty((len(pictures), CHOICES), np.int64)
    for row, (picture, caption) in enumerate(zip(pictures, caption_ids)):
        own = np.isin(reads[pool], reads[data.caption_ids(int(picture))])
        if len(pool) - int(own.sum()) < CHOICES - 1:
            raise UserError(
                f"{data.path}: {len(pool)} different captions are too few to ask for the own one among {CHOICES}"
            )
        random = np.random.default_rng([seed, row])
        choices[row] = [caption, *random.choice(pool[~own], CHOICES - 1, replace=False)]
    return choices


def shuffled(count: int, seed: int = 0, share: float = 1.0) -> np.ndarray:
    """An order of `count` rows, a random `share` of which are in another's place, never in their own."""
    random = np.random.default_rng([seed, 1])
    order = np.arange(count)
    moved = random.permutation(count)[: round(count * share)]
    order[moved] = np.roll(moved, 1)  # a circle through all of them
    return order


def _same_reading(texts: Sequence[str]) -> np.ndarray:
    """A number for each text, the same where they differ in case, white space or final dots only."""
    numbers: dict[str, int] = {}
    return np.array(
        [numbers.setdefault(" ".join(text.casefold().split()).rstrip(" .!"), len(numbers)) for text in texts], np.int64
    )
