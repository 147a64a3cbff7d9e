"""The peer that a user would pick instead of a GAN: a text-conditional rectified flow (Liu et al. 2023), of its size.

diffusers' UNet with cross-attention over the same token embeddings, captions dropped in 10 % of the rows, an average of
the weights, 20 Euler steps with classifier-free guidance (Ho & Salimans 2022). quality.py trains and scores it.
"""

import copy
import time

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from t2i.data.prepared import PreparedDataset
from t2i.precision import to_pixels
from t2i.tensors import noise_of_seed
from t2i.text.pooler import TextBatch, TextStatistics
from t2i.training.ema import EMA
from t2i.training.loading import BatchLoader
from t2i.training.text import PreparedText

STEPS, DROPPED, BATCH, LR = 20, 0.1, 32, 1e-3
GUIDANCES = (1.0, 2.0, 4.0)
CHANNELS = {32: (32, 64, 96), 64: (32, 64, 96, 128)}


def make_unet(resolution: int) -> UNet2DConditionModel:
    """2 to 6 M parameters; attention from half of the resolution down."""
    channels = CHANNELS[resolution]
    deeper = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=resolution, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=channels,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * deeper),
        up_block_types=(*["CrossAttnUpBlock2D"] * deeper, "UpBlock2D"),
        cross_attention_dim=384, attention_head_dim=8, norm_num_groups=16,
    )  # fmt: skip


class RectifiedFlow:
    """Trains in parts, like a run; `sampler(guidance)` draws."""

    def __init__(self, data: PreparedDataset, seed: int, device: torch.device, precision: str = "bf16"):
        torch.manual_seed(seed)
        self.data, self.device = data, device
        self.dtype = torch.bfloat16 if precision == "bf16" else None
        self.unet = make_unet(data.resolution).to(device, memory_format=torch.channels_last)
        self.ema = EMA(self.unet, 10_000)
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), LR, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        text = PreparedText(data)
        self.statistics = text.statistics
        self.loader = BatchLoader(data, text, seed, device)
        self.images_seen = 0

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.unet.parameters())

    def train(self, minutes: float) -> None:
        """For so many minutes more."""
        until = time.monotonic() + 60 * minutes
        while time.monotonic() < until:
            batch = self.loader.load(self.images_seen, BATCH)
            tokens, mask = standardised(batch.text, self.statistics)
            mask = mask & (torch.rand(BATCH, 1, device=self.device) >= DROPPED)
            noise = torch.randn_like(batch.images)
            times = torch.randn(BATCH, device=self.device).sigmoid()  # logit-normal (Esser et al. 2024)
            mixed = torch.lerp(noise, batch.images, times[:, None, None, None])
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                found = velocity(self.unet, mixed, times, tokens, mask)
            loss = F.mse_loss(found.float(), batch.images - noise)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
            self.optimizer.step()
            self.images_seen += BATCH
            self.ema.update(self.unet, self.images_seen, BATCH)

    def sampler(self, guidance: float) -> "FlowSampler":
        return FlowSampler(copy.deepcopy(self.ema.model), self.data.resolution, self.statistics, guidance, self.device)


class FlowSampler:
    """Draws as t2i.sampling.Sampler does."""

    def __init__(
        self, unet: UNet2DConditionModel, resolution: int, statistics: TextStatistics, guidance: float,
        device: torch.device,
    ):  # fmt: skip
        self.unet, self.resolution, self.statistics, self.guidance = unet, resolution, statistics, guidance
        self.device = device

    @torch.inference_mode()
    def images(self, text: TextBatch, seeds: list[int], truncation_psi: float = 1.0) -> Tensor:
        """One image for each caption and seed: uint8 [N, R, R, 3]."""
        side = self.resolution
        x = torch.stack([noise_of_seed(int(seed), 3 * side * side).view(3, side, side) for seed in seeds])
        x = x.to(self.device)
        tokens, mask = standardised(text.to(self.device), self.statistics)
        for step in range(STEPS):
            times = torch.full((len(x),), step / STEPS, device=self.device)
            found = velocity(self.unet, x, times, tokens, mask)
            if self.guidance != 1:
                plain = velocity(self.unet, x, times, tokens, torch.zeros_like(mask))
                found = plain + self.guidance * (found - plain)
            x = x + found / STEPS
        return to_pixels(x)


def standardised(text: TextBatch, statistics: TextStatistics) -> tuple[Tensor, Tensor]:
    """Tokens [B, L, T] with mean 0 and deviation 1, and their mask."""
    mean, std = (value.to(text.tokens.device) for value in (statistics.token_mean, statistics.token_std))
    return (text.tokens - mean) / std, text.mask


def velocity(unet: UNet2DConditionModel, x: Tensor, times: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """dx/dt at [B, 3, R, R]. A caption that is dropped has no token to look at: one of zeros stands for it."""
    tokens = torch.cat([torch.zeros_like(tokens[:, :1]), tokens], dim=1)
    seen = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)
    return unet(x, 1000 * times, tokens, encoder_attention_mask=seen).sample
