"""Self-attention over the tokens of a caption, a Transformer block, and the token mixer.

Vaswani et al., "Attention Is All You Need", NIPS 2017, with the norms before each sub-layer (pre-norm; Xiong et al.
2020) and GELU in place of ReLU.
"""

import contextlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from t2i.convolution import is_differentiated_twice
from t2i.layers import Linear
from t2i.precision import at_least_fp32

SLOPES = (1.0, 0.5, 0.25, 0.0)  # of the heads of one direction: fewer and steeper than ALiBi's, the last one flat


class LayerNorm(nn.LayerNorm):
    """In fp32 at least, whatever the precision around it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(at_least_fp32(x), self.normalized_shape, self.weight, self.bias, self.eps)


class SelfAttention(nn.Module):
    """Multi-head self-attention (sec. 3.2.2). The output at padding is undefined."""

    def __init__(self, width: int, heads: int, lr_multiplier: float = 1.0):
        super().__init__()
        self.heads = heads
        # No bias: that of the keys cancels in the softmax, that of the values is a bias of `out`.
        self.qkv = Linear(width, 3 * width, bias=False, lr_multiplier=lr_multiplier)
        self.out = Linear(width, width, lr_multiplier=lr_multiplier)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """x [B, L, W]; allowed [B, 1 or H, 1 or L, L]: True at visible keys, or a float added to the scores."""
        qkv = at_least_fp32(self.qkv(x)).unflatten(2, (3, self.heads, -1))  # [B, L, 3, H, W / H]
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, L, W / H]
        # The fused kernels have no second derivatives.
        kernels = sdpa_kernel(SDPBackend.MATH) if is_differentiated_twice() else contextlib.nullcontext()
        with torch.autocast(x.device.type, enabled=False), kernels:
            x = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return self.out(x.transpose(1, 2).flatten(2))  # [B, H, L, W / H] -> [B, L, W]


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)); `keep` scales the channels of each sub-layer's result.

    Every layer keeps the variance of its input. Residual branches start small, for a stack of `layers` blocks (Radford
    et al. 2019).
    """

    def __init__(self, width: int, heads: int, feed_forward: int, layers: int = 1, lr_multiplier: float = 1.0):
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attention = SelfAttention(width, heads, lr_multiplier)
        self.norm2 = LayerNorm(width)
        self.expand = Linear(width, feed_forward, lr_multiplier=lr_multiplier)
        self.contract = Linear(feed_forward, width, lr_multiplier=lr_multiplier)
        for linear in (self.attention.qkv, self.attention.out, self.expand, self.contract):
            linear.keep_variance()
        for linear in (self.attention.out, self.contract):
            linear.weight.data.mul_((2 * layers) ** -0.5)

    def forward(self, x: Tensor, allowed: Tensor, keep: Sequence[Tensor | float] = (1.0, 1.0)) -> Tensor:
        x = x + keep[0] * self.attention(self.norm1(x), allowed)
        return x + keep[1] * self.contract(F.gelu(self.expand(self.norm2(x))))


class TokenMixer(nn.Module):
    """Transformer blocks that add word order: half of the heads attend to earlier words, half to later ones.

    The last layer of a sentence encoder hardly encodes which of two objects is the left one. With one-directional heads
    a sum does: "left of" after a noun counts for it, before a noun against it. Distance lowers a score linearly, as
    in ALiBi (Press et al. 2022), with slopes of our own. docs/research-log/2026-11-27-recipes.md has the measurements.

    forward: tokens [B, L, T] and mask [B, L] -> [B, L, width]; the output at padding is undefined.
    """

    slopes: Tensor

    def __init__(self, tokens: int, layers: int, width: int = 128, heads: int = 8, lr_multiplier: float = 1.0):
        super().__init__()
        if layers < 1:
            raise ValueError(f"text.layers is 0 or more, not {layers}")
        self.width = width
        self.enter = Linear(tokens, width, lr_multiplier=lr_multiplier)
        self.blocks = nn.ModuleList(Block(width, heads, 2 * width, layers, lr_multiplier) for _ in range(layers))
        slopes = torch.tensor(SLOPES).repeat(heads // 2 // len(SLOPES))
        self.register_buffer("slopes", slopes, persistent=False)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.enter(tokens)
        allowed = self.scores(mask)
        for block in self.blocks:
            x = block(x, allowed)
        return x

    def scores(self, mask: Tensor) -> Tensor:
        """The bias of the attention scores, [B, H, L, L]: -inf at hidden keys. Each token sees itself."""
        positions = torch.arange(mask.shape[1], device=mask.device)
        ahead = positions - positions[:, None]  # [L, L], of a key from its query
        near = -self.slopes[:, None, None] * ahead.abs()  # [H / 2, L, L]
        biases = torch.cat([near.masked_fill(ahead > 0, float("-inf")), near.masked_fill(ahead < 0, float("-inf"))])
        hidden = ~mask[:, None, None, :] & (ahead != 0)  # [B, 1, L, L]
        return biases.masked_fill(hidden, float("-inf"))
