"""All state of a run, and the one way to take a step.

`Trainer.parts` is what a checkpoint holds. All else of a run follows from its settings and the images seen.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t2i.config import TrainConfig
from t2i.device import make_current
from t2i.losses.adversarial import LOSSES
from t2i.losses.base import Networks, Term
from t2i.losses.penalties import PENALTIES
from t2i.losses.registry import TERMS
from t2i.models.base import Discriminator, Features, Generator
from t2i.models.folder import load_model
from t2i.models.registry import build_networks
from t2i.text.pooler import Conditioning, TextStatistics, sync_token_mixer
from t2i.training.batch import Batch
from t2i.training.begin_with import Source, read_state, transfer
from t2i.training.checkpoint import load_checkpoint, load_network, read_part
from t2i.training.cuda_graphs import StepGraphs
from t2i.training.distributed import ALONE, Ranks
from t2i.training.ema import EMA
from t2i.training.nan_guard import LEAST_SCALE, NanGuard
from t2i.training.randomness import StepRandom, derive_seed
from t2i.training.schedule import Schedule, StepPlan
from t2i.training.statistics import Statistics
from t2i.training.step import Objective, Phase, Shared, discriminator_loss, generator_loss, warm_up_loss
from t2i.training.text import FrozenText, TrainedText

# Parts that a checkpoint of a run with other losses lacks.
OPTIONAL_PARTS = tuple(TERMS)


class Trainer:
    """Networks, averages, optimisers. Built anew from a config; `load` fills it from a checkpoint.

    text: how captions reach it. ranks: the processes that share each batch. networks, optimizers: generator and
    discriminator, and their optimisers, where the caller has them already. channels: of the images.
    """

    def __init__(
        self,
        config: TrainConfig,
        resolution: int,
        text: FrozenText | TrainedText,
        device: torch.device,
        ranks: Ranks = ALONE,
        networks: tuple[Generator, Discriminator] | None = None,
        optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer] | None = None,
        channels: int = 3,
    ):
        self.config, self.text, self.resolution = config, text, resolution
        self.device, self.ranks = device, ranks
        make_current(device)
        self.generator, self.discriminator = networks or make_networks(config, resolution, text.statistics, channels)
        sync_token_mixer(self.discriminator.pooler, self.generator.pooler)
        self.terms = make_terms(config, self.generator, self.discriminator, resolution)
        for network in (self.generator, self.discriminator):
            network.to(memory_format=torch.channels_last).to(device)
        self.ema = EMA(self.generator, config.optim.ema_kimg * 1000)
        self.images_before = 0  # that the networks saw in the runs that this one begins with
        heads = {term.name: term.module for term in self.terms if term.module is not None}
        extras = {**text.modules(), **heads}
        for module in extras.values():
            module.to(device)
        self.statistics = Statistics()
        self.phases = self._make_phases([text.encoder, *heads.values()], optimizers)
        self.objective = Objective(
            self.generator, self.discriminator, text.encoder,
            adversarial=LOSSES[config.adversarial.kind],
            penalty=PENALTIES[config.penalty.kind],
            terms=self.terms,
            augment=config.adversarial.augment,
            shared_fakes=config.adversarial.shared_fakes,
            # Of several micro-batches all graphs would be kept.
            phases_share=config.optim.accumulate == 1,
            statistics=self.statistics,
        )  # fmt: skip
        frozen = config.optim.freeze_d
        self.frozen_blocks = self.discriminator.blocks_from_image[:frozen] if frozen else []
        self.guard = NanGuard(self.statistics, late=device.type == "cuda")
        self.scalers = self._make_scalers()
        # Not capturable: np.flatnonzero of word-region runs on the host, and so does fp16's loss scale.
        capturable = not (config.optim.precision == "fp16" or "word_region" in config.terms)
        self.graphs = None
        if device.type == "cuda" and config.optim.cuda_graphs and capturable:
            self.graphs = StepGraphs(self.statistics, text.encoder)
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "ema": self.ema.model,
            "optimizer_d": self.phases[0].optimizer,
            "optimizer_g": self.phases[1].optimizer,
            **extras,
        }

    def step(self, plan: StepPlan, batch: Batch, rng: StepRandom) -> None:
        """Train on one batch: this rank's rows of it, at plan.growth. Metrics go to `statistics`.

        Raises NotFinite in place of a step that would write NaN: on CUDA a step later, or when the guard is flushed.
        """
        if plan.reset_optimizers:
            for phase in self.phases:
                phase.optimizer.state.clear()
            self._drop_graphs()
        rng = rng.take(self.ranks.rows(plan.batch))
        shared: Shared | None = None
        for phase, lr in zip(self.phases, (plan.lr_d, plan.lr_g)):
            if plan.warm_up and phase.name == "D":
                continue
            phase.optimizer.param_groups[0]["lr"] = lr
            backward = partial(self._backward, phase)
            if self.graphs is None or self.config.optim.accumulate > 1:
                shared = backward(plan, batch, rng, shared)
            else:
                shared = self.graphs.run(phase, backward, plan, batch, rng, shared)
            self.ranks.sum_gradients(phase.module)
            self._update(phase, plan)
        images_seen = plan.images_seen + plan.batch
        # Not between the phases: images that both share would be drawn by one reading and learned from by another.
        sync_token_mixer(self.discriminator.pooler, self.generator.pooler)
        self.ema.update(self.generator, self.images_before + images_seen, plan.batch)
        self.text.average(images_seen, plan.batch)

    def _backward(
        self, phase: Phase, plan: StepPlan, batch: Batch, rng: StepRandom, shared: Shared | None
    ) -> Shared | None:
        """Gradients of one phase, summed over the micro-batches. Takes and returns what the phases share."""
        self.phases[0].module.requires_grad_(phase.name == "D")
        for block in self.frozen_blocks:
            block.requires_grad_(False)
        phase.optimizer.zero_grad(set_to_none=True)
        loss_of = warm_up_loss if plan.warm_up else phase.loss
        found: Shared | None = None
        for piece, numbers in self._micro_batches(batch, rng):
            loss, found = loss_of(self.objective, plan, piece, numbers, shared)
            self.scalers[phase.name].scale(loss * (len(piece) / plan.batch)).backward()
        return found

    def _micro_batches(self, batch: Batch, rng: StepRandom) -> Iterator[tuple[Batch, StepRandom]]:
        """The pieces of a batch, each with its rows of the random numbers."""
        size, first = len(batch) // self.config.optim.accumulate, rng.rows.start
        for start in range(0, len(batch), size):
            yield batch[slice(start, start + size)], rng.take(slice(first + start, first + start + size))

    def _update(self, phase: Phase, plan: StepPlan) -> None:
        scaler = self.scalers[phase.name]
        scaler.unscale_(phase.optimizer)
        self.guard.check(phase.name, phase.module, phase.optimizer, plan.images_seen, scaler)
        scaler.step(phase.optimizer)
        scaler.update()

    def _make_phases(
        self,
        extra_d: list[nn.Module | None],
        optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer] | None,
    ) -> list[Phase]:
        """D and G. extra: what trains beside the networks. optimizers: of the generator, of the discriminator."""
        optim = self.config.optim
        trained_d = nn.ModuleList([m for m in (self.discriminator, *extra_d) if m is not None])
        trained_g = nn.ModuleList([self.generator])
        optimizer_g, optimizer_d = optimizers or (
            make_adam(trained_g, optim.lr_g, self.config, self.device),
            make_adam(trained_d, optim.lr_d, self.config, self.device),
        )
        return [
            Phase("D", trained_d, optimizer_d, discriminator_loss),
            Phase("G", trained_g, optimizer_g, generator_loss),
        ]

    def _make_scalers(self) -> dict[str, torch.amp.GradScaler]:
        """One for each phase, of its loss: they do nothing but in fp16."""
        enabled = self.config.optim.precision == "fp16"
        return {phase.name: torch.amp.GradScaler(self.device.type, enabled=enabled) for phase in self.phases}

    def _drop_graphs(self) -> None:
        """Steps of another resolution or phase do not come again: what is captured of them is memory."""
        if self.graphs is not None:
            self.graphs.clear()

    def stop_capturing(self) -> str | None:
        """Why steps cannot be captured, once: later steps then run eagerly. None while they can."""
        if self.graphs is None or self.graphs.refusal is None:
            return None
        refusal, self.graphs = self.graphs.refusal, None
        return refusal

    # ---- checkpoints ----

    def load(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Fill from a verified checkpoint. Raises UserError, one line, where it does not fit."""
        load_checkpoint(folder, self.parts)
        self.images_before = state.get("images_before", 0)
        self.statistics.read()
        self.guard.clear()
        self.scalers = self._make_scalers()  # one that a failed step has left takes no other
        for name, scaler in self.scalers.items():
            if scaler.is_enabled():  # written while steps overflowed, a checkpoint has a scale that would stop the next
                kept = state["scalers"][name]
                scaler.load_state_dict({**kept, "scale": max(kept["scale"], LEAST_SCALE)})

    def begin_with(self, source: Source) -> bool:
        """Take the networks of a run, or the generator of a model; the optimisers begin anew, the average goes on.

        The statistics of its captions, which its poolers were trained with, come with them. Returns whether the
        discriminator came too. Raises UserError, one line, where a network does not fit.
        """
        state = read_state(source)
        self.images_before = state["images_seen"] + state.get("images_before", 0)
        model, description, _ = load_model(source.model)
        same = description.resolution == self.resolution
        whole = source.checkpoint is not None and same
        if whole:
            assert source.checkpoint is not None
            for name in ("generator", "discriminator", "ema", *OPTIONAL_PARTS):
                if name in self.parts:
                    part = self.parts[name]
                    assert isinstance(part, nn.Module)
                    load_network(source.checkpoint, name, part, optional=name in OPTIONAL_PARTS)
            return True
        for network in (self.generator, self.ema.model):
            transfer(model.state_dict(), network, source.name)
        if source.checkpoint is not None:
            transfer(read_part(source.checkpoint, "generator"), self.generator, source.name)
        # The new discriminator reads captions as the generator does, which its own mixer is a copy of from now on.
        sync_token_mixer(self.generator.pooler, self.discriminator.pooler)
        for name, value in self.generator.pooler.named_buffers(recurse=False):  # the captions' statistics
            getattr(self.discriminator.pooler, name).copy_(value)
        return False


