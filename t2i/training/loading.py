"""Batches from a prepared data set: for each step the images, a caption of each, and wrong captions of each."""

import functools
import math
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from t2i.data.negatives import belonging, mismatch
from t2i.data.prepared import PreparedDataset
from t2i.data.sampler import choice_at
from t2i.data.spatial_words import flip_axis, speaks_of_sides
from t2i.device import send
from t2i.text.pooler import TextBatch
from t2i.training.batch import Batch
from t2i.training.distributed import ALONE, Ranks
from t2i.training.randomness import StepRandom, derive_seed
from t2i.training.text import PreparedText, TrainedText

RESIDENT_SHARE = 0.25  # of the free memory of a GPU, which a data set may take


def resident_images(dataset: PreparedDataset, device: torch.device) -> Tensor | None:
    """All images, uint8 [N, R, R, C], on a GPU that has the room for them; None on another device."""
    if device.type != "cuda":
        return None
    size = len(dataset) * math.prod(dataset.image_shape)
    if size > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    return gather_images(dataset, device)


def gather_images(dataset: PreparedDataset, device: torch.device, step: int = 4096) -> Tensor:
    """All images, uint8 [N, R, R, C], on `device`; read `step` at a time."""
    images = torch.empty(len(dataset), *dataset.image_shape, dtype=torch.uint8, device=device)
    for start in range(0, len(dataset), step):
        part = dataset.images(range(start, min(start + step, len(dataset))))
        images[start : start + len(part)] = torch.from_numpy(part)
    return images


class BatchLoader:
    """Makes the batch that starts at `images_seen`; the next one is read in the background meanwhile.

    The global batch is a pure function of (data set, seed, images seen, size); a rank reads its rows of it.
    mismatches: wrong captions for each image. flips: find the axis along which each image is wrong for its caption.
    mirror: half of the images, by chance, are mirrored left to right; not those of which a caption speaks of sides.
    resident: all images of the data set on the device (resident_images); None: a batch's are read from the disk.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        text: PreparedText | TrainedText,
        seed: int,
        device: torch.device | str,
        ranks: Ranks = ALONE,
        mismatches: int = 1,
        flips: bool = False,
        resident: Tensor | None = None,
        mirror: bool = False,
    ):
        self.dataset, self.text, self.seed, self.ranks = dataset, text, seed, ranks
        self.mismatches, self.flips, self.resident, self.mirror = mismatches, flips, resident, mirror
        self.device = torch.device(device)
        self._order_seed = derive_seed(seed, "order")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[tuple[int, int], Future] | None = None

    def load(self, images_seen: int, size: int) -> Batch:
        """This rank's rows of a run's images, from number images_seen on, `size` of them, on the device."""
        if self._ahead and self._ahead[0] == (images_seen, size):
            batch, mirrored = self._ahead[1].result()
        else:
            batch, mirrored = self._read_both(images_seen, size)
        following = images_seen + size, size
        self._ahead = following, self._thread.submit(self._read_both, *following)
        if self.resident is not None:  # the images' numbers were read in their place
            batch = batch.with_images(self.resident[send(batch.images, self.device)])
        if mirrored is not None:  # uint8 [B, R, R, C]: the third axis is the width
            rows = send(mirrored, batch.images.device)[:, None, None, None]
            batch = batch.with_images(torch.where(rows, batch.images.flip(2), batch.images))
        return to_device(batch, self.ranks.rows(size), self.device)

    def reseed(self, seed: int) -> None:
        """Draw from now on with another seed."""
        self.seed, self._order_seed, self._ahead = seed, derive_seed(seed, "order"), None

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _read_both(self, images_seen: int, size: int) -> tuple[Batch, Tensor | None]:
        """This rank's rows, on the CPU; and which of the images are to be mirrored, bool [B]."""
        return self._read(images_seen, size), self._mirrored(images_seen, size) if self.mirror else None

    def _mirrored(self, images_seen: int, size: int) -> Tensor:
        rows = self.ranks.rows(size)
        images = self.dataset.order(images_seen, size, self._order_seed)
        chosen = StepRandom(self.seed, images_seen, size).numpy("mirror").random(size) < 0.5
        free = [not self._of_sides[ids].any() for ids in self.dataset.captions_of(images[rows])]
        return self._pin(torch.from_numpy(chosen[rows] & np.array(free)))

    def _read(self, images_seen: int, size: int) -> Batch:
        data = self.dataset
        positions = np.arange(images_seen, images_seen + size)
        images = data.order(images_seen, size, self._order_seed)
        own = data.captions_of(images)
        choices = choice_at(positions, np.array([len(ids) for ids in own]), self._order_seed).tolist()
        captions = np.array([ids[choice] for ids, choice in zip(own, choices)])
        belongs = belonging(captions, own)
        random = StepRandom(self.seed, images_seen, size)
        names = ["mismatch", *(f"mismatch {number}" for number in range(1, self.mismatches))]
        wrong = np.stack([mismatch(belongs, random.numpy(name)) for name in names], axis=1)  # [size, K]
        rows = self.ranks.rows(size)
        numbers = images[rows]
        texts = TextBatch(*map(self._pin, self.text.batch(captions)))
        return Batch(
            images=self._pin(torch.from_numpy(data.images(numbers) if self.resident is None else numbers)),
            text=texts[rows],
            captions=texts,
            belongs=self._pin(torch.from_numpy(belongs[rows])),
            wrong=self._pin(torch.from_numpy(wrong[rows])),
            flip_axis=self._flip_axes(captions[rows]),
        )

    @functools.cached_property
    def _of_sides(self) -> np.ndarray:
        """Which captions of the data set speak of sides, bool [captions]: read once, in the background."""
        return np.fromiter(map(speaks_of_sides, self.dataset.captions()), bool, self.dataset.caption_count)

    def _flip_axes(self, captions: np.ndarray) -> np.ndarray:
        if not self.flips:
            return np.zeros(len(captions), int)
        return np.array([flip_axis(self.dataset.caption(caption)) for caption in captions.tolist()])

    def _pin(self, tensor: Tensor) -> Tensor:
        """Here in the background, so that sending it costs the training nothing."""
        return tensor.pin_memory() if self.device.type == "cuda" else tensor


def to_device(batch: Batch, rows: slice, device: torch.device) -> Batch:
    """uint8 [B, R, R, C] and half-precision tokens on the CPU -> what a step takes, on `device`.

    rows: which of the whole batch's captions are the images' own; they are moved once.
    """
    # NHWC in memory seen as NCHW: channels_last without a copy.
    images = send(batch.images, device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    tokens, mask = (send(part, device) for part in tuple(batch.captions))
    captions = TextBatch(tokens.float() if tokens.is_floating_point() else tokens, mask)
    return Batch(
        images,
        captions[rows],
        captions,
        send(batch.belongs, device),
        send(batch.wrong, device),
        batch.flip_axis,
    )
