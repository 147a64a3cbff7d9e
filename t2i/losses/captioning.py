"""The term that has a picture say its caption, word after word: what do the discriminator's features know of it?

Whether a picture and a caption match says which words belong to a picture, and little of their order (Yuksekgonul et
al. 2023). To foretell the word after "a red circle" one has to find the circle and to see where it lies; so captioning
teaches relations that matching does not (CapPa: Tschannen et al. 2023). In a GAN the generator, too, is told what a
reader would say of its picture (MirrorGAN: Qiao et al. 2019). The form is GIT's (Wang et al. 2022): one small
Transformer over the picture's tokens, which see each other, and after them the caption's, which see the picture and
the words before them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.precision import at_least_fp32
from t2i.text.pooler import TextBatch
from t2i.text.transformer import Block, LayerNorm, sinusoids

PLACES = 16  # tokens that a picture becomes where its features are one vector


class CaptionHead(nn.Module):
    """Features of pictures and their captions -> how likely each caption is.

    features: the shape of what is said about, (C,) or (C, h, w), without the batch; a map's places are its tokens.
    vocabulary: ids lie in [0, vocabulary).

    forward: features [B, C] or [B, C, h, w] and ids (a TextBatch of int64 [B, L]) -> the log-likelihood of each word
    given the picture and the words before it, [B, L], at least float32, 0 at padding.
    """

    def __init__(
        self, features: tuple[int, ...], vocabulary: int, *, width: int = 128, layers: int = 2, heads: int = 4
    ):
        super().__init__()
        channels, *sides = features
        self.width = width
        self.places = sides[0] * sides[1] if sides else PLACES
        self.picture = nn.Linear(channels, width if sides else PLACES * width)
        self.place = nn.Parameter(torch.randn(self.places, width))
        self.start = nn.Parameter(torch.randn(width))
        # As in TransformerEncoder: times sqrt(width) where words go in, so that they are as large as positions.
        self.word = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.word.weight, std=width**-0.5)
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(layers))
        self.norm = LayerNorm(width)

    def forward(self, features: Tensor, ids: TextBatch) -> Tensor:
        batch, length = ids.tokens.shape
        with torch.autocast(features.device.type, enabled=False):
            before = self.word(ids.tokens[:, :-1]) * self.width**0.5
            words = torch.cat([self.start.expand(batch, 1, -1), before], dim=1)  # the word before each, [B, L, W]
            words = words + sinusoids(length, self.width, words.device)
            x = torch.cat([self._tokens(at_least_fp32(features)), words], dim=1)  # [B, P + L, W]
            seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
            seen[: self.places, : self.places] = True
            for block in self.blocks:
                x = block(x, seen, (1.0, 1.0))
            logits = self.norm(x[:, self.places :]) @ self.word.weight.T  # [B, L, V]
            return -F.cross_entropy(logits.transpose(1, 2), ids.tokens, reduction="none") * ids.mask

    def _tokens(self, features: Tensor) -> Tensor:  # [B, P, W]
        if features.ndim > 2:
            return self.picture(features.flatten(2).transpose(1, 2)) + self.place
        return self.picture(features).unflatten(1, (self.places, self.width)) + self.place
