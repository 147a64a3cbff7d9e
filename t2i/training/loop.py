"""The training loop.

`train` is read top to bottom: what is due at a step boundary (log, snapshot, the end), then a step. Everything with
state is in the trainer; everything random and every plan come from the number of images seen, so a resumed run goes on
as if it had never stopped.
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
from t2i.training.memory import memory_gib, out_of_memory
from t2i.training.metrics import MetricsLog, read_metrics
from t2i.training.nan_guard import NotFinite
from t2i.training.progress import Progress
from t2i.training.randomness import StepRandom
from t2i.training.run import Run
from t2i.training.schedule import Schedule, StepPlan
from t2i.training.scoring import SCORES, Scoring
from t2i.training.snapshots import Snapshots
from t2i.training.text import make_text
from t2i.training.trackers import Trackers
from t2i.training.trainer import Trainer

# Of metrics.csv, {name: what it is}: means since the line before.
COLUMNS = {
    "images_seen": "Real images seen, over all processes.",
    "seconds": "Training time, over all sittings.",
    "images_per_second": "Since the line before.",
    "memory_gib": "Peak memory: of the GPU, or of the process on a CPU.",
    "loss_g": "Loss of the generator, all terms, weighted.",
    "loss_d": "Loss of the discriminator, all terms and the penalty, weighted.",
    "penalty": "Gradient penalty, weighted, of the steps that take it.",
    "logits_real": "Mean logit of real images with their captions.",
    "logits_mismatch": "Mean logit of real images with wrong captions.",
    "logits_fake": "Mean logit of generated images.",
    **{name: what for term in TERMS.values() for name, what in term.columns.items()},
    "saturated": "Share of pixel values at the edge of the range, generated minus real.",
    "diversity": "How far images of different captions lie apart, against the data: 1 as varied, 0 all alike.",
    "gradient_g": "Norm of the generator's gradient.",
    "gradient_d": "Norm of the discriminator's gradient.",
    "resolution": "Resolution that a growing run works at, px.",
    "alpha": "How far that resolution has faded in: 1 is fully.",
    **{column: f"Of --eval-every: {score} (the page Evaluation)." for score, column in SCORES.items()},
}
SCORED = set(SCORES.values())  # in a line of metrics.jsonl
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
    """How training ended: "done", "minutes", "signal" or "patience".

    seconds: of this call of train(); began_at: images seen before it.
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
    loop = Loop(config, dataset, run, device, resume, ranks, say)
    if not resume:
        loop.save()  # a disk that cannot be written shows now, not in ten minutes
    while True:
        due = loop.progress.due(stop, ranks)
        try:
            if due.log or due.save:
                loop.trainer.guard.flush()  # what NaN has touched is neither logged nor kept
            if due.log:  # every log_kimg, with scores every eval.every, and at the end
                best = loop.log(due.score, on_status)
            stale = due.score and loop.out_of_patience()
            if due.save or stale or (due.log and best):  # every snapshot_kimg, at a best score, at the end
                loop.save()
            if due.reason or stale:
                break
            loop.step()
        except NotFinite as error:
            loop.rollback(error)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise out_of_memory(config, loop.schedule.plan(loop.progress.images_seen), ranks) from None
        if refusal := loop.trainer.stop_capturing():
            say(f"steps cannot be captured here ({refusal}); training goes on without, more slowly")
    loop.close()
    return Outcome(due.reason or "patience", loop.progress.images_seen, loop.progress.elapsed, loop.progress.began_at)


