"""What a run trains: networks, averages, optimisers, the objective; all of its state in one place.

`TrainingState.parts` is what a checkpoint holds. All else of a run follows from its settings and the images seen.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2i.config import TrainConfig
from t2i.device import make_current
from t2i.losses.adversarial import LOSSES
from t2i.losses.augment import blur_reach
from t2i.losses.contrastive import ContrastiveHead, PlacesHead
from t2i.losses.noise import NoiseEncoder
from t2i.losses.penalties import PENALTIES
from t2i.models import get_architecture
from t2i.models.growing import Growth, set_growth
from t2i.text.pooler import share_reading
from t2i.training.batch import Batch
from t2i.training.checkpoint import load_checkpoint, load_network
from t2i.training.distributed import Ranks
from t2i.training.ema import EMA
from t2i.training.finite import LEAST_SCALE, GradientCheck
from t2i.training.graphs import StepGraphs
from t2i.training.growth import Schedule, Span, single
from t2i.training.objective import GANObjective, Phase
from t2i.training.randomness import StepRandom, derive_seed
from t2i.training.setup import contrast_weight
from t2i.training.text import PreparedText, TrainedText

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingState:
    """Built anew from a config; `load` fills it from a checkpoint."""

    def __init__(self, config: TrainConfig, resolution: int, text: PreparedText | TrainedText, device: torch.device):
        self.config, self.text, self.resolution, self.device = config, text, resolution, device
        make_current(device)
        self.options = network_options(config, resolution)
        self.generator, self.discriminator = get_architecture(config.arch).build(
            resolution, config.conditioning, text.statistics, self.options, derive_seed(config.seed, "weights")
        )
        share_reading(self.discriminator.pooler, self.generator.pooler)
        terms = contrastive_terms(config, self.discriminator, resolution)
        for network in (self.generator, self.discriminator):
            network.to(device, memory_format=torch.channels_last)
        self.ema = EMA(self.generator, config.ema_kimg * 1000)
        self.images_before = 0  # that the networks saw in the runs that this one begins with
        encoders = noise_encoder(config, self.generator, resolution)
        extras = {**text.modules(), **terms, **encoders}
        for module in extras.values():
            module.to(device)
        judges = nn.ModuleList([m for m in (self.discriminator, text.encoder, *terms.values()) if m is not None])
        self.objective = make_objective(config, self.generator, self.discriminator, text.encoder, **terms, **encoders)
        painters = nn.ModuleList(self.objective.drawer.networks)
        self.phases = [
            Phase("D", judges, make_adam(judges, config.lr_d, config, device)),
            Phase("G", painters, make_adam(painters, config.lr_g, config, device)),
        ]
        self.objective.drawer.noises_at_once = device.type == "cuda"
        self.check = GradientCheck(self.objective.statistics, late=device.type == "cuda")
        self.scalers = self._make_scalers()
        # A word that sits at a mirrored picture is looked for on the host; a loss's scale changes there.
        recordable = device.type == "cuda" and config.cuda_graphs and not (config.precision == "fp16" or config.places)
        self.graphs = StepGraphs(self.objective) if recordable else None
        self.dials = Growth(resolution), 0.0
        self.parts = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "ema": self.ema.model,
            "optimizer_d": self.phases[0].optimizer,
            "optimizer_g": self.phases[1].optimizer,
            **extras,
        }

    def _make_scalers(self) -> dict[str, torch.amp.GradScaler]:
        """One for each phase, of its loss: they do nothing but in fp16."""
        enabled = self.config.precision == "fp16"
        return {phase.name: torch.amp.GradScaler(self.device.type, enabled=enabled) for phase in self.phases}

    def load(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Fill from a verified checkpoint. Raises UserError, one line, where it does not fit."""
        load_checkpoint(folder, self.parts)
        self.images_before = state.get("images_before", 0)
        self.check.forget()
        self.scalers = self._make_scalers()  # one that a failed step has left takes no other
        for name, scaler in self.scalers.items():
            if scaler.is_enabled():  # written while steps overflowed, a checkpoint has a scale that would stop the next
                kept = state["scalers"][name]
                scaler.load_state_dict({**kept, "scale": max(kept["scale"], LEAST_SCALE)})

    def begin_with(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Take the networks of another run's verified checkpoint; the optimisers begin anew, the average goes on.

        The statistics of its captions, which its poolers were trained with, come with them. Raises UserError, one line,
        where a network does not fit.
        """
        self.images_before = state["images_seen"] + state.get("images_before", 0)
        may_lack = ("contrast", "places", "noise_encoder")
        for name in ("generator", "discriminator", "ema", *may_lack):
            there = name not in may_lack or (folder / f"{name}.safetensors").is_file()
            if name in self.parts and there:
                load_network(folder, name, self.parts[name])

    def enter(self, span: Span, images_seen: int) -> None:
        """Put networks, optimisers, penalty and blur where they stand for the step that begins at `images_seen`."""
        growth, pretraining = span.growth(images_seen), 1000 * self.config.pretrain_kimg
        self.objective.pretraining = images_seen < pretraining
        # Moments of another resolution mislead (Karras et al. 2018, sec. A.1), and so do those of pretraining: the
        # gradients of the losses after it are a thousand times as large.
        begins = images_seen == span.start or images_seen - span.batch < pretraining <= images_seen
        for phase, lr in zip(self.phases, (span.lr_d, span.lr_g)):
            if begins:
                phase.optimizer.state.clear()
            phase.optimizer.param_groups[0]["lr"] = lr
        if self.objective.pretraining and self.config.pretrain_lr:
            share = images_seen / pretraining
            lr = span.lr_g + (self.config.pretrain_lr - span.lr_g) * (1 + math.cos(math.pi * share)) / 2
            self.phases[1].optimizer.param_groups[0]["lr"] = lr
        self.objective.penalty_weight = penalty_weight(self.config, span, self.resolution)
        sigma = blur_sigma(self.config, images_seen, growth.resolution)
        reach = blur_reach(sigma)
        # Steps of another resolution, phase or width of blur do not come again: what is recorded of them is memory.
        if self.graphs is not None and (begins or reach != self.objective.drawer.blur_reach):
            self.graphs.forget()
        self._stand(growth, sigma)
        self.objective.drawer.blur_reach = reach
        self.dials = growth, sigma

    @property
    def due(self) -> list[Phase]:
        """The phases of this step: while the generator is pretrained, its own alone."""
        return [phase for phase in self.phases if phase.name == "G" or not self.objective.pretraining]

    def accumulate(
        self, phase: Phase, batch: Batch, pieces: int, step: int, random: StepRandom, ranks: Ranks, total: int
    ) -> None:
        """Gradients of one phase over this rank's rows of a batch of `total`, in `pieces`, summed over the ranks."""
        rows = ranks.rows(total)
        growth, sigma = self.dials

        def work(batch: Batch, random: StepRandom, dials: Sequence[Tensor]) -> None:
            """With what changes from step to step as tensors."""
            self._stand(growth._replace(alpha=dials[0]) if growth.fades else growth, dials[1])
            self._gradients(phase, batch, pieces, step, random, rows, total)
            self._stand(growth, sigma)

        if self.graphs is None or pieces > 1:
            self._gradients(phase, batch, pieces, step, random, rows, total)
        else:
            form = growth.resolution, growth.fades, *self.objective.form(step)
            begins = phase is self.due[0]
            self.graphs.accumulate(phase, form, batch, random, (growth.alpha, sigma), rows, work, begins)
        ranks.sum_gradients(phase.module)

    def _stand(self, growth: Growth, sigma: float | Tensor) -> None:
        for network in (self.generator, self.discriminator):
            set_growth(network, growth)
        self.objective.drawer.blur_sigma = sigma

    def _gradients(
        self, phase: Phase, batch: Batch, pieces: int, step: int, random: StepRandom, rows: slice, total: int
    ) -> None:
        for other in self.phases:
            other.module.requires_grad_(other is phase)
        phase.optimizer.zero_grad(set_to_none=True)
        micro, scale = len(batch) // pieces, self.scalers[phase.name].scale
        for start in range(0, len(batch), micro):
            numbers = random.take(slice(rows.start + start, rows.start + start + micro))
            piece = batch[slice(start, start + micro)]
            share, alone = micro / total, pieces == 1
            self.objective.accumulate_gradients(phase, piece, share, step, numbers, scale, alone)

    def update(self, phase: Phase, images_seen: int) -> None:
        """The optimiser's step. Raises NotFinite in place of one that would write NaN: on CUDA a step later, or when
        the check is asked to settle."""
        scaler = self.scalers[phase.name]
        scaler.unscale_(phase.optimizer)
        self.check.look(phase, images_seen, scaler)
        scaler.step(phase.optimizer)
        scaler.update()

    def average(self, images_seen: int, batch: int) -> None:
        """After a step, which images_seen counts in: the generator reads as the discriminator does, averages move."""
        # Not between the phases: pictures that both share would be drawn by one reading and learned from by another.
        share_reading(self.discriminator.pooler, self.generator.pooler)
        self.ema.update(self.generator, self.images_before + images_seen, batch)
        self.text.average(images_seen, batch)


def make_adam(network: nn.Module, lr: float, config: TrainConfig, device: torch.device) -> torch.optim.Adam:
    """Adam with the run's betas, in one fused kernel where the device has one."""
    fused = device.type in ("cuda", "cpu")
    return torch.optim.Adam(network.parameters(), lr=lr, betas=(config.beta1, config.beta2), fused=fused)


def contrastive_terms(config: TrainConfig, discriminator: nn.Module, resolution: int) -> dict[str, nn.Module]:
    """The heads of the contrastive term that the config asks for: "contrast", "places"."""
    if not contrast_weight(config):
        return {}
    with torch.no_grad():
        found = discriminator.features(next(discriminator.parameters()).new_zeros(1, 3, resolution, resolution))
    pooler, (_, channels, side, _) = discriminator.pooler, found.regions.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "contrast"))
        slow = {"lr_multiplier": network_options(config, resolution)["text_lr"]}
        heads: dict[str, nn.Module] = {"contrast": ContrastiveHead(found.summary.shape[1], pooler.out_width, **slow)}
        if config.places:
            heads["places"] = PlacesHead(channels, pooler.read_width, side, **slow)
    return heads


