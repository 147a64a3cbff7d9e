"""The image-text matcher of R-precision, trained on the training split alone.

Two linear maps into one space: one from EfficientNet-Lite2's features of an image, one from MiniLM's vector of a
sentence. Both networks are frozen; the maps are trained contrastively (Radford et al. 2021, CLIP, figure 3) on real
images and their captions. Half of the training images are degraded, coarse and blotchy like the samples of a
generator early in training, so that content counts and finish does not. The matcher is small and weak, but independent
of every generator; its ceiling says how far to trust it.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2i.data.prepared import PreparedDataset
from t2i.errors import UserError
from t2i.evaluation.cache import cached
from t2i.evaluation.features import FeatureNetwork, Progress, silent
from t2i.text.encoders import load_encoder
from t2i.text.frozen import pad_tokens
from t2i.text.minilm import MINILM_SHA256
from t2i.text.pooler import sentence_vector

VERSION = 1  # of the training below; part of the cache key
LEAST = 200  # images to train on, at least
WIDTH = 256
BATCH = 512
EPOCHS, PATIENCE = 80, 8
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.1
HELD_OUT = 0.1  # share of the training images, for early stopping
COARSEST = 6  # px a side that a degraded image keeps at least
BLOTCHES = (0.0, 10.0, 20.0, 30.0)  # standard deviations of the added noise, in grey levels


@dataclass(frozen=True)
class Matcher:
    """image and text: the two maps as float32 arrays, "mean" [D], "scale" [D] and "map" [D, WIDTH] each.

    label: its two networks and their hashes. facts: its training data, and its score on the held-out part of them.
    """

    arrays: dict[str, np.ndarray]
    label: str
    facts: dict[str, Any]

    def images(self, features: np.ndarray) -> np.ndarray:
        """Lite2 features [N, 1280] -> float32 [N, WIDTH], length 1."""
        return self._apply("image", features)

    def texts(self, sentences: np.ndarray) -> np.ndarray:
        """MiniLM sentence vectors [N, 384] -> float32 [N, WIDTH], length 1."""
        return self._apply("text", sentences)

    def _apply(self, side: str, rows: np.ndarray) -> np.ndarray:
        mean, scale, map_ = (self.arrays[f"{side}.{part}"] for part in ("mean", "scale", "map"))
        out = ((rows - mean) / scale) @ map_
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


def sentences(data: PreparedDataset, caption_ids: np.ndarray, progress: Progress = silent) -> np.ndarray:
    """MiniLM's vectors of captions [N] of a data set: float32 [N, 384], length 1.

    Of the data set's own embeddings; computed and cached where it was prepared with another encoder.
    """
    parts = [caption_ids[start : start + 256] for start in range(0, len(caption_ids), 256)]
    if data.text.get("sha256") == MINILM_SHA256:
        return np.concatenate([sentence_vector(pad_tokens(data.tokens(part)).to("cpu")).numpy() for part in parts])

    def make() -> dict[str, np.ndarray]:
        encoder = load_encoder()
        out = []
        for number, part in enumerate(parts):
            progress("sentence vectors", 256 * number, len(caption_ids))
            texts = [data.caption(int(caption)) for caption in part]
            out.append(sentence_vector(pad_tokens(encoder.encode(texts)).to("cpu")).numpy())
        return {"sentences": np.concatenate(out)}

    which = hashlib.sha256(caption_ids.astype(np.int64).tobytes()).hexdigest()
    key = {"fingerprint": data.fingerprint, "encoder": MINILM_SHA256, "captions": which}
    return cached(data.path, "sentences", key, make)["sentences"]


def too_few(data: PreparedDataset) -> UserError | None:
    """Why no matcher can be trained on a data set, one line; None where one can be."""
    if len(data) >= LEAST:
        return None
    return UserError(f"{data.path}: {len(data)} images are too few to train a matcher on; it needs {LEAST}")


def train_matcher(
    data: PreparedDataset,
    images: np.ndarray,
    features: np.ndarray,
    degraded: np.ndarray,
    network: FeatureNetwork,
    progress: Progress = silent,
) -> Matcher:
    """The matcher of a training set, cached beside it.

    images [N]: indices in the data set; features [N, D]: of those, by `network`; degraded [M, D]: of the first M of
    them, by `network` after `degrade`.
    """
    key = {
        "version": VERSION, "fingerprint": data.fingerprint, "pictures": len(images), "degraded": len(degraded),
        "image": network.sha256, "text": MINILM_SHA256,
    }  # fmt: skip

    def make() -> dict[str, np.ndarray]:
        captions = [data.caption_ids(int(image)) for image in images]
        used = np.unique(np.concatenate(captions))
        rows = [np.searchsorted(used, ids) for ids in captions]
        numbers = np.concatenate([np.arange(len(features)), np.arange(len(degraded))])
        everything = np.concatenate([features, degraded])
        return _train(everything, numbers, sentences(data, used, progress), rows, progress)

    arrays = cached(data.path, "matcher", key, make)
    facts = {
        "trained_on": f"{data.name} {data.split}", "fingerprint": data.fingerprint, "pictures": len(images),
        "reciprocal_rank_on_held_out": float(arrays["held_out"][0]), "image_network": network.sha256,
        "text_network": MINILM_SHA256,
    }  # fmt: skip
    return Matcher(arrays, f"matcher over {network.label} and MiniLM {MINILM_SHA256[:8]}", facts)


class _Towers(nn.Module):
    def __init__(self, image: int, text: int):
        super().__init__()
        self.image = nn.Parameter(torch.randn(image, WIDTH) / math.sqrt(image))
        self.text = nn.Parameter(torch.randn(text, WIDTH) / math.sqrt(text))
        self.sharpness = nn.Parameter(torch.tensor(math.log(10.0)))

    def loss(self, images: Tensor, texts: Tensor, same: Tensor) -> Tensor:
        """images [B, D], texts [B, T]; same [B, B] marks pairs that are no negatives."""
        cosines = F.normalize(images @ self.image, dim=1) @ F.normalize(texts @ self.text, dim=1).T
        logits = cosines * self.sharpness.clamp(max=math.log(100.0)).exp()
        own = torch.eye(len(logits), dtype=torch.bool)
        logits = logits.masked_fill(same & ~own, -math.inf)
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def degrade(images: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Real images uint8 [N, R, R, 3] made coarse and blotchy: averaged down to between 6 and R / 2 pixels a side,
    enlarged bilinearly, with smooth noise added. numbers [N]: of the images; they seed the degradation.
    """
    out = np.empty_like(images)
    size = images.shape[1:3]
    for row, number in enumerate(numbers):
        random = np.random.default_rng([int(number), 2])
        side = round(COARSEST * (max(COARSEST, size[0] / 2) / COARSEST) ** random.random())
        noise = random.normal(0, random.choice(BLOTCHES), (1, 3, 16, 16)).astype(np.float32)
        pixels = torch.from_numpy(images[row]).permute(2, 0, 1)[None].float()
        coarse = F.interpolate(pixels, size=(side, side), mode="area")
        changed = F.interpolate(coarse, size=size, mode="bilinear")
        changed = changed + F.interpolate(torch.from_numpy(noise), size=size, mode="bilinear")
        out[row] = changed[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    return out


def _train(
    features: np.ndarray, numbers: np.ndarray, vectors: np.ndarray, captions: list[np.ndarray], progress: Progress
) -> dict[str, np.ndarray]:
    """The arrays of a Matcher. features [rows, D] of the images with these numbers [rows]; captions: for each number
    the rows of vectors [captions, T] that are its own."""
    random = np.random.default_rng(0)
    order = random.permutation(len(captions))
    is_held = np.isin(numbers, order[: max(1, round(HELD_OUT * len(order)))])
    held, kept = np.flatnonzero(is_held), np.flatnonzero(~is_held)
    used = np.unique(np.concatenate([captions[number] for number in numbers[kept]]))
    stats = {
        "image.mean": features[kept].mean(0), "image.scale": features[kept].std(0) + 1e-2,
        "text.mean": vectors[used].mean(0), "text.scale": vectors[used].std(0) + 1e-3,
    }  # fmt: skip
    images = torch.from_numpy((features - stats["image.mean"]) / stats["image.scale"]).float()
    texts = torch.from_numpy((vectors - stats["text.mean"]) / stats["text.scale"]).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        towers = _Towers(images.shape[1], texts.shape[1])
    optimiser = torch.optim.AdamW(towers.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    queries = np.array([random.choice(captions[number]) for number in numbers[held]])
    unlike = torch.from_numpy(~_same(numbers[held], queries))
    best, best_at, saved = -1.0, 0, {}
    for epoch in range(EPOCHS):
        progress("matcher", epoch, EPOCHS)
        rows = random.permutation(kept)
        for part in np.array_split(rows, max(1, round(len(rows) / BATCH))):
            chosen = np.array([random.choice(captions[number]) for number in numbers[part]])
            loss = towers.loss(images[part], texts[chosen], torch.from_numpy(_same(numbers[part], chosen)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        score = _held_out_score(towers, images[held], texts[queries], unlike)
        if score > best:
            best, best_at = score, epoch
            saved = {"image.map": towers.image.detach().clone(), "text.map": towers.text.detach().clone()}
        elif epoch - best_at >= PATIENCE:
            break
    progress("matcher", EPOCHS, EPOCHS)
    arrays = {name: np.asarray(value, np.float32) for name, value in stats.items()}
    arrays |= {name: value.numpy() for name, value in saved.items()}
    return {**arrays, "held_out": np.array([best], np.float32)}


@torch.no_grad()
def _held_out_score(towers: _Towers, images: Tensor, texts: Tensor, unlike: Tensor) -> float:
    """Mean reciprocal rank of the own caption among those of all held-out images: smoother than top-1 accuracy."""
    cosines = F.normalize(images @ towers.image, dim=1) @ F.normalize(texts @ towers.text, dim=1).T
    ranks = 1 + ((cosines >= cosines.diagonal()[:, None]) & unlike).sum(1)
    return float((1 / ranks).mean())


def _same(numbers: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """bool [N, N]: pairs of rows that are no negatives: of the same image, or with the same caption."""
    return (numbers[:, None] == numbers[None]) | (captions[:, None] == captions[None])
