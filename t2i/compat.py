"""Counterparts of the calls of the two original student projects, so that their notebooks port line by line.

    dataset = ImageLabelDataset("images", "labels", transform)      # or COCODataset("train2017", "captions.json")
    loader = get_loader(dataset)
    gen, critic = get_networks("dfgan", resolution=64)
    opt_gen, opt_critic = torch.optim.Adam(gen.parameters(), 1e-4), torch.optim.Adam(critic.parameters(), 4e-4)
    alpha = train_fn(critic, gen, loader, dataset, step, alpha, opt_critic, opt_gen)   # one epoch
    image = generate_image_from_text("a table")

`t2i train` does more: checkpoints, an averaged generator, sample grids. docs/from-the-original-scripts.md maps the
old calls to both.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from t2i.config import TrainConfig
from t2i.data.images import load_whole
from t2i.data.negatives import mismatch
from t2i.data.records import ImageError, Record, Source
from t2i.data.sources import CocoSource, FolderPairSource
from t2i.errors import UsageError, UserError
from t2i.models import get_architecture
from t2i.models.base import Discriminator, Generator
from t2i.models.growing import Growth, real_at
from t2i.models.registry import build_networks, options_of
from t2i.setting_groups import Adversarial, Penalty
from t2i.text.encoders import load_encoder
from t2i.text.frozen import FrozenEncoder, pad_tokens
from t2i.text.pooler import Conditioning, TextBatch, TextStatistics
from t2i.training.batch import Batch
from t2i.training.randomness import StepRandom
from t2i.training.schedule import StepPlan
from t2i.training.text import FrozenText
from t2i.training.trainer import Trainer

EncodeLabel = Callable[[str], np.ndarray]


@functools.cache
def _encoder() -> FrozenEncoder:
    return load_encoder()


def encode_label(text: str) -> np.ndarray:
    """A caption's token embeddings by the default encoder, float16 [L, T]."""
    return _encoder().encode([text])[0]


def default_transform(resolution: int = 64) -> Callable[[PIL.Image.Image], Tensor]:
    """Centre crop, resize, [-1, 1]: an RGB image -> [3, resolution, resolution]."""
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(resolution, antialias=True),
            v2.CenterCrop(resolution),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )


class _CaptionedImages(Dataset):
    """Items are (image [3, R, R], a random caption of its own as text, its token embeddings [L, T]).

    Images are decoded as by t2i prepare. An item raises UserError, one line, where its image cannot be used.
    """

    def __init__(self, source: Source, root: Path, transform: Callable | None, encode_label_fn: EncodeLabel | None):
        self.records = [entry for entry in source if isinstance(entry, Record)]
        if not self.records:
            raise UserError(f"{root}: no captioned image here")
        self.root = root
        self.transform = transform or default_transform()
        self.encode_label_fn = encode_label_fn or encode_label

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, str, np.ndarray]:
        record = self.records[index]
        try:
            image = load_whole(self.root / record.key)
        except ImageError as error:
            raise UserError(f"{self.root / record.key}: {error}; take it out, or give a good copy") from error
        caption = record.captions[int(torch.randint(len(record.captions), ()))]
        return self.transform(image), caption, self.encode_label_fn(caption)


class ImageLabelDataset(_CaptionedImages):
    """Images and text files of the same stem, one caption a line. Raises UserError where nothing matches."""

    def __init__(
        self,
        image_dir: Path | str,
        label_dir: Path | str,
        transform: Callable | None = None,
        encode_label_fn: EncodeLabel | None = None,
    ):
        super().__init__(FolderPairSource(image_dir, label_dir), Path(image_dir), transform, encode_label_fn)


class COCODataset(_CaptionedImages):
    """COCO's captioned images. Raises UserError where the folder or the annotations are not in COCO's format."""

    def __init__(self, img_dir: Path | str, ann_file: Path | str, transform: Callable | None = None):
        super().__init__(CocoSource(images=img_dir, annotations=ann_file), Path(img_dir), transform, None)


def get_loader(dataset: Dataset, batch_size: int = 32) -> DataLoader:
    """Shuffled batches (images [B, 3, R, R], captions, TextBatch); a last batch that is not full is dropped."""
    count = len(dataset)  # type: ignore[arg-type]  # torch's Dataset does not declare it
    return DataLoader(dataset, batch_size, shuffle=True, drop_last=count > batch_size, collate_fn=_collate)


