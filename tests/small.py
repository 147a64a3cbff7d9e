"""The narrowest networks, and batches of noise for them."""

import numpy as np
import torch
from short_runs import config

from t2i.text.pooler import TextBatch, TextStatistics
from t2i.training.batch import Batch
from t2i.training.trainer import make_networks

WIDTH = 24  # of the text encoder


def networks(arch, resolution=16, width=WIDTH, **changes):
    """A new generator and discriminator, fully grown. changes: as short_runs.config takes them."""
    return make_networks(config(arch, growing=False, **changes), resolution, TextStatistics.identity(width))


def captions(count=2, length=5, seed=0):
    """Token embeddings; those of every other caption end in two of padding."""
    mask = torch.ones(count, length, dtype=torch.bool)
    mask[::2, length - 2 :] = False
    return TextBatch(torch.randn(count, length, WIDTH, generator=torch.Generator().manual_seed(seed)), mask)


def batch(count, resolution=16, flip_axis=0):
    """Images of noise, each with a caption of its own and the one before it as a wrong one."""
    images = torch.rand(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(5)) * 2 - 1
    text, wrong = captions(count), torch.arange(count).roll(1)[:, None]
    return Batch(images, text, text, torch.eye(count, dtype=torch.bool), wrong, np.zeros(count, int) + flip_axis)
