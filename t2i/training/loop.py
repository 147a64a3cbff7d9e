"""The training loop.

One function, read top to bottom: set-up, then stanzas in a fixed order: done?, status, snapshot, draw a batch, each
phase, average. Everything with state is handed once to the checkpoint; everything random comes from the number of
images seen, so a resumed run goes on as if it had never stopped.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t2i.config import TrainConfig
from t2i.data.prepared import PreparedDataset
from t2i.errors import UserError
from t2i.losses.adversarial import LOSSES
from t2i.losses.contrastive import ContrastiveHead
from t2i.losses.penalties import PENALTIES
from t2i.models import get_architecture
from t2i.models.folder import ModelDescription, save_model
from t2i.models.growing import Growth, real_at, set_growth
from t2i.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from t2i.training.collapse import CollapseWatch
from t2i.training.ema import EMA
from t2i.training.growth import Schedule, Span
from t2i.training.loading import BatchLoader
from t2i.training.metrics import MetricsLog
from t2i.training.objective import GANObjective, Phase
from t2i.training.plots import draw_losses
from t2i.training.previews import Preview
from t2i.training.randomness import StepRandom, derive_seed
from t2i.training.run import Run
from t2i.training.text import make_text

COLUMNS = (
    "images_seen", "seconds", "images_per_second", "memory_gib", "loss_g", "loss_d", "penalty", "contrast",
    "logits_real", "logits_mismatch", "logits_fake", "saturated", "diversity", "gradient_g", "gradient_d",
    "resolution", "alpha",
)  # fmt: skip
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Status:
    """What the caller may show while training runs. goal: images to be seen in all; metrics: COLUMNS."""

    images_seen: int
    goal: int
    seconds: float
    minutes: float | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """How training ended: "done", "minutes" or "signal"."""

    reason: str
    images_seen: int
    seconds: float


def train(
    config: TrainConfig,
    dataset: PreparedDataset,
    run: Run,
    device: torch.device,
    *,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    on_status: Callable[[Status], None] = lambda status: None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Train `config` on `dataset` into the run folder `run`.

    stop: asked at every step boundary; where it says True, a checkpoint is written and training ends.
    say: takes a line for the user. Raises UserError, one line; the last checkpoint is then untouched.
    """
    # ---- Set-up: networks, what moves them, what they minimise ----
    architecture = get_architecture(config.arch)
    schedule = Schedule(config, dataset.resolution)
    options = network_options(config, dataset.resolution)
    text = make_text(config, dataset, run.folder)
    generator, discriminator = architecture.build(
        dataset.resolution, config.conditioning, text.statistics, options, derive_seed(config.seed, "weights")
    )
    contrast = make_contrast(config, discriminator, dataset.resolution)
    for network in (generator, discriminator):
        network.to(device, memory_format=torch.channels_last)
    ema = EMA(generator, config.ema_kimg * 1000)
    extras = {**text.modules(), **({"contrast": contrast} if contrast else {})}
    for module in extras.values():
        module.to(device)
    judges = nn.ModuleList([m for m in (discriminator, text.encoder, contrast) if m is not None])
    phases = [
        Phase("D", judges, make_adam(judges, config.lr_d, config, device)),
        Phase("G", generator, make_adam(generator, config.lr_g, config, device)),
    ]
    objective = make_objective(config, generator, discriminator, text.encoder, contrast)
    scalers = {phase.name: torch.amp.GradScaler(device.type, enabled=config.precision == "fp16") for phase in phases}
    parts = {
        "generator": generator,
        "discriminator": discriminator,
        "ema": ema.model,
        "optimizer_d": phases[0].optimizer,
        "optimizer_g": phases[1].optimizer,
        **extras,
    }
    images_seen, seconds_before = 0, 0.0
    if resume:
        folder, state, complaints = newest_checkpoint(run.checkpoints)
        for complaint in complaints:
            say(f"passed over a damaged checkpoint: {complaint}")
        load_checkpoint(folder, parts)
        for name, scaler in scalers.items():
            scaler.load_state_dict(state["scalers"][name])
        images_seen, seconds_before = state["images_seen"], state["seconds"]
        say(f"resumed at {images_seen:,} images from {folder}")

    loader = BatchLoader(dataset, text, config.seed, device)
    preview = Preview(dataset, text, generator.z_dim, config.seed, device)
    metrics_log = MetricsLog(run.folder, COLUMNS, tensorboard=config.tensorboard)
    metrics_log.rewind(images_seen)
    watch = CollapseWatch()
    if not (run.samples / "reals.png").is_file():
        preview.save_reals(run.samples / "reals.png")

    def snapshot() -> None:
        seconds = seconds_before + time.monotonic() - started
        grown = schedule.latest(images_seen)
        set_growth(ema.model, grown)
        preview.save(ema.model, run.samples / f"{images_seen:09d}.png", f"{images_seen:,} images seen")
        describe = describe_model(config, options, dataset, images_seen, preview.prompts, grown, text.describe())
        text.save(run.model)
        save_model(run.model, ema.model, describe)
        state = {"images_seen": images_seen, "seconds": seconds, "settings": asdict(config)}
        state["scalers"] = {name: scaler.state_dict() for name, scaler in scalers.items()}
        save_checkpoint(run.checkpoints, state, parts)
        draw_losses(run.folder / "metrics.jsonl", run.folder / "losses.png")

    goal = int(config.kimg * 1000)
    log_every, snapshot_every = config.log_kimg * 1000, config.snapshot_kimg * 1000
    share = 1 / config.accumulate
    started = logged_at = time.monotonic()
    logged_images = saved_at = images_seen
    if not resume:
        snapshot()  # a disk that cannot be written shows now, not in ten minutes

    while True:
        # ---- Done? ----
        reason = None
        if images_seen >= goal:
            reason = "done"
        elif config.minutes is not None and time.monotonic() - started >= config.minutes * 60:
            reason = "minutes"
        elif stop():
            reason = "signal"

        # ---- Status: every log_kimg and at the end ----
        if images_seen // log_every > logged_images // log_every or (reason and images_seen > logged_images):
            now = time.monotonic()
            metrics = objective.statistics.read()
            metrics["images_seen"] = images_seen
            metrics["seconds"] = seconds_before + now - started
            metrics["images_per_second"] = (images_seen - logged_images) / (now - logged_at)
            metrics["memory_gib"] = memory_gib(device)
            metrics["resolution"], metrics["alpha"] = schedule.latest(images_seen)
            metrics_log.append(metrics)
            on_status(Status(images_seen, goal, now - started, config.minutes, metrics))
            for warning in watch.look(metrics):
                say(warning)
            logged_images, logged_at = images_seen, now

        # ---- Snapshot: checkpoint, model, sample grid; every snapshot_kimg and at the end ----
        if images_seen // snapshot_every > saved_at // snapshot_every or (reason and images_seen > saved_at):
            snapshot()
            saved_at = images_seen
        if reason:
            break

        # ---- Grow: where the networks stand comes from the images seen alone ----
        span = schedule.at(images_seen)
        grown = span.growth(images_seen)
        for network in (generator, discriminator):
            set_growth(network, grown)
        if images_seen == span.start:
            for phase in phases:
                phase.optimizer.state.clear()  # moments of another resolution mislead (Karras et al. 2018, sec. A.1)
        for phase, lr in zip(phases, (span.lr_d, span.lr_g)):
            phase.optimizer.param_groups[0]["lr"] = lr
        objective.penalty_weight = penalty_weight(config, span)

        # ---- Draw a batch ----
        batch = loader.load(images_seen, span.batch)
        batch.images = real_at(batch.images, grown)
        random = StepRandom(config.seed, images_seen, span.batch, device=str(device))
        micro, step = span.batch // config.accumulate, span.step(images_seen)

        # ---- Each phase: gradients over the micro-batches, then one step ----
        for phase in phases:
            for other in phases:
                other.module.requires_grad_(other is phase)
            scaler = scalers[phase.name]
            phase.optimizer.zero_grad(set_to_none=True)
            for start in range(0, span.batch, micro):
                rows = slice(start, start + micro)
                objective.accumulate_gradients(phase, batch[rows], share, step, random.take(rows), scaler.scale)
            scaler.unscale_(phase.optimizer)
            check_gradients(phase, objective, images_seen, tolerate=scaler.is_enabled())
            scaler.step(phase.optimizer)
            scaler.update()

        # ---- Average ----
        images_seen += span.batch
        ema.update(generator, images_seen, span.batch)
        text.average(images_seen, span.batch)

    loader.close()
    metrics_log.close()
    return Outcome(reason, images_seen, time.monotonic() - started)