def make_networks(
    config: TrainConfig, resolution: int, statistics: TextStatistics, channels: int = 3
) -> tuple[Generator, Discriminator]:
    """New networks of a run. Raises ValueError or TypeError where their settings make none."""
    return build_networks(
        config.arch,
        resolution,
        conditioning_of(config, statistics),
        config.generator,
        str(config.discriminator_kind),
        config.discriminator,
        Schedule(config, resolution).resolutions,
        derive_seed(config.run.seed, "weights"),
        channels,
    )


def conditioning_of(config: TrainConfig, statistics: TextStatistics) -> Conditioning:
    """How captions enter the networks of a run."""
    return Conditioning(statistics, config.text.conditioning, config.text.layers, config.text.lr_multiplier)


def make_adam(network: nn.Module, lr: float, config: TrainConfig, device: torch.device) -> torch.optim.Adam:
    """Adam with the run's betas, in one fused kernel where the device has one."""
    betas = config.optim.beta1, config.optim.beta2
    return torch.optim.Adam(network.parameters(), lr=lr, betas=betas, fused=device.type in ("cuda", "cpu"))


def make_terms(config: TrainConfig, generator: Generator, discriminator: Discriminator, resolution: int) -> list[Term]:
    """The terms that the config asks for, in the registry's order."""
    wanted = {name: term for name, term in TERMS.items() if name in config.terms}
    if not wanted:
        return []
    with torch.no_grad():
        blank = next(discriminator.parameters()).new_zeros(1, discriminator.channels, resolution, resolution)
        features: Features = discriminator.features(blank)
    networks = Networks(generator, discriminator, resolution, features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.run.seed, "contrast"))
        return [
            term(term.Settings(**config.terms[name]), networks, config.text.lr_multiplier)
            for name, term in wanted.items()
        ]
