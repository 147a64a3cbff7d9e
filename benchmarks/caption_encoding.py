"""Captions a second: how `prepare` encodes them against the plain loop, for one encoder and one set of captions.

    python benchmarks/caption_encoding.py DATA [--captions 4096] [--turns 5]

The plain loops take the captions image by image, 64 at a time, through transformers' own model: padded to the
longest of the batch, and padded to 64 tokens, as tutorials do. `prepare` encodes a caption that several images share
once. Turns alternate in one process. Prints medians, ratios and the largest difference of the embeddings. DATA: a
prepared data set, for its captions.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from script import run_script
from transformers import AutoModel, AutoTokenizer

from t2i.data.captions import SLICE
from t2i.data.prepared import PreparedDataset
from t2i.text.encoders import load_encoder
from t2i.text.minilm import bundled_minilm

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--captions", type=int, default=4096)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    data = PreparedDataset(options.data)
    numbers = itertools.chain.from_iterable(data.caption_ids(image).tolist() for image in range(len(data)))
    texts = [data.caption(number) for number in itertools.islice(numbers, options.captions)]
    different = list(dict.fromkeys(texts))

    encoder = load_encoder()
    folder = bundled_minilm()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def ours() -> list[np.ndarray]:
        slices = (different[start : start + SLICE] for start in range(0, len(different), SLICE))
        embeddings = dict(zip(different, (row for some in slices for row in encoder.encode(some))))
        return [embeddings[text] for text in texts]

    @torch.inference_mode()
    def plain(**padding: object) -> list[np.ndarray]:
        out = []
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(texts[start : start + BATCH], truncation=True, return_tensors="pt", **padding)
            hidden = model(**batch).last_hidden_state.half().numpy()
            out += [hidden[row, :count].copy() for row, count in enumerate(batch["attention_mask"].sum(1).tolist())]
        return out

    ways: dict[str, Callable[[], list[np.ndarray]]] = {
        "t2i": ours,
        "padded to the longest": lambda: plain(padding=True),
        "padded to 64 tokens": lambda: plain(padding="max_length", max_length=64),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, list[np.ndarray]] = {}
    for turn in range(options.turns + 1):
        for name, work in ways.items():
            started = time.perf_counter()
            found[name] = work()
            if turn:  # the first one warms up
                taken[name].append(time.perf_counter() - started)
    counts = f"{len(texts):,} captions of {data.path}, {len(different):,} different"
    print(f"{counts}, {torch.get_num_threads()} threads")
    for name, seconds in taken.items():
        ratio = statistics.median(other / own for own, other in zip(taken["t2i"], seconds))
        difference = max(float(np.abs(a.astype(np.float32) - b).max()) for a, b in zip(found["t2i"], found[name]))
        rate = len(texts) / statistics.median(seconds)
        print(f"{name:24} {rate:7.0f} a second, t2i is {ratio:.2f} times as fast, difference at most {difference:.4f}")


if __name__ == "__main__":
    run_script(main)
