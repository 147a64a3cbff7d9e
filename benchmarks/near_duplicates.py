"""How many planted recrops and recompressions are found, and how many held-out images pass for one?

    python benchmarks/near_duplicates.py TRAIN HELD_OUT [COUNT]

Of COUNT (200) images of the prepared data set TRAIN a crop of 82 to 99 % of the side is enlarged and saved as a JPEG of
quality 40 to 95. Found: the nearest training image is the right one, and nearer than SAME. False: an image of HELD_OUT
is as near to one of TRAIN.
"""

import io
import sys
import time

import numpy as np
from PIL import Image

from t2i.data.near_duplicates import SAME, nearest, thumbnails
from t2i.data.prepared import PreparedDataset


def recropped(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    side = int(random.integers(round(0.82 * len(image)), len(image)))
    left, top = random.integers(0, len(image) - side + 1, 2)
    crop = Image.fromarray(image).crop((left, top, left + side, top + side))
    encoded = io.BytesIO()
    crop.resize(image.shape[:2], Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=int(random.integers(40, 96)))
    return np.asarray(Image.open(encoded).convert("RGB"))


def main() -> None:
    train, held_out = (PreparedDataset(path) for path in sys.argv[1:3])
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 200
    random = np.random.default_rng(0)
    known = np.concatenate(
        [thumbnails(train.rgb(range(n, min(n + 4096, len(train))))) for n in range(0, len(train), 4096)]
    )
    chosen = random.choice(len(train), count, replace=False)
    planted = thumbnails(np.stack([recropped(image, random) for image in train.rgb(chosen)]))
    others = thumbnails(held_out.rgb(random.choice(len(held_out), min(count, len(held_out)), replace=False)))
    began = time.perf_counter()
    found = nearest(planted, known)
    seconds = (time.perf_counter() - began) / count
    right = (found.numbers == chosen) | (np.abs(known[found.numbers].astype(int) - known[chosen]).max((1, 2, 3)) == 0)
    print(f"{len(train):,} training images, {count} planted, {seconds:.2f} s an image")
    print(f"found: {((found.distances < SAME) & right).mean():.1%} (nearest is the right one: {right.mean():.1%})")
    print(f"95 % of the planted lie below {np.quantile(found.distances, 0.95):.3f}; SAME is {SAME:g}")
    false = nearest(others, known).distances
    print(f"false: {(false < SAME).mean():.1%} of {len(others)}; 1 % of them lie below {np.quantile(false, 0.01):.3f}")


if __name__ == "__main__":
    main()
