"""The training loop.

One function, read top to bottom: set-up, then stanzas in a fixed order: done?, status, snapshot, draw a batch, each
phase, average. Everything with state is handed once to the checkpoint; everything random comes from the number of
images seen, so a resumed run goes on as if it had never stopped.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from t2i.config import TrainConfig
from t2i.data.prepared import PreparedDataset
from t2i.errors import is_out_of_memory
from t2i.files import sweep
from t2i.models import get_architecture
from t2i.models.folder import ModelDescription, save_model
from t2i.models.growing import Growth, real_at, set_growth
from t2i.training.checkpoint import newest_checkpoint, save_checkpoint
from t2i.training.collapse import CollapseWatch
from t2i.training.distributed import ALONE, Ranks
from t2i.training.finite import NotFinite
from t2i.training.growth import Schedule
from t2i.training.loading import BatchLoader, resident_pictures
from t2i.training.memory import keep_freed_memory, memory_gib, out_of_memory
from t2i.training.metrics import MetricsLog
from t2i.training.plots import draw_losses
from t2i.training.previews import Preview
from t2i.training.randomness import StepRandom, derive_seed
from t2i.training.run import Run
from t2i.training.scoring import COLUMNS as SCORES
from t2i.training.scoring import Scoring
from t2i.training.state import TrainingState
from t2i.training.text import PreparedText, TrainedText, make_text
from t2i.training.threads import ThreadWatch

COLUMNS = (
    "images_seen", "seconds", "images_per_second", "memory_gib",
    "loss_g", "loss_d", "penalty", "contrast", "contrast_g",
    "places", "places_g", "mirrored", "logits_real", "logits_mismatch", "logits_fake",
    "loss_likeness", "loss_perceptual", "noise_nats", "diversity_within", "saturated", "diversity",
    "gradient_g", "gradient_d", "resolution", "alpha", *SCORES,
)  # fmt: skip
ROLLBACKS = 3


@dataclass
class Course:
    """How far a run has come since it began, went on or went back, and when it was last logged and saved.

    seconds_before: that it had taken until then.
    """

    images_seen: int
    seconds_before: float

    def __post_init__(self) -> None:
        self.started = self.logged_at = self.saved_at = time.monotonic()
        self.logged_images = self.saved_images = self.images_seen

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.seconds_before + time.monotonic() - self.started

    def passed(self, every: float, last: int) -> bool:
        """Has a multiple of `every` images gone by since `last`?"""
        return self.images_seen // every > last // every


@dataclass(frozen=True)
class Status:
    """What the caller may show while training runs.

    goal: images to be seen in all; seconds: of this call of train(), minutes: what it may take; metrics: COLUMNS.
    """

    images_seen: int
    goal: int
    seconds: float
    minutes: float | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """How training ended: "done", "minutes" or "signal", and after how many seconds of this call of train().

    began_at: images seen before it.
    """

    reason: str
    images_seen: int
    seconds: float
    began_at: int


def train(
    config: TrainConfig,
    dataset: PreparedDataset,
    run: Run,
    device: torch.device,
    *,
    resume: bool = False,
    ranks: Ranks = ALONE,
    stop: Callable[[], bool] = lambda: False,
    on_status: Callable[[Status], None] = lambda status: None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Train `config` on `dataset` into the run folder `run`.

    ranks: the processes that share the run; each works on its rows of a batch, rank 0 writes and speaks.
    stop: asked at every step boundary; where any rank says True, a checkpoint is written and training ends.
    say: takes a line for the user. Raises UserError, one line; the last checkpoint is then untouched.
    """
    # ---- Set-up: what has state, what draws batches, what tells of it ----
    if device.type == "cpu":
        keep_freed_memory()
    schedule = Schedule(config, dataset.resolution)
    text = make_text(config, dataset, run.folder, write=ranks.first)
    if text.cut and not resume:
        say(text.cut)
    state = TrainingState(config, dataset.resolution, text, device)
    images_seen, seconds_before, rollbacks = 0, 0.0, 0
    if resume:
        images_seen, seconds_before, rollbacks = go_back(state, run, ranks, say)
    elif config.begin_with:
        begin_with(state, Run(config.begin_with), ranks, say)

    began_at = images_seen
    seed = seed_after(config.seed, rollbacks)
    open_loader = partial(
        BatchLoader, dataset, text, device=device, ranks=ranks, mismatches=config.mismatches, mirrors=config.places,
        resident=resident_pictures(dataset, device),
    )  # fmt: skip
    loader = open_loader(seed)
    preview = Preview(dataset, text, state.generator.z_dim, config.seed, device)
    watch = CollapseWatch(tanh=state.options.get("output") == "tanh")
    threads = ThreadWatch(say) if device.type == "cpu" else None
    if ranks.first:
        for folder in (run.folder, run.samples):
            sweep(folder)  # what a killed run was writing
        metrics_log = MetricsLog(run.folder, COLUMNS, tensorboard=config.tensorboard)
        metrics_log.rewind(images_seen)
        if not (run.samples / "reals.png").is_file():
            preview.save_reals(run.samples / "reals.png")
    scoring = Scoring(config, dataset, text, run, device, say) if config.eval_every and ranks.first else None

    def averaged() -> tuple[torch.nn.Module, ModelDescription]:
        """The model that draws, where the last step left it, and what there is to say of it."""
        grown = schedule.latest(course.images_seen)
        set_growth(state.ema.model, grown)
        about = describe_model(config, state.options, dataset, course.images_seen, preview.prompts, grown, text)
        return state.ema.model, about

    def snapshot() -> None:
        if not ranks.first:
            return
        model, about = averaged()
        seen = course.images_seen
        preview.save(model, run.samples / f"{seen:09d}.png", f"{seen:,} images seen")
        text.save(run.model)
        save_model(run.model, model, about)
        facts = {
            "images_seen": seen,
            "images_before": state.images_before,
            "seconds": course.seconds,
            "rollbacks": rollbacks,
            "settings": asdict(config),
            "scalers": {name: scaler.state_dict() for name, scaler in state.scalers.items()},
        }
        save_checkpoint(run.checkpoints, facts, state.parts, before=course.saved_images)
        draw_losses(run.folder / "metrics.jsonl", run.folder / "losses.png")

    def take_back(error: NotFinite) -> None:
        """To the last checkpoint, and on from there with other random numbers. Raises the error where not wanted."""
        nonlocal course, loader, rollbacks, seed
        if config.on_nan != "rollback" or rollbacks == ROLLBACKS:
            raise error
        say(f"{error}; going back")
        course = Course(*go_back(state, run, ranks, say)[:2])
        rollbacks += 1  # of this process: the checkpoint may be older than the last rollback
        seed = seed_after(config.seed, rollbacks)  # the same numbers would end in the same place
        loader.close()
        loader = open_loader(seed)
        if ranks.first:
            metrics_log.rewind(course.images_seen)

    goal = int(config.kimg * 1000)
    log_every, snapshot_every = config.log_kimg * 1000, config.snapshot_kimg * 1000
    course = Course(images_seen, seconds_before)
    began = course.started  # what --minutes counts from, which going back does not reset
    if not resume:
        snapshot()  # a disk that cannot be written shows now, not in ten minutes

    while True:
        # ---- What is due? ----
        now, minutes, saving = time.monotonic(), config.minutes, config.checkpoint_minutes
        too_long = bool(minutes) and now - began >= minutes * 60
        unsaved = bool(saving) and now - course.saved_at >= saving * 60
        too_long, stopped, unsaved = ranks.any(too_long, stop(), unsaved)
        reason = "done" if course.images_seen >= goal else "minutes" if too_long else "signal" if stopped else None
        scores = config.eval_every and (
            reason in ("done", "minutes") or course.passed(config.eval_every, course.logged_images)
        )
        logs = course.images_seen > course.logged_images and (
            reason or scores or course.passed(log_every, course.logged_images)
        )
        saves = course.images_seen > course.saved_images and (
            reason or unsaved or course.passed(snapshot_every, course.saved_images)
        )
        if logs or saves:
            try:
                state.check.settle()  # what NaN has touched is neither told nor kept
            except NotFinite as error:
                take_back(error)
                continue

        # ---- Status: every log_kimg, with scores every eval_every, and at the end ----
        if logs:
            metrics = state.objective.statistics.read(ranks)
            metrics["images_seen"] = course.images_seen
            metrics["seconds"] = course.seconds
            metrics["images_per_second"] = (course.images_seen - course.logged_images) / (now - course.logged_at)
            metrics["memory_gib"] = memory_gib(device)
            metrics["resolution"], metrics["alpha"] = schedule.latest(course.images_seen)
            if scoring and scores and metrics["resolution"] == dataset.resolution:
                metrics |= scoring.look_and_keep(*averaged())
            if ranks.first:
                metrics_log.append(metrics)
            on_status(Status(course.images_seen, goal, now - began, minutes, metrics))
            for warning in watch.look(metrics):
                say(warning)
            course.logged_images, course.logged_at = course.images_seen, time.monotonic()

        # ---- Snapshot: checkpoint, model, sample grid; every snapshot_kimg or checkpoint_minutes, and at the end ----
        if saves:
            snapshot()
            course.saved_images, course.saved_at = course.images_seen, time.monotonic()
        if reason:
            break

        # ---- Grow: where the networks stand comes from the images seen alone ----
        images_seen = course.images_seen
        span = schedule.at(images_seen)
        state.enter(span, images_seen)

        # ---- Draw a batch ----
        batch = loader.load(images_seen, span.batch)
        batch.images = real_at(batch.images, span.growth(images_seen))
        random = StepRandom(seed, images_seen, span.batch, device=str(device))
        step, starved = span.step(images_seen), False

        # ---- Each phase: gradients over the micro-batches, then one step ----
        try:
            for phase in state.due:
                state.accumulate(phase, batch, config.accumulate, step, random, ranks, span.batch)
                state.update(phase, images_seen)
        except NotFinite as error:
            take_back(error)
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            starved = True
        if starved:  # out of the handler: the error itself holds on to the tensors of its frames
            del batch
            raise out_of_memory(state, loader, span, images_seen, random, ranks)

        if state.graphs is not None and state.graphs.refusal:
            say(f"steps cannot be recorded here ({state.graphs.refusal}); training goes on without, more slowly")
            state.graphs = None

        # ---- Average ----
        course.images_seen += span.batch
        state.average(course.images_seen, span.batch)
        if threads:
            threads.tick()

    loader.close()
    if threads:
        threads.close()
    if ranks.first:
        metrics_log.close()
    ranks.wait()
    return Outcome(reason, course.images_seen, time.monotonic() - began, began_at)


