"""The training loop.

One function, read top to bottom: set-up, then what is due (log, snapshot, the end), then a step. Everything with state
is in the trainer; everything random and every plan come from the number of images seen, so a resumed run goes on as if
it had never stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from t2i.config import TrainConfig
from t2i.data.prepared import PreparedDataset
from t2i.errors import is_out_of_memory
from t2i.files import sweep
from t2i.losses.registry import TERMS
from t2i.models.growing import real_at
from t2i.training.begin_with import find_source
from t2i.training.checkpoint import newest_checkpoint
from t2i.training.collapse import CollapseWatch
from t2i.training.distributed import ALONE, Ranks
from t2i.training.loading import BatchLoader, resident_images
from t2i.training.memory import keep_freed_memory, memory_gib, out_of_memory
from t2i.training.metrics import MetricsLog
from t2i.training.nan_guard import NotFinite
from t2i.training.progress import Due, Progress
from t2i.training.randomness import StepRandom
from t2i.training.run import Run
from t2i.training.schedule import Schedule
from t2i.training.scoring import SCORES, Scoring
from t2i.training.snapshots import Snapshots
from t2i.training.text import make_text
from t2i.training.trainer import Trainer

COLUMNS = (
    "images_seen", "seconds", "images_per_second", "memory_gib", "loss_g", "loss_d", "penalty",
    "logits_real", "logits_mismatch", "logits_fake", *(name for term in TERMS.values() for name in term.columns),
    "saturated", "diversity", "gradient_g", "gradient_d", "resolution", "alpha", *SCORES.values(),
)  # fmt: skip
ROLLBACKS = 3


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
    # ---- Set-up ----
    if device.type == "cpu":
        keep_freed_memory()
        torch.set_num_threads(config.run.threads or torch.get_num_threads())
    schedule = Schedule(config, dataset.resolution)
    text = make_text(config, dataset, run.folder, write=ranks.first)
    if text.cut and not resume:
        say(text.cut)
    trainer = Trainer(config, dataset.resolution, text, device, ranks)
    progress = Progress(config)
    if resume:
        progress.restart(*restore(trainer, run, ranks, say))
    elif config.begin_with:
        begin_with(trainer, config.begin_with, ranks, say)
    loader = BatchLoader(
        dataset, text, progress.seed, device, ranks,
        mismatches=config.adversarial.mismatches,
        flips="word_region" in config.terms,
        resident=resident_images(dataset, device),
        mirror="flip" in config.adversarial.augment,
    )  # fmt: skip
    watch = CollapseWatch(tanh=config.generator.get("output") == "tanh")
    snapshots = Snapshots(config, dataset, text, run, trainer, schedule)
    scoring = Scoring(config, dataset, text, run, device, say) if config.eval.every and ranks.first else None
    metrics_log = MetricsLog(run.folder, COLUMNS, tensorboard=config.run.tensorboard) if ranks.first else None
    if metrics_log:
        for folder in (run.folder, run.samples):
            sweep(folder)  # what a killed run was writing
        metrics_log.rewind(progress.images_seen)
        snapshots.save_reals()

    def save() -> None:
        if ranks.first:
            snapshots.save(progress)
        progress.saved()

    def rollback(error: NotFinite) -> None:
        """Go on from the last checkpoint with other random numbers. Raises the error where that is not wanted."""
        if config.run.on_nan != "rollback" or progress.rollbacks == ROLLBACKS:
            raise error
        say(f"{error}; going back")
        rollbacks = progress.rollbacks + 1  # of this process: the checkpoint may be older than the last rollback
        images_seen, seconds, _ = restore(trainer, run, ranks, say)
        progress.restart(images_seen, seconds, rollbacks)
        loader.reseed(progress.seed)
        if metrics_log:
            metrics_log.rewind(images_seen)

    if not resume:
        save()  # a disk that cannot be written shows now, not in ten minutes

    while True:
        due = progress.due(stop, ranks)
        try:
            if due.log or due.save:
                trainer.guard.flush()  # what NaN has touched is neither logged nor kept

            # ---- Log: every log_kimg, with scores every eval.every, and at the end ----
            if due.log:
                metrics = read_metrics(trainer, schedule, progress, device, ranks)
                if scoring and due.score and metrics["resolution"] == dataset.resolution:
                    scores, best = scoring.score(*snapshots.model(progress.images_seen))
                    metrics |= scores
                    due = Due(due.reason, due.log, due.save or best, due.score)
                if metrics_log:
                    metrics_log.append(metrics)
                on_status(
                    Status(progress.images_seen, progress.goal, progress.elapsed, config.schedule.minutes, metrics)
                )
                for warning in watch.look(metrics):
                    say(warning)
                progress.logged()

            # ---- Snapshot: every snapshot_kimg or checkpoint_minutes, at a best score, and at the end ----
            if due.save:
                save()
            if due.reason:
                break

            # ---- A step ----
            plan = schedule.plan(progress.images_seen)
            batch = loader.load(plan.images_seen, plan.batch)
            batch = batch.with_images(real_at(batch.images, plan.growth))
            trainer.step(plan, batch, StepRandom(progress.seed, plan.images_seen, plan.batch, device=str(device)))
            progress.images_seen += plan.batch
        except NotFinite as error:
            rollback(error)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise out_of_memory(config, schedule.plan(progress.images_seen), ranks) from None
        if refusal := trainer.stop_capturing():
            say(f"steps cannot be captured here ({refusal}); training goes on without, more slowly")

    loader.close()
    if metrics_log:
        metrics_log.close()
    ranks.wait()
    return Outcome(due.reason, progress.images_seen, progress.elapsed, progress.began_at)


def read_metrics(
    trainer: Trainer, schedule: Schedule, progress: Progress, device: torch.device, ranks: Ranks
) -> dict[str, float]:
    """The means since the last line, and where the run is."""
    metrics = trainer.statistics.read(ranks)
    metrics["images_seen"] = progress.images_seen
    metrics["seconds"] = progress.seconds
    metrics["images_per_second"] = progress.images_per_second
    metrics["memory_gib"] = memory_gib(device)
    growth = schedule.growth_after(progress.images_seen)
    metrics["resolution"], metrics["alpha"] = growth.resolution, float(growth.alpha)
    return metrics


def restore(trainer: Trainer, run: Run, ranks: Ranks, say: Callable[[str], None]) -> tuple[int, float, int]:
    """Fill a trainer from the run's newest good checkpoint: images seen, seconds, rollbacks. Raises UserError."""
    # Rank 0 judges; the others load what it found good.
    folder, facts, complaints = ranks.share(newest_checkpoint(run.checkpoints) if ranks.first else None)
    for complaint in complaints:
        say(f"passed over a damaged checkpoint: {complaint}")
    trainer.load(folder, facts)
    say(f"resumed at {facts['images_seen']:,} images from {folder}")
    return facts["images_seen"], facts["seconds"], facts.get("rollbacks", 0)


def begin_with(trainer: Trainer, name: str, ranks: Ranks, say: Callable[[str], None]) -> None:
    """Fill the networks of a new run from another run, a snapshot or a model. Raises UserError."""
    source = ranks.share(find_source(name) if ranks.first else None)
    whole = trainer.begin_with(source)
    networks = "the networks" if whole else "the generator"
    say(f"begins with {networks} of {source.name} ({trainer.images_before:,} images)")
