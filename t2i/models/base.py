"""What every generator and discriminator has in common: text goes through its own pooler, then into the network."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from t2i.text.pooler import AttentionPooler, SentencePooler, TextBatch


class Features(NamedTuple):
    """What a discriminator sees in pictures.

    summary: of the whole picture, [B, C] or [B, C, h, w]. regions: [B, C', h, w], of its places.
    """

    summary: Tensor
    regions: Tensor


class Generator(nn.Module):
    """noise [B, Z] and a TextBatch -> images [B, 3, R, R], about [-1, 1]: pool, then synthesis.

    pool: TextBatch -> condition [B, E], in which two prompts can be mixed.
    synthesis: noise and condition -> images. truncation_psi: 1 as trained, 0 the most typical picture of a prompt.

    A generator that training shakes (style mixing, noise images) says in `training_noise` how many normal numbers it
    takes for that a picture, and has a keyword `shake` [B, training_noise] in its call.
    """

    z_dim: int
    resolution: int
    pooler: AttentionPooler | SentencePooler

    def pool(self, text: TextBatch) -> Tensor:
        return self.pooler(text)

    def synthesis(self, z: Tensor, condition: Tensor, truncation_psi: float = 1.0) -> Tensor:
        raise NotImplementedError

    def forward(self, z: Tensor, text: TextBatch, truncation_psi: float = 1.0) -> Tensor:
        return self.synthesis(z, self.pool(text), truncation_psi)


class Discriminator(nn.Module):
    """images [B, 3, R, R] and a TextBatch -> logits [B], or [B, heads] where it has several, in at least fp32.

    Its steps are apart, so that one pass over the images serves several captions, and what no training changes is done
    once for both phases:
    look: images -> what a frozen network makes of them; the images themselves where there is none
    features: images -> Features; features_of: the same from what `look` gave
    read: TextBatch -> TextBatch of tokens as the pooler reads them; pool: TextBatch -> condition [B, E]
    logits: features and condition -> logits
    """

    pooler: AttentionPooler | SentencePooler

    def look(self, images: Tensor) -> Any:
        """A tensor, or a list of them."""
        return images

    def features(self, images: Tensor) -> Features:
        raise NotImplementedError

    def features_of(self, seen: Any) -> Features:
        return self.features(seen)

    def read(self, text: TextBatch) -> TextBatch:
        return self.pooler.read(text)

    def pool(self, text: TextBatch) -> Tensor:
        return self.pooler(text)

    def logits(self, features: Features, condition: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, images: Tensor, text: TextBatch) -> Tensor:
        return self.logits(self.features(images), self.pool(text))
