"""How far a run has come, and what is due at a step boundary."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from t2i.config import TrainConfig
from t2i.training.distributed import Ranks
from t2i.training.randomness import derive_seed


@dataclass(frozen=True)
class Due:
    """reason: why training ends here, "done", "minutes" or "signal"; "" where it goes on."""

    reason: str
    log: bool
    save: bool
    score: bool


class Progress:
    """Images seen, and when the run was last logged and saved.

    images_seen: the loop counts it up. seed: of order, noise and augmentation. began_at: images seen when this process
    began.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        self.goal = int(config.schedule.kimg * 1000)
        self.process_started = time.monotonic()
        self.began_at = 0
        self._began = False
        self.restart(0, 0.0, 0)

    def restart(self, images_seen: int, seconds: float, rollbacks: int) -> None:
        """Stand where a checkpoint does: its images seen, the seconds that the run had taken, its rollbacks."""
        self.images_seen, self.rollbacks, self._seconds_before = images_seen, rollbacks, seconds
        # After a rollback the same numbers would end in the same place.
        seed = self.config.run.seed
        self.seed = derive_seed(seed, "rollback", rollbacks) if rollbacks else seed
        self._started = self._logged_at = self._saved_at = time.monotonic()
        self._logged_images = self.saved_images = images_seen
        if not self._began:
            self.began_at = images_seen

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def elapsed(self) -> float:
        """Seconds of this process, which a rollback does not reset: --minutes counts them."""
        return time.monotonic() - self.process_started

    @property
    def images_per_second(self) -> float:
        """Since the last line of the log."""
        return (self.images_seen - self._logged_images) / max(time.monotonic() - self._logged_at, 1e-9)

    def due(self, stop: Callable[[], bool], ranks: Ranks) -> Due:
        """What is due now; all ranks agree. stop: has a signal come?"""
        if not self._began:  # set-up does not count
            self.process_started, self._began = time.monotonic(), True
        minutes, saving = self.config.schedule.minutes, self.config.run.checkpoint_minutes
        too_long = bool(minutes and self.elapsed >= minutes * 60)
        unsaved = bool(saving and time.monotonic() - self._saved_at >= saving * 60)
        too_long, stopped, unsaved = ranks.any(too_long, stop(), unsaved)
        reason = "done" if self.images_seen >= self.goal else "minutes" if too_long else "signal" if stopped else ""
        every = self.config.eval.every
        score = bool(every and (reason in ("done", "minutes") or self._passed(every, self._logged_images)))
        log = bool(reason) or score or self._passed(self.config.run.log_kimg * 1000, self._logged_images)
        save = bool(reason) or unsaved or self._passed(self.config.run.snapshot_kimg * 1000, self.saved_images)
        return Due(
            reason, log and self.images_seen > self._logged_images, save and self.images_seen > self.saved_images, score
        )

    def _passed(self, every: float, last: int) -> bool:
        """Has a multiple of `every` images gone by since `last`?"""
        return self.images_seen // every > last // every

    def logged(self) -> None:
        self._logged_images, self._logged_at = self.images_seen, time.monotonic()

    def saved(self) -> None:
        self.saved_images, self._saved_at = self.images_seen, time.monotonic()
