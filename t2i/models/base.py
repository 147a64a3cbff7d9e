"""Base classes of generators and discriminators. Each has its own pooler of captions."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from t2i.layers import GROUP, ProjectionHead, downsample, leaky_relu
from t2i.models.growing import Growth, blend
from t2i.text.pooler import AttentionPooler, SentencePooler, TextBatch


class Features(NamedTuple):
    """Image features of a discriminator.

    summary: of the whole image, [B, C] or [B, C, h, w]. regions: of its regions, [B, C', h, w].
    """

    summary: Tensor
    regions: Tensor


class Generator(nn.Module):
    """Noise [B, Z] and a TextBatch -> images [B, C, r, r], about [-1, 1]: pool, then synthesis.

    channels: C, 3 but for grey and transparent images (pixels.py).

    resolution: of the images when fully grown. rgb_resolutions: resolutions of possible images. growth: the default
    stage of growing. rgb_skips: the image is a sum over resolutions.
    """

    z_dim: int
    channels: int
    resolution: int
    pooler: AttentionPooler | SentencePooler
    rgb_resolutions: Sequence[int]
    growth: Growth
    grows: ClassVar[bool] = False
    rgb_skips: ClassVar[bool] = False

    def pool(self, text: TextBatch) -> Tensor:
        """TextBatch -> condition [B, E], which can be interpolated between prompts."""
        return self.pooler(text)

    def synthesis(
        self, z: Tensor, condition: Tensor, truncation_psi: float | Tensor = 1.0, growth: Growth | None = None
    ) -> Tensor:
        """Noise and condition -> images.

        truncation_psi: 1 as trained, towards 0 less varied; a scalar tensor where it is an input of an ONNX graph.
        """
        raise NotImplementedError

    def training_noise(self, growth: Growth | None = None) -> int:
        """The count of normal numbers an image that `forward` takes in training, for style mixing and noise inputs."""
        return 0

    def forward(
        self,
        z: Tensor,
        text: TextBatch,
        truncation_psi: float = 1.0,
        growth: Growth | None = None,
        training_noise: Tensor | None = None,
    ) -> Tensor:
        """training_noise: [B, n], see the method of that name; None at inference."""
        return self.synthesis(z, self.pool(text), truncation_psi, growth)


class Discriminator(nn.Module):
    """Images [B, C, r, r] and a TextBatch -> logits [B], or [B, heads] where it has several, in at least fp32.

    Its steps are separate methods, so that one pass over the images serves several captions, and the frozen backbone
    runs once for both phases:
    extract: images -> feature maps of a frozen backbone; without a backbone the images themselves.
    features_of_maps: maps -> Features; features: images -> Features.
    read: TextBatch -> TextBatch of the pooler's tokens. pool: TextBatch -> condition [B, E].
    logits: features and condition -> logits.

    channels: C. rgb_alone: it is 3 whatever the data are, and images become RGB first; else C is the generator's.
    group: images of a minibatch that affect each other's logits (minibatch standard deviation); 1: none.
    blocks_from_image: its blocks, the one nearest to the image first; fine-tuning may freeze some.
    growth: the default stage of growing.
    """

    pooler: AttentionPooler | SentencePooler
    growth: Growth
    channels: int = 3
    rgb_alone: ClassVar[bool] = False
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


class GrowingDiscriminator(Discriminator):
    """A discriminator of one block a resolution, which can grow (Karras et al. 2018, fig. 2).

    from_rgb, blocks: by resolution; blocks[r] takes maps of r px to r / 2, down to 4 px. head: its features take
    the standard deviation over groups of images (sec. 3 there).
    """

    grows, group = True, GROUP
    from_rgb: nn.ModuleDict
    blocks: nn.ModuleDict
    head: ProjectionHead

    @property
    def blocks_from_image(self) -> list[nn.Module]:
        first, *others = sorted(self.blocks, key=int, reverse=True)
        return [nn.ModuleList([self.from_rgb, self.blocks[first]]), *(self.blocks[side] for side in others)]

    def features_of_maps(self, maps: Tensor, growth: Growth | None = None) -> Features:
        """[B, C, r, r] -> [B, N] and [B, N', 4, 4]."""
        growth = growth or self.growth
        side = growth.resolution
        x = self._from_rgb(maps, side)
        if growth.fades:  # the new resolution's block has weight alpha; an image of half the size bypasses it
            bypass = self._from_rgb(downsample(maps), side // 2).to(x.dtype)
            x = blend(bypass, self.blocks[str(side)](x), growth.alpha)
            side //= 2
        while side > 4:
            x = self.blocks[str(side)](x)
            side //= 2
        return Features(self.head.features(x), x)

    def _from_rgb(self, images: Tensor, side: int) -> Tensor:
        return leaky_relu(self.from_rgb[str(side)](images))

    def logits(self, features: Features, condition: Tensor) -> Tensor:
        return self.head.logits(features.summary, condition)
