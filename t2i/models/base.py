"""What every generator and discriminator has in common: captions go through its own pooler, then into the network."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from t2i.models.growing import Growth
from t2i.text.pooler import AttentionPooler, SentencePooler, TextBatch


class Features(NamedTuple):
    """What a discriminator makes of images.

    summary: of the whole image, [B, C] or [B, C, h, w]. regions: [B, C', h, w], of its regions.
    """

    summary: Tensor
    regions: Tensor


class Generator(nn.Module):
    """Noise [B, Z] and a TextBatch -> images [B, 3, r, r], about [-1, 1]: pool, then synthesis.

    resolution: fully grown. rgb_resolutions: those that it can draw at; growth: where it stands if a call does not say.
    rgb_skips: its image is a sum over resolutions.
    """

    z_dim: int
    resolution: int
    pooler: AttentionPooler | SentencePooler
    rgb_resolutions: Sequence[int]
    growth: Growth
    grows: ClassVar[bool] = False
    rgb_skips: ClassVar[bool] = False

    def pool(self, text: TextBatch) -> Tensor:
        """TextBatch -> condition [B, E], in which two prompts can be mixed."""
        return self.pooler(text)

    def synthesis(
        self, z: Tensor, condition: Tensor, truncation_psi: float = 1.0, growth: Growth | None = None
    ) -> Tensor:
        """Noise and condition -> images. truncation_psi: 1 as trained, 0 the most typical image of a prompt."""
        raise NotImplementedError

    def training_noise(self, growth: Growth | None = None) -> int:
        """Normal numbers an image that `forward` takes in training, for style mixing and noise inputs."""
        return 0

    def forward(
        self,
        z: Tensor,
        text: TextBatch,
        truncation_psi: float = 1.0,
        growth: Growth | None = None,
        training_noise: Tensor | None = None,
    ) -> Tensor:
        """training_noise: [B, n], see the method of that name; None to draw a prompt."""
        return self.synthesis(z, self.pool(text), truncation_psi, growth)


class Discriminator(nn.Module):
    """Images [B, 3, r, r] and a TextBatch -> logits [B], or [B, heads] where it has several, in at least fp32.

    Its steps are apart, so that one pass over the images serves several captions, and the frozen backbone is run once
    for both phases:
    extract: images -> the maps of a frozen backbone; the images themselves where there is none.
    features_of_maps: these -> Features; features: images -> Features.
    read: TextBatch -> TextBatch of tokens as the pooler reads them. pool: TextBatch -> condition [B, E].
    logits: features and condition -> logits.

    group: images of a micro-batch that it compares with each other; 1 where it judges each alone.
    blocks_from_image: its blocks, the first one nearest to the image; fine-tuning may freeze some.
    growth: where one that grows stands if a call does not say.
    """

    pooler: AttentionPooler | SentencePooler
    growth: Growth
    grows: ClassVar[bool] = False
    group: ClassVar[int] = 1

    @property
    def blocks_from_image(self) -> list[nn.Module]:
        raise NotImplementedError

    def extract(self, images: Tensor) -> Any:
        """A tensor, or a list of them."""
        return images

    def features_of_maps(self, maps: Any, growth: Growth | None = None) -> Features:
        raise NotImplementedError

    def features(self, images: Tensor, growth: Growth | None = None) -> Features:
        return self.features_of_maps(self.extract(images), growth)

    def read(self, text: TextBatch) -> TextBatch:
        return self.pooler.read(text)

    def pool(self, text: TextBatch) -> Tensor:
        return self.pooler(text)

    def logits(self, features: Features, condition: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, images: Tensor, text: TextBatch) -> Tensor:
        return self.logits(self.features(images), self.pool(text))
