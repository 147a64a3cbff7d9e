"""The training step of DF-GAN as it was published, against t2i's: images a second, in turns.

    python benchmarks/published_step.py DATA [--batch 16] [--turns 5] [--only fp32]

The published loop, written anew from its description (not part of the product): NCHW, fp32, a pass over the real
images, one over generated ones, a step; a pass and a step of their own for the gradient penalty; then the generator's
step, with the images drawn already, through a discriminator that collects gradients which nobody reads. Its networks
compute in the published order, of the same mathematics as t2i's. DATA: a prepared data set, best of 64 px. --only
fp32 is for machines without bf16, --only bf16 for large images; the first row is then the one to compare with.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from script import run_script
from training_step import Steps, compare
from variants import settings_of

from t2i.convolution import Conv2d
from t2i.data.prepared import PreparedDataset
from t2i.device import pick_device
from t2i.models.dfgan import DiscriminatorBlock, GeneratorBlock
from t2i.models.registry import build_networks
from t2i.text.pooler import Conditioning
from t2i.training.loading import BatchLoader
from t2i.training.text import PreparedText

OURS = {
    "t2i, fp32": "precision=fp32",
    "t2i, fp32, penalty every 8th step": "precision=fp32,penalty_every=8",
    "t2i, --amp": "precision=bf16",
    "t2i, --amp, penalty every 8th step": "precision=bf16,penalty_every=8",
}
ON_CUDA = {"t2i, --amp, operations one by one": "precision=bf16,cuda_graphs=false"}


def generator_block(block: GeneratorBlock, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    residual = block.conv1(block.fuse1(x, condition))
    return block.shortcut(x) + block.conv2(block.fuse2(residual, condition))


def discriminator_block(block: DiscriminatorBlock, x: torch.Tensor) -> torch.Tensor:
    residual = F.leaky_relu(block.conv2(F.leaky_relu(block.conv1(x), 0.2)), 0.2)
    if block.shortcut.in_channels != block.shortcut.out_channels:
        x = block.shortcut(x)
    return F.avg_pool2d(x, 2) + block.gamma * residual


AS_PUBLISHED = {
    GeneratorBlock: generator_block,
    DiscriminatorBlock: discriminator_block,
    Conv2d: torch.nn.Conv2d.forward,
}


class Published:
    """The published loop; amp: with its own mixed precision, which left the penalty in fp32."""

    warm_up = 4

    def __init__(self, data: PreparedDataset, batch: int, device: torch.device, amp: bool = False):
        text = PreparedText(data)
        conditioning = Conditioning(text.statistics, "sentence")
        self.generator, self.discriminator = build_networks(
            "dfgan", data.resolution, conditioning, {}, "dfgan", {}, [data.resolution], seed=0
        )
        for network in (self.generator, self.discriminator):
            network.to(device)
            for module in network.modules():
                if forward := AS_PUBLISHED.get(type(module)):
                    module.forward = partial(forward, module)
        self.loader = BatchLoader(data, text, 0, device)
        betas = {"betas": (0.0, 0.9), "foreach": False, "fused": False}
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=1e-4, **betas)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=4e-4, **betas)
        self.batch, self.device, self.images_seen = batch, device, 0
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=amp)

    def take(self, count: int) -> float:
        _wait(self.device)
        started = time.perf_counter()
        for _ in range(count):
            self._step()
        _wait(self.device)
        return time.perf_counter() - started

    def _step(self) -> None:
        batch = self.loader.load(self.images_seen, self.batch)
        self.images_seen += self.batch
        images = batch.images.contiguous()  # NCHW
        d, noise = self.discriminator, torch.randn(self.batch, self.generator.z_dim, device=self.device)

        with self.autocast:
            condition, wrong = d.pool(batch.text), d.pool(batch.captions[batch.wrong[:, 0]])
            features = d.features(images)
            real, mismatch = d.logits(features, condition), d.logits(features, wrong)
            fakes = self.generator(noise, batch.text)
            fake = d.logits(d.features(fakes.detach()), condition)
        loss = F.relu(1 - real).mean() + (F.relu(1 + fake).mean() + F.relu(1 + mismatch).mean()) / 2
        self._descend(loss, self.optimizer_d)

        points, condition = images.detach().requires_grad_(True), condition.detach().requires_grad_(True)
        logits = d.logits(d.features(points), condition)
        gradients = torch.autograd.grad(
            logits, (points, condition), torch.ones_like(logits), retain_graph=True, create_graph=True
        )
        square = sum(gradient.flatten(1).square().sum(1) for gradient in gradients)
        self._descend(2.0 * (square**3).mean(), self.optimizer_d)

        with self.autocast:
            fake = d.logits(d.features(fakes), d.pool(batch.text))
        self._descend(-fake.mean(), self.optimizer_g)

    def _descend(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer_d.zero_grad()
        self.optimizer_g.zero_grad()
        loss.backward()
        optimizer.step()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8, help="a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", choices=("fp32", "bf16"))
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    data, device = PreparedDataset(options.data), pick_device(options.device)
    loops: dict[str, Callable[[], Published | Steps]] = {}
    for name, amp in (("published, fp32", False), ("published, bf16", True)):
        if not options.only or options.only in name:
            loops[name] = partial(Published, data, options.batch, device, amp)
    for name, settings in (OURS | ON_CUDA if device.type == "cuda" else OURS).items():
        if options.only and options.only not in settings:
            continue
        common = f"preset=published,augment=[],ema_kimg=10,batch={options.batch}"
        loops[name] = partial(Steps, settings_of(f"x=dfgan,{common},{settings}", data, device)[1], data, device)
    speeds = compare(loops, options.steps, options.turns, device)
    print(
        f"{data.path}, {data.resolution} px, nf 32, batch {options.batch}, {device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name, values in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(values, next(iter(speeds.values()))))
        spread = f"({min(values):.1f}-{max(values):.1f})"
        print(f"{name:36} {statistics.median(values):7.1f} images/s {spread:16} {ratio:.2f} times the first")


if __name__ == "__main__":
    run_script(main)