def go_back(state: TrainingState, run: Run, ranks: Ranks, say: Callable[[str], None]) -> tuple[int, float, int]:
    """Fill `state` from the run's newest good checkpoint: images seen, seconds, rollbacks. Raises UserError."""
    # Rank 0 judges; the others load what it found good.
    folder, facts, complaints = ranks.share(newest_checkpoint(run.checkpoints) if ranks.first else None)
    for complaint in complaints:
        say(f"passed over a damaged checkpoint: {complaint}")
    state.load(folder, facts)
    state.objective.statistics.read()
    say(f"resumed at {facts['images_seen']:,} images from {folder}")
    return facts["images_seen"], facts["seconds"], facts.get("rollbacks", 0)


def begin_with(state: TrainingState, source: Run, ranks: Ranks, say: Callable[[str], None]) -> None:
    """Fill the networks of a new run from the newest good checkpoint of another one. Raises UserError."""
    folder, facts, complaints = ranks.share(newest_checkpoint(source.checkpoints, ours=False) if ranks.first else None)
    for complaint in complaints:
        say(f"passed over a damaged checkpoint: {complaint}")
    state.begin_with(folder, facts)
    say(f"begins with the networks of {folder} ({facts['images_seen']:,} images)")


def seed_after(seed: int, rollbacks: int) -> int:
    """The seed of order, noise and augmentation: another one after each rollback."""
    return derive_seed(seed, "rollback", rollbacks) if rollbacks else seed


def describe_model(
    config: TrainConfig,
    options: dict[str, Any],
    dataset: PreparedDataset,
    images_seen: int,
    prompts: list[str],
    grown: Growth,
    text: PreparedText | TrainedText,
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
    return ModelDescription(config.arch, dataset.resolution, config.conditioning, options, text.describe(), training)
