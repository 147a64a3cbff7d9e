"""What a loss is: a Term, with a part for the discriminator's phase and one for the generator's.

A term lives in one file: its settings (the table [loss.NAME]), its head if it has one, its two parts. `registry.py`
lists them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from t2i.models.base import Discriminator, Features, Generator
from t2i.text.pooler import TextBatch

if TYPE_CHECKING:
    from t2i.config import TrainConfig
    from t2i.training.batch import Batch
    from t2i.training.randomness import StepRandom
    from t2i.training.schedule import StepPlan

Log = Callable[..., None]  # Statistics.add


@dataclass
class Pass:
    """What both phases know of a micro-batch of B real images.

    text: the images' captions, encoded. tokens: all N captions of the batch, of which these B may be a part, as the
    discriminator reads them; conditions: [N, E], the same pooled; both None unless a term needs them
    (Term.needs_captions). condition: [B, E], of the images' own captions. own: [B] int, which of the N these are.
    features: of the real images in the discriminator's phase, of the generated ones in the generator's.
    log: (name, values [B]) -> None, into the run's metrics.
    """

    plan: "StepPlan"
    batch: "Batch"
    rng: "StepRandom"
    log: Log
    discriminator: Discriminator
    text: TextBatch
    tokens: TextBatch | None
    conditions: Tensor | None
    condition: Tensor
    features: Features

    @property
    def own(self) -> Tensor:
        return torch.arange(self.rng.batch, device=self.condition.device)[self.rng.rows]

    def autocast(self) -> Any:
        """The precision of the networks' passes."""
        return self.plan.autocast(self.batch.images.device.type)


@dataclass
class DiscriminatorPass(Pass):
    """The discriminator's phase. images: [B, C, r, r], the real ones as it sees them. fake_features: of the fakes.

    real, fake: logits [B] or [B, heads]; wrong: [B, K] or [B, K, heads], of real images with wrong captions.
    words: [B, L, T], the images' own captions, standardised, where a penalty may differentiate `real` by them.
    """

    images: Tensor
    fake_features: Features
    real: Tensor
    fake: Tensor
    wrong: Tensor
    words: Tensor | None


@dataclass
class GeneratorPass(Pass):
    """The generator's phase.

    generator: the network. fakes: [B, C, r, r], drawn for the captions.
    maps: what the discriminator's backbone extracts from the fakes; real_maps(): the same from the real images.
    other(): a second drawing of the same captions with independent noise, without gradients: the discriminator's.
    fake: logits [B] or [B, heads].
    """

    generator: Generator
    fakes: Tensor
    maps: Any
    real_maps: Callable[[], Any]
    other: Callable[[], "Fakes"]
    fake: Tensor


class Fakes(NamedTuple):
    """Generated images: as drawn [B, C, r, r], as the discriminator sees them, and the maps of its backbone."""

    images: Tensor
    seen: Tensor
    maps: Any


@dataclass(frozen=True)
class Networks:
    """What a term may build its head for. resolution: of the run, px."""

    generator: Generator
    discriminator: Discriminator
    resolution: int
    features: Features = field(repr=False)  # shapes alone: of one blank image


class Term:
    """A loss beside the adversarial one.

    name: of its table [loss.NAME], of its part of a checkpoint. Settings: a frozen dataclass of setting() fields. With
    its `weight` above 0 the term is in use. Its parts are weighted.
    columns: what it logs, {name: what it is}. needs_captions: it compares images with all captions of the batch.
    pairs_images: it compares generated with real images, which must then be augmented alike.
    module: what it trains in the discriminator's phase, or None.
    """

    name: ClassVar[str]
    Settings: ClassVar[type]
    columns: ClassVar[Mapping[str, str]] = {}
    needs_captions: ClassVar[bool] = False
    pairs_images: ClassVar[bool] = False

    def __init__(self, settings: Any, networks: Networks, lr_multiplier: float = 1.0):
        self.settings, self.weight = settings, settings.weight
        self.module: nn.Module | None = None

    @classmethod
    def check(cls, config: "TrainConfig") -> None:
        """Raises UsageError, one line, where the term does not go with the other settings."""

    def discriminator(self, d: DiscriminatorPass) -> Tensor | None:
        """Its weighted part of the discriminator's loss, [B]; None where it has none."""
        return None

    def generator(self, g: GeneratorPass) -> Tensor | None:
        """Its weighted part of the generator's loss, [B]; None where it has none."""
        return None

    def warm_up(self, fakes: Tensor, others: Tensor, images: Tensor, log: Any) -> Tensor | None:
        """Its part of the generator's loss before there is a discriminator, [B]; None where it has none.

        fakes, others, images: [B, C, r, r]: two drawings of each caption, the second without gradients, and its image.
        log: as `Pass.log`.
        """
        return None
