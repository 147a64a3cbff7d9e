"""How fast captions are encoded on one core in fp32 and in bf16, and how far apart the results are.

    python benchmarks/caption_precision.py CAPTIONS.json [COUNT]

CAPTIONS.json: a COCO captions document. Captions a second of processor time, so that a busy machine does not count.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from t2i.data.captions import slice_size
from t2i.text.encoders import load_encoder


def main() -> None:
    torch.set_num_threads(1)
    document = json.loads(Path(sys.argv[1]).read_text())
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 4096
    texts = list(dict.fromkeys(each["caption"] for each in document["annotations"]))[:count]
    made: dict[str, list[np.ndarray]] = {}
    for quick in (False, True, False, True):
        encoder = load_encoder("minilm", "cpu", quick)
        size = slice_size(encoder.describe())
        start = time.process_time()
        rows = [row for at in range(0, len(texts), size) for row in encoder.encode(texts[at : at + size])]
        print(f"{encoder.precision}: {len(texts) / (time.process_time() - start):.0f} captions a second")
        made[encoder.precision] = rows
    if len(made) == 2:
        pairs = [(one.astype(np.float32), two) for one, two in zip(*made.values())]
        errors = [np.linalg.norm(one - two) / np.linalg.norm(one) for one, two in pairs]
        print(f"{len(texts)} captions, {np.mean(errors):.2%} apart in the mean, {np.max(errors):.2%} at most")


if __name__ == "__main__":
    main()
