"""R-precision (Xu et al. 2018, AttnGAN, section 4): how often an image's own caption ranks first among 100.

The 99 distractors are captions of other images of the same split. The image's other captions, and captions that equal
one of its own but for case, white space and final dots, are excluded. Chance level is 1 %.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from t2i.data.prepared import PreparedDataset
from t2i.errors import UserError
from t2i.evaluation.report import Score

CHOICES = 100  # the own caption and 99 distractors


@dataclass(frozen=True)
class Retrieval:
    """Ranks captions for an image by cosine: both have vectors in one space, of length 1.

    name: of the top-1 accuracy. network: the label of the network that makes the vectors.
    vectors: a network's features [N, D] -> [N, E]; texts: [captions, E].
    choices: int64 [N, CHOICES], a row a sample: rows of texts, the own caption first; or [N, 1] without distractors.
    real: vectors [N, E] of the real images of the same captions; real_of: their data set.
    cosine: the name of 100 times the mean cosine where it is a score too, else empty.
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
    def has_distractors(self) -> bool:
        return self.choices.shape[1] > 1

    def similarities(self, vectors: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Cosines of images' vectors [n, E] with their choices': float32 [n, CHOICES]. rows: which samples."""
        choices = self.choices if rows is None else self.choices[rows]
        out = np.empty(choices.shape, np.float32)
        for start in range(0, len(choices), 256):
            part = slice(start, start + 256)
            out[part] = np.einsum("ne,nce->nc", vectors[part], self.texts[choices[part]])
        return out

    def margins(self, features: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Cosine with the own caption minus the mean cosine with the others, [n].

        The mean, not the maximum: a good image of a face may be nearest to the caption of another face.
        """
        similarities = self.similarities(self.vectors(features), rows)
        return similarities[:, 0] - similarities[:, 1:].mean(axis=1)

    def scores(self, features: np.ndarray, seed: int = 0) -> list[Score]:
        """The scores of generated images, from their features [N, D]: model, ceiling and floor."""
        vectors = self.vectors(features)
        order = shuffled(len(vectors), seed)
        model, ceiling, floor = (self.similarities(v) for v in (vectors, self.real, vectors[order]))
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
        if self.has_distractors:
            choices = self.choices.shape[1]
            shares = [float(top1(similarities).mean()) for similarities in (model, ceiling, floor)]
            scores.append(
                Score(
                    name=self.name, value=shares[0], ceiling=shares[1], floor=shares[2],
                    error=float(np.sqrt(shares[0] * (1 - shares[0]) / count)),
                    reference=f"the own caption among {choices} ({1 / choices:g} by chance)",
                    better="higher", network=self.network, samples=count, ceiling_of=self.real_of,
                )
            )  # fmt: skip
        return scores


def top1(similarities: np.ndarray) -> np.ndarray:
    """bool [N]: the own caption is strictly first."""
    return similarities[:, 0] > similarities[:, 1:].max(axis=1)


def sample_choices(data: PreparedDataset, images: np.ndarray, caption_ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """The own caption [N] of each image [N] and its distractors: int64 [N, CHOICES], the own one first.

    Raises UserError, one line, where the data set has too few captions.
    """
    used = np.unique(np.concatenate([data.caption_ids(index) for index in range(len(data))])).astype(np.int64)
    texts = np.full(data.caption_count, -1, np.int64)
    texts[used] = _text_ids([data.caption(int(caption)) for caption in used])
    pool = used[np.unique(texts[used], return_index=True)[1]]  # one caption of each text
    choices = np.empty((len(images), CHOICES), np.int64)
    for row, (image, caption) in enumerate(zip(images, caption_ids)):
        own = np.isin(texts[pool], texts[data.caption_ids(int(image))])
        if len(pool) - int(own.sum()) < CHOICES - 1:
            raise UserError(
                f"{data.path}: {len(pool)} different captions are too few to rank the own one among {CHOICES}"
            )
        random = np.random.default_rng([seed, row])
        choices[row] = [caption, *random.choice(pool[~own], CHOICES - 1, replace=False)]
    return choices


def shuffled(count: int, seed: int = 0, share: float = 1.0) -> np.ndarray:
    """A permutation of `count` rows that moves a random `share` of them; none of those keeps its row."""
    random = np.random.default_rng([seed, 1])
    order = np.arange(count)
    moved = random.permutation(count)[: round(count * share)]
    order[moved] = np.roll(moved, 1)  # one cycle through all of them
    return order


def _text_ids(texts: Sequence[str]) -> np.ndarray:
    """A number for each text, equal for texts that differ only in case, white space or final dots."""
    numbers: dict[str, int] = {}
    return np.array(
        [numbers.setdefault(" ".join(text.casefold().split()).rstrip(" .!"), len(numbers)) for text in texts], np.int64
    )