def noise_encoder(config: TrainConfig, generator: nn.Module, resolution: int) -> dict[str, NoiseEncoder]:
    """The "noise_encoder" that the config asks for."""
    if not config.noise_kl:
        return {}
    slow = {"lr_multiplier": network_options(config, resolution)["text_lr"]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "noise encoder"))
        return {"noise_encoder": NoiseEncoder(generator.pooler.out_width, generator.z_dim, **slow)}


def make_objective(
    config: TrainConfig,
    generator: nn.Module,
    discriminator: nn.Module,
    text_encoder: nn.Module | None = None,
    contrast: ContrastiveHead | None = None,
    places: PlacesHead | None = None,
    noise_encoder: NoiseEncoder | None = None,
) -> GANObjective:
    """The objective that a config asks for; the weight of its penalty is set with each stage."""
    return GANObjective(
        generator,
        discriminator,
        loss=LOSSES[config.loss],
        penalty=PENALTIES[config.penalty],
        penalty_every=config.penalty_every,
        augments=config.augment,
        autocast_dtype=AUTOCAST[config.precision],
        text_encoder=text_encoder,
        contrast=contrast,
        places=places,
        contrast_weight=contrast_weight(config),
        diversity_weight=config.diversity,
        likeness_weight=config.likeness,
        perceptual_weight=config.perceptual,
        nearest_of=config.nearest_of,
        noise_encoder=noise_encoder,
        noise_kl=config.noise_kl,
        shared_fakes=config.shared_fakes,
    )


def penalty_weight(config: TrainConfig, span: Span, resolution: int) -> float:
    """The weight of the config's penalty in a stage of training. resolution: of the whole run.

    R1's goes with the number of pixels, as its heuristic does: the config's is that of the last stage.
    """
    penalty = PENALTIES[config.penalty]
    if penalty is None:
        return 0.0
    if config.penalty_weight is None:
        return penalty.default_weight(span.resolution, span.batch)
    return config.penalty_weight * ((span.resolution / resolution) ** 2 if penalty.name == "r1" else 1.0)


def blur_sigma(config: TrainConfig, images_seen: int, resolution: int) -> float:
    """Width in pixels of the blur that the run begins with."""
    if images_seen >= 1000 * config.blur_kimg:
        return 0.0
    return single(resolution / 32 * (1 - images_seen / (1000 * config.blur_kimg)))


def network_options(config: TrainConfig, resolution: int) -> dict[str, Any]:
    """What the networks of a run are built with: the architecture's settings, and where growing will show them."""
    architecture = get_architecture(config.arch)
    options = {**architecture.model_options, **config.model}
    if architecture.grows:
        options["shown_at"] = Schedule(config, resolution).sides
    return options