def make_adam(network: nn.Module, lr: float, config: TrainConfig, device: torch.device) -> torch.optim.Adam:
    """Adam with the run's betas, in one fused kernel where the device has one."""
    fused = device.type in ("cuda", "cpu")
    return torch.optim.Adam(network.parameters(), lr=lr, betas=(config.beta1, config.beta2), fused=fused)


def make_contrast(config: TrainConfig, discriminator: nn.Module, resolution: int) -> ContrastiveHead | None:
    """The head of the contrastive term, where the config asks for one."""
    if not contrast_weight(config):
        return None
    with torch.no_grad():
        probe = next(discriminator.parameters()).new_zeros(1, 3, resolution, resolution)
        channels = discriminator.features(probe).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "contrast"))
        return ContrastiveHead(channels, discriminator.pooler.out_width)


def contrast_weight(config: TrainConfig) -> float:
    """Weight of the contrastive term: a trained encoder needs it."""
    if config.contrastive is not None:
        return config.contrastive
    return 1.0 if config.text_encoder == "transformer" else 0.0


def make_objective(
    config: TrainConfig,
    generator: nn.Module,
    discriminator: nn.Module,
    text_encoder: nn.Module | None = None,
    contrast: ContrastiveHead | None = None,
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
        contrast_weight=contrast_weight(config),
    )


