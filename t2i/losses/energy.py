"""Energy score: the images drawn for a caption are distributed as its real images are.

With x a caption's image, y1 and y2 two drawings of that caption with independent noise, and a distance d,

    ES = d(x, y1) - repulsion / 2 * d(y1, y2)

is smallest in expectation, at repulsion 1 and for a d of negative type, exactly where the drawings of a caption are
distributed as its images are: it is a strictly proper scoring rule (Gneiting & Raftery 2007; DISCO Nets, Bouchacourt et
al. 2016; energy distance, Szekely 2003). At repulsion 0 it is a regression, whose best answer is one typical image for
all noise. d must be a norm, or a sum of norms, and not its square, of which only the mean is learnt.

y2 is the discriminator's drawing, without gradients: the expected gradient of d(x, y1) - repulsion * d(y1, y2) by y1
alone is that of ES.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i.errors import UsageError
from t2i.losses.base import GeneratorPass, Networks, Term
from t2i.precision import at_least_fp32
from t2i.setting_groups import setting

if TYPE_CHECKING:
    from t2i.config import TrainConfig

RESOLUTIONS = (8, 16)
WARM_UP_RESOLUTIONS = (8, 16, 32)
EPS = 1e-4  # the root has no finite gradient at zero


def coarse_distance(first: Tensor, second: Tensor, resolutions: Sequence[int] = RESOLUTIONS) -> Tensor:
    """Euclidean distance of images [B, C, R, R], area-averaged to each resolution (at most R), mean over these: [B]."""
    difference = at_least_fp32(first) - at_least_fp32(second)
    sides = [min(side, difference.shape[-1]) for side in resolutions]
    scales = [F.adaptive_avg_pool2d(difference, side).square().mean((1, 2, 3)) for side in sides]
    return torch.stack([(scale + EPS).sqrt() for scale in scales]).mean(0)


def feature_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Maps [B, C_i, h_i, w_i] of a frozen backbone for two batches of images -> [B]: at each place of each map the
    Euclidean distance of the unit feature vectors, in [0, 2], mean over places and maps."""
    scales = []
    for a, b in zip(first, second, strict=True):
        a, b = F.normalize(at_least_fp32(a), dim=1), F.normalize(at_least_fp32(b), dim=1)
        scales.append(((a - b).square().sum(1) + EPS).sqrt().mean((1, 2)))
    return torch.stack(scales).mean(0)


class EnergyScore(Term):
    @dataclass(frozen=True)
    class Settings:
        weight: float = setting(
            0.0,
            "Weight of the energy score of coarse colours, at 8 and 16 px.",
            least=0,
            paper="Gneiting & Raftery 2007; Bouchacourt et al. 2016",
        )
        features: float = setting(
            0.0, "Weight of the energy score of the frozen backbone's features (projected discriminator).", least=0
        )
        repulsion: float = setting(
            0.65, "How much two drawings of a caption repel each other: 0 one typical image, 1 as varied as the data.",
            least=0, most=1,
        )  # fmt: skip

    name = "energy"
    columns: ClassVar = {
        "coarse_distance": "Distance of a generated image to its caption's own, in coarse colours.",
        "coarse_spread": "Distance of two generated images of one caption, in coarse colours.",
        "feature_distance": "As coarse_distance, in the features of the frozen backbone.",
        "feature_spread": "As coarse_spread, in the features of the frozen backbone.",
    }
    pairs_images = True

    def __init__(self, settings: Any, networks: Networks, lr_multiplier: float = 1.0):
        super().__init__(settings, networks, lr_multiplier)
        self.features, self.repulsion = settings.features, settings.repulsion

    @classmethod
    def check(cls, config: "TrainConfig") -> None:
        if config.terms[cls.name]["features"] and config.discriminator_kind != "projected":
            raise UsageError(
                "loss.energy.features compares features of a frozen backbone: it needs [model.discriminator] kind = "
                '"projected"'
            )
        if config.adversarial.shared_fakes:
            raise UsageError(
                "loss.energy compares the generator's drawing with the discriminator's: it excludes "
                "loss.adversarial.shared_fakes"
            )

    def generator(self, g: GeneratorPass) -> Tensor:
        other = g.other()
        distance = coarse_distance(g.fakes, g.batch.images)
        spread = coarse_distance(g.fakes, other.images)
        g.log("coarse_distance", distance)
        g.log("coarse_spread", spread)
        losses = self.weight * (distance - self.repulsion * spread)
        if self.features:
            distance = feature_distance(g.maps, g.real_maps())
            spread = feature_distance(g.maps, other.maps)
            g.log("feature_distance", distance)
            g.log("feature_spread", spread)
            losses = losses + self.features * (distance - self.repulsion * spread)
        return losses

    def warm_up(self, fakes: Tensor, others: Tensor, images: Tensor, log: Any) -> Tensor:
        """All that the generator learns by in the warm-up, [B]: the score of coarse colours, weight 1."""
        distance = coarse_distance(fakes, images, WARM_UP_RESOLUTIONS)
        spread = coarse_distance(fakes, others, WARM_UP_RESOLUTIONS)
        log("coarse_distance", distance)
        log("coarse_spread", spread)
        return distance - self.repulsion * spread