def _collate(items: Sequence[tuple[Tensor, str, np.ndarray]]) -> tuple[Tensor, list[str], TextBatch]:
    images, captions, tokens = zip(*items)
    return torch.stack(images), list(captions), pad_tokens(tokens).to("cpu")


def get_networks(
    arch: str = "dfgan", resolution: int = 64, width: int = 384, **options: Any
) -> tuple[Generator, Discriminator]:
    """A new generator and critic.

    width: of the text encoder's vectors (384 for the default encoder). options: settings of either network.
    """
    architecture = get_architecture(arch)
    # As in the originals, growing starts at 4 px.
    resolutions = [side for side in (4 * 2**step for step in range(9)) if side <= resolution]
    g, d = ({n: v for n, v in options.items() if n in options_of(network)}
            for network in (architecture.generator, architecture.discriminator))  # fmt: skip
    if unknown := set(options) - set(g) - set(d):
        raise UsageError(f"{arch} has no option {', '.join(sorted(unknown))}")
    seed = int(torch.randint(2**31, ()))  # set by torch.manual_seed in a notebook
    text = Conditioning(TextStatistics.identity(width))
    rgb_resolutions = resolutions if architecture.generator.grows else [resolution]
    return build_networks(arch, resolution, text, g, arch, d, rgb_resolutions, seed)


def train_fn(
    critic: Discriminator,
    gen: Generator,
    loader: Iterable[tuple[Tensor, list[str], TextBatch]],
    dataset: Any,
    step: int,
    alpha: float,
    opt_critic: torch.optim.Optimizer,
    opt_gen: torch.optim.Optimizer,
) -> float:
    """One epoch; returns the next alpha, which reaches 1 after half of `dataset`, as in the originals.

    Growing networks train at 4 * 2^step px, faded in by alpha, with WGAN-GP (lambda 10, drift 0.001). dfgan trains at
    one resolution with the hinge loss and MA-GP. Both see mismatched captions.
    """
    if gen.grows:
        config = TrainConfig(
            adversarial=Adversarial(kind="wgan-gp", augment=()), penalty=Penalty(kind="wgan-gp", weight=10.0)
        )
    else:
        config = TrainConfig(
            adversarial=Adversarial(kind="hinge", augment=()), penalty=Penalty(kind="ma-gp", weight=2.0)
        )
    weight = config.penalty.weight
    assert weight is not None
    device = next(gen.parameters()).device
    trainer = Trainer(
        config, gen.resolution, FrozenText(), device, networks=(gen, critic), optimizers=(opt_gen, opt_critic)
    )
    rates = opt_gen.param_groups[0]["lr"], opt_critic.param_groups[0]["lr"]
    for number, (images, captions, text) in enumerate(loader):
        ids = np.unique(captions, return_inverse=True)[1]
        growth = Growth(gen.resolution)
        if gen.grows:  # the networks keep this stage until the next step
            gen.growth = critic.growth = growth = Growth(4 * 2**step, alpha if step else 1.0)
        plan = StepPlan(number * len(images), len(images), growth, *rates, penalty=weight)
        rng = StepRandom(int(torch.randint(2**31, ())), number, len(images), device=str(device))
        same = ids[:, None] == ids
        wrong = torch.from_numpy(mismatch(same, rng.numpy("mismatch")))[:, None].to(device)
        text = text.to(device)
        belongs = torch.from_numpy(same).to(device)
        batch = Batch(real_at(images.to(device), growth), text, text, belongs, wrong, np.zeros(len(ids)))
        trainer.step(plan, batch, rng)
        alpha = min(1.0, alpha + len(images) / (0.5 * len(dataset)))
    for network in (gen, critic):
        network.requires_grad_(True)
    return alpha


def generate_image_from_text(text: str, model: Path | str | None = None, seed: int = 0) -> PIL.Image.Image:
    """An image of `text` by `model`, else by the newest run or the built-in model. Raises UserError, one line."""
    from t2i.pipeline import TextToImagePipeline
    from t2i.training.run import default_model

    return TextToImagePipeline.from_pretrained(model or default_model())(text, seeds=[seed]).images[0]
