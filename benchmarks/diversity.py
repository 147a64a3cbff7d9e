"""Do several seeds of one prompt differ? Distances within a prompt against those between prompts, models and data.

    python benchmarks/diversity.py DATA MODEL [MODEL ...] [--prompts 100] [--seeds 8]

Prompts are captions that at least two pictures of DATA share, so that the data's own pictures have distances within a
caption too. A distance is one less the cosine of EfficientNet-Lite2's features; also the mean absolute difference of
pixels. Within over between: 0 where every seed gives one picture, 1 where the prompt says nothing.
"""

import argparse
from pathlib import Path

import numpy as np
from script import run_script

from t2i import TextToImagePipeline
from t2i.data.prepared import PreparedDataset
from t2i.evaluation.features import FeatureNetwork, load_lite2


def shared_captions(data: PreparedDataset, count: int) -> dict[str, np.ndarray]:
    """Captions of at least two pictures, in a fixed mixed order, each with the numbers of its pictures."""
    owners: dict[int, list[int]] = {}
    for picture in range(len(data)):
        for caption in data.caption_ids(picture).tolist():
            owners.setdefault(caption, []).append(picture)
    shared = [caption for caption, pictures in owners.items() if len(pictures) > 1]
    chosen = np.random.default_rng(0).permutation(shared)[:count].tolist()
    return {data.caption(caption): np.array(owners[caption][:8]) for caption in chosen}


def ratios(network: FeatureNetwork, groups: list[np.ndarray]) -> tuple[float, float]:
    """Mean distance within groups of pictures, each uint8 [>= 2, R, R, 3], over that between their first ones."""
    features = [network(group) for group in groups]
    features = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in features]
    pixels = [group.reshape(len(group), -1).astype(np.float32) for group in groups]
    found = []
    for values, distance in ((features, cosine_distances), (pixels, absolute_distances)):
        within = np.mean([off_diagonal(distance(rows)).mean() for rows in values])
        between = off_diagonal(distance(np.stack([rows[0] for rows in values]))).mean()
        found.append(float(within / between))
    return found[0], found[1]


def cosine_distances(rows: np.ndarray) -> np.ndarray:
    return 1 - rows @ rows.T


def absolute_distances(rows: np.ndarray) -> np.ndarray:
    return np.stack([np.abs(rows - row).mean(1) for row in rows])


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    return matrix[~np.eye(len(matrix), dtype=bool)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    data, network = PreparedDataset(options.data), load_lite2()
    prompts = shared_captions(data, options.prompts)
    if len(prompts) < 2:
        raise SystemExit(f"{data.path}: fewer than two captions are shared by pictures")
    rows = {f"{data.name} {data.split} itself": [data.images(pictures) for pictures in prompts.values()]}
    for model in options.models:
        images = TextToImagePipeline.from_pretrained(model)(
            list(prompts), seeds=range(options.seeds), output_type="np"
        ).images
        rows[model] = np.split(images, len(prompts))
    print(f"distances within a prompt over those between prompts, {len(prompts)} of them")
    for name, groups in rows.items():
        features, pixels = ratios(network, groups)
        print(f"{name}: features {features:.2f}, pixels {pixels:.2f}")


if __name__ == "__main__":
    run_script(main)