class Loop:
    """The parts of a training, set up, and what `train` does with them at a step boundary. Arguments: as of `train`."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: PreparedDataset,
        run: Run,
        device: torch.device,
        resume: bool,
        ranks: Ranks,
        say: Callable[[str], None],
    ):
        if device.type == "cpu":
            torch.set_num_threads(config.run.threads or torch.get_num_threads())
        self.config, self.run, self.device, self.ranks, self.say = config, run, device, ranks, say
        self.schedule = Schedule(config, dataset.resolution)
        text = make_text(config, dataset, run.folder, write=ranks.first)
        if text.cut and not resume:
            say(text.cut)
        self.trainer = Trainer(config, dataset.resolution, text, device, ranks, channels=dataset.form.count)
        self.progress = Progress(config)
        if resume:
            self.progress.restart(*restore(self.trainer, run, ranks, say))
        elif config.begin_with:
            begin_with(self.trainer, config.begin_with, ranks, say)
        self.loader = BatchLoader(
            dataset, text, self.progress.seed, device, ranks,
            mismatches=config.adversarial.mismatches,
            flips="word_region" in config.terms,
            resident=resident_images(dataset, device),
            mirror="flip" in config.adversarial.augment,
        )  # fmt: skip
        self.watch = CollapseWatch(tanh=config.generator.get("output") == "tanh")
        self.snapshots = Snapshots(config, dataset, text, run, self.trainer, self.schedule)
        scores = config.eval.every and ranks.first
        self.scoring = Scoring(config, dataset, text, run, device, say) if scores else None
        self.metrics_log = MetricsLog(run.folder, tuple(COLUMNS)) if ranks.first else None
        self.trackers = Trackers(config, run.folder, say) if ranks.first else None
        if self.metrics_log and self.trackers:
            for folder in (run.folder, run.samples):
                sweep(folder)  # what a killed run was writing
            self.metrics_log.rewind(self.progress.images_seen)
            self.trackers.rewind(self.progress.images_seen, repeats=True)
            self.snapshots.save_reals()

    def step(self) -> None:
        plan = self.schedule.plan(self.progress.images_seen)
        self.take(plan)
        self.progress.images_seen += plan.batch

    def take(self, plan: StepPlan) -> None:
        """Take a step on the images that it begins at."""
        batch = self.loader.load(plan.images_seen, plan.batch)
        batch = batch.with_images(real_at(batch.images, plan.growth))
        rng = StepRandom(self.progress.seed, plan.images_seen, plan.batch, device=str(self.device))
        self.trainer.step(plan, batch, rng)

    def log(self, score: bool, on_status: Callable[[Status], None]) -> bool:
        """Write the means since the last line, with `score` the scores too; whether those are the best so far."""
        progress, best = self.progress, False
        metrics = mean_metrics(self.trainer, self.schedule, progress, self.device, self.ranks)
        if self.scoring and score and metrics["resolution"] == self.trainer.resolution:
            scores, best = self.scoring.score(*self.snapshots.model(progress.images_seen))
            metrics |= scores
        if self.metrics_log and self.trackers:
            self.metrics_log.append(metrics)
            self.trackers.metrics(metrics)
        minutes = self.config.schedule.minutes
        on_status(Status(progress.images_seen, progress.goal, progress.elapsed, minutes, metrics))
        for warning in self.watch.look(metrics):
            self.say(warning)
        progress.logged()
        return best

    def out_of_patience(self) -> bool:
        """Whether the last eval.patience scores, also those of earlier sittings, were no better than one before."""
        if not (patience := self.config.eval.patience):
            return False
        later: list[dict] = []
        if self.ranks.first and (best := self.run.read_best()):
            lines = read_metrics(self.run.folder / "metrics.jsonl")
            later = [line for line in lines if line["images_seen"] > best["snapshot"] and SCORED & line.keys()]
        return self.ranks.share(len(later) >= patience)

    def save(self) -> None:
        """Write a snapshot."""
        if self.ranks.first:
            sheet = self.snapshots.save(self.progress)
            if self.trackers:
                self.trackers.sheet(sheet, self.progress.images_seen)
        self.progress.saved()

    def rollback(self, error: NotFinite) -> None:
        """Go on from the last checkpoint with other random numbers. Raises the error where that is not wanted."""
        if self.config.run.on_nan != "rollback" or self.progress.rollbacks == ROLLBACKS:
            raise error
        self.say(f"{error}; going back")
        rollbacks = self.progress.rollbacks + 1  # of this process: the checkpoint may be older than the last rollback
        images_seen, seconds, _ = restore(self.trainer, self.run, self.ranks, self.say)
        self.progress.restart(images_seen, seconds, rollbacks)
        self.loader.reseed(self.progress.seed)
        if self.metrics_log and self.trackers:
            self.metrics_log.rewind(images_seen)
            self.trackers.rewind(images_seen, repeats=False)

    def close(self) -> None:
        self.loader.close()
        if self.metrics_log and self.trackers:
            self.metrics_log.close()
            self.trackers.close()
        self.ranks.wait()


def mean_metrics(
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