def penalty_weight(config: TrainConfig, span: Span) -> float:
    """The weight of the config's penalty in a stage of training."""
    penalty = PENALTIES[config.penalty]
    if penalty is None or config.penalty_weight is not None:
        return config.penalty_weight or 0.0
    return penalty.default_weight(span.resolution, span.batch)


def network_options(config: TrainConfig, resolution: int) -> dict[str, Any]:
    """What the networks of a run are built with: the architecture's settings, and where growing will show them."""
    architecture = get_architecture(config.arch)
    options = {**architecture.model_options, **config.model}
    if architecture.grows:
        options["shown_at"] = Schedule(config, resolution).sides
    return options


def check_gradients(phase: Phase, objective: GANObjective, images_seen: int, tolerate: bool = False) -> None:
    """Stop before a step that would write NaN or infinity into the weights. Raises UserError, naming the numbers.

    tolerate: the loss is scaled (fp16): the scaler skips such a step and lowers the scale.
    """
    gradients = [p.grad for p in phase.module.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if torch.isfinite(norm):
        objective.statistics.add(f"gradient_{phase.name.lower()}", norm)
    elif not tolerate:
        losses = ", ".join(f"{name} {value:.4g}" for name, value in objective.statistics.read().items())
        raise UserError(
            f"the gradient of phase {phase.name} is {float(norm)} after {images_seen:,} images ({losses}); the last "
            "checkpoint is good: lower --lr-g and --lr-d, or train with --precision fp32"
        )


def describe_model(
    config: TrainConfig,
    options: dict[str, Any],
    dataset: PreparedDataset,
    images_seen: int,
    prompts: list[str],
    grown: Growth,
    encoder: dict[str, Any],
) -> ModelDescription:
    """What the model folder says of the model."""
    if get_architecture(config.arch).grows:
        options = {**options, "growth": list(grown)}
    training = {
        "data": f"{dataset.name} ({dataset.split}, {len(dataset):,} pictures)",
        "data_fingerprint": dataset.fingerprint,
        "images_seen": images_seen,
        "prompts": prompts,
    }
    return ModelDescription(config.arch, dataset.resolution, config.conditioning, options, encoder, training)


def memory_gib(device: torch.device) -> float:
    """Memory in use: the device's peak on CUDA, else this process's, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 2**30
    except (OSError, ValueError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes on macOS, which has no /proc
