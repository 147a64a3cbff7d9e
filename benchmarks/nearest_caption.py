"""How far do known images go? Scores of a "model" that copies the training image whose caption is nearest.

    python benchmarks/nearest_caption.py DATA [--samples 584]

Nearest: the largest cosine between means of token embeddings. Scored on the validation split beside DATA, as a model is
by t2i evaluate. Its R-precision is what new words cost: what a model lacks of it, the model lacks on known words too.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from script import run_script

from t2i.data.prepared import PreparedDataset, find_validation
from t2i.evaluation.protocol import Evaluator, Options
from t2i.evaluation.sampler import CHUNK, CaptionSampler
from t2i.text.frozen import pad_tokens
from t2i.text.pooler import TextBatch, sentence_vector


class Copier:
    """In place of a t2i.sampling.Sampler."""

    def __init__(self, data: PreparedDataset):
        self.data = data
        self.owners = np.repeat(np.arange(len(data)), data.caption_counts(np.arange(len(data))))
        captions = np.concatenate([data.caption_ids(image) for image in range(len(data))])
        chunks = np.array_split(captions, -(-len(captions) // CHUNK))
        self.known = torch.cat([sentence_vector(pad_tokens(data.tokens(chunk)).to("cpu")) for chunk in chunks])

    def images(self, text: TextBatch, seeds: Sequence[int], truncation_psi: float = 1.0) -> torch.Tensor:
        nearest = (sentence_vector(text.to("cpu")) @ self.known.T).argmax(1).numpy()
        return torch.from_numpy(self.data.rgb(self.owners[nearest]))


def encode(prompts: Sequence[str]) -> TextBatch:
    raise SystemExit("the validation split must have been prepared with the encoder of DATA")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--samples", type=int)
    options = parser.parse_args()
    data = PreparedDataset(options.data)
    validation = find_validation(data)
    if validation is None:
        raise SystemExit(f"{data.path} has no validation split beside it")
    metrics = ("fd", "kd", "prdc", "r-precision")
    sampler = CaptionSampler(Copier(data), data.resolution, encode, str(data.text["sha256"]))
    report = Evaluator(validation, data, Options(samples=options.samples, metrics=metrics)).score(sampler)
    for score in report.scores:
        print(f"{score.name}: {score.value:.3f}, ceiling {score.ceiling:.3f}")


if __name__ == "__main__":
    run_script(main)
