"""Batches from a prepared data set: for each step the pictures, a caption of each, and wrong captions of each."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from t2i.data.prepared import PreparedDataset
from t2i.data.sampler import choice_at, run_of_pictures
from t2i.data.sides import mirror_axis
from t2i.losses.matching import mismatch
from t2i.training.distributed import ALONE, Ranks
from t2i.training.objective import Batch
from t2i.training.randomness import StepRandom, derive_seed
from t2i.training.text import PreparedText, TrainedText


class BatchLoader:
    """Makes the batch that starts at `images_seen`; the next one is read in the background meanwhile.

    The global batch is a pure function of (data set, seed, images seen, size); a rank reads its rows of it.
    mismatches: wrong captions for each picture. mirrors: say which pictures, mirrored, belie their captions.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        text: PreparedText | TrainedText,
        seed: int,
        device: torch.device | str,
        ranks: Ranks = ALONE,
        mismatches: int = 1,
        mirrors: bool = False,
    ):
        self.dataset, self.text, self.seed, self.ranks = dataset, text, seed, ranks
        self.mismatches, self.mirrors = mismatches, mirrors
        self.device = torch.device(device)
        self._order_seed = derive_seed(seed, "order")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[tuple[int, int], Future] | None = None

    def load(self, images_seen: int, size: int) -> Batch:
        """This rank's rows of the pictures images_seen ... images_seen + size - 1, on the device."""
        if self._ahead and self._ahead[0] == (images_seen, size):
            batch = self._ahead[1].result()
        else:
            batch = self._read(images_seen, size)
        following = images_seen + size, size
        self._ahead = following, self._thread.submit(self._read, *following)
        return to_device(batch, self.ranks.rows(size), self.device)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _read(self, images_seen: int, size: int) -> Batch:
        data = self.dataset
        positions = np.arange(images_seen, images_seen + size)
        pictures = run_of_pictures(images_seen, size, len(data), self._order_seed)
        own = [data.caption_ids(int(picture)) for picture in pictures]
        choices = choice_at(positions, data.caption_counts(pictures), self._order_seed)
        captions = np.array([int(ids[choice]) for ids, choice in zip(own, choices)])
        random = StepRandom(self.seed, images_seen, size)
        names = ["mismatch", *(f"mismatch {number}" for number in range(1, self.mismatches))]
        wrong = np.stack([mismatch(captions, own, random.numpy(name)) for name in names], axis=1)  # [size, K]
        rows = self.ranks.rows(size)
        texts = self.text.batch(captions)
        return Batch(
            images=torch.from_numpy(data.images(pictures[rows])),
            text=texts[rows],
            captions=texts,
            caption_ids=torch.from_numpy(captions),
            wrong=torch.from_numpy(wrong[rows]),
            mirror=torch.tensor([mirror_axis(data.caption(int(i))) if self.mirrors else 0 for i in captions[rows]]),
        )


def to_device(batch: Batch, rows: slice, device: torch.device) -> Batch:
    """uint8 [B, R, R, 3] and half-precision tokens on the CPU -> what a step takes, on `device`.

    rows: which of the whole batch's captions are the pictures' own; they are moved once.
    """
    pin = device.type == "cuda"
    images = batch.images.pin_memory() if pin else batch.images
    # NHWC in memory seen as NCHW: channels_last without a copy.
    images = images.to(device, non_blocking=pin).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    dtype = torch.float32 if batch.captions.tokens.is_floating_point() else batch.captions.tokens.dtype
    captions = batch.captions.to(device, dtype)
    return Batch(
        images,
        captions[rows],
        captions,
        batch.caption_ids.to(device),
        batch.wrong.to(device),
        batch.mirror,
    )
