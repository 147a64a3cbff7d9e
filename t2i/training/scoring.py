"""Scores while a run trains: the averaged generator on held-out images, and the best model so far."""

from collections.abc import Callable, Sequence

import torch

from t2i.config import TrainConfig
from t2i.data.prepared import PreparedDataset, find_validation
from t2i.errors import UserError
from t2i.evaluation.protocol import Evaluator, Options
from t2i.evaluation.sampler import CaptionSampler
from t2i.models.base import Generator
from t2i.models.folder import ModelDescription
from t2i.models.growing import Growth
from t2i.sampling import Sampler
from t2i.text.pooler import TextBatch
from t2i.training.run import Run
from t2i.training.text import PreparedText, TrainedText

# eval.best_by -> the score's name in a report.
CHOICES = {"kd": "KD-lite2", "fd": "FD-lite2", "r-precision": "R-precision"}
LOWER = ("kd", "fd")  # is better
# A score's name in a report -> its column in metrics.jsonl.
SCORES = {
    "KD-lite2": "kd_lite2", "FD-lite2": "fd_lite2", "R-precision": "r_precision", "recall": "recall",
    "variety, features": "variety", "variety, pixels": "variety_pixels",
}  # fmt: skip
# Metrics that need the same of the data.
DISTANCES = ("kd", "fd", "prdc", "variety")
JUDGED = ("r-precision", "variety")


def held_out(config: TrainConfig, dataset: PreparedDataset) -> PreparedDataset:
    """The data that a run on `dataset` is scored on. Raises UserError, one line, where there are none that fit."""
    data = PreparedDataset(config.eval.data) if config.eval.data else find_validation(dataset)
    if data is None:
        raise UserError(
            f"--eval-every needs a validation split of {dataset.name} at {dataset.resolution} px beside "
            f"{dataset.path}: t2i prepare --split val or --val-fraction makes one, eval.data in a run.toml names one"
        )
    data.check()
    if (data.resolution, data.form) != (dataset.resolution, dataset.form):
        there, here = (each.form.in_words(each.resolution) for each in (data, dataset))
        raise UserError(f"{data.path} holds {there}, {dataset.path} {here}")
    if config.text.encoder == "prepared" and data.text["sha256"] != dataset.text["sha256"]:
        raise UserError(f"{data.path} was prepared with another text encoder than {dataset.path}")
    return data


class Scoring:
    """Made once a run; what no model changes is computed here. Raises UserError, one line, where nothing can be scored.

    dataset: the training split, for the matcher. A score that cannot be had, and is not the one that models are chosen
    by, is left out and `say` is told why.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: PreparedDataset,
        text: PreparedText | TrainedText,
        run: Run,
        device: torch.device,
        say: Callable[[str], None],
    ):
        self.best_by, self.run, self.text, self.device = config.eval.best_by, run, text, device
        data = held_out(config, dataset)
        self.evaluator = self._evaluator(data, dataset, config, say)
        say(
            f"scores every {config.eval.every:,} images: {self.evaluator.samples:,} samples against "
            f"{len(data):,} images of {data.path}; best by {CHOICES[self.best_by]}"
        )

    def score(
        self, generator: Generator, description: ModelDescription, growth: Growth
    ) -> tuple[dict[str, float], bool]:
        """Scores of a generator in eval mode, {column: value}, and whether it is the best so far, which the run then
        remembers."""
        sha256 = "" if isinstance(self.text, TrainedText) else self.evaluator.data.text["sha256"]
        sampler = CaptionSampler(
            Sampler(generator, self.device, growth), generator.resolution, self._encode, sha256,
            aspect=self.evaluator.data.form.aspect,
        )  # fmt: skip
        values = self.evaluator.score(sampler).values()
        name = CHOICES[self.best_by]
        seen = description.training["images_seen"]
        value, before = values[name], self._best(seen)
        best = before is None or (value < before if self.best_by in LOWER else value > before)
        if best:
            # Evaluating it on the same data, t2i evaluate says that the score is no held-out one any more.
            self.run.write_best({
                "snapshot": seen, "best_by": name, "score": value,
                "chosen_on": self.evaluator.data.fingerprint,
            })  # fmt: skip
        return {column: values[name] for name, column in SCORES.items() if name in values}, best

    def _evaluator(
        self, data: PreparedDataset, train: PreparedDataset, config: TrainConfig, say: Callable[[str], None]
    ) -> Evaluator:
        def make(metrics: tuple[str, ...]) -> Evaluator:
            return Evaluator(data, train, Options(metrics, samples=config.eval.samples, device=str(self.device)))

        try:
            return make((*DISTANCES, "r-precision"))
        except UserError as error:
            # Too few captions for R-precision must not cost the distances, nor too few images R-precision.
            lower = self.best_by in LOWER
            evaluator = make(DISTANCES if lower else JUDGED)
            say(f"{'R-precision' if lower else 'distances between sets'} left out: {error}")
            return evaluator

    def _best(self, images_seen: int) -> float | None:
        """The score of the best model so far; None where there is none by that score on these images."""
        best = self.run.read_best()
        if best is None or best.get("best_by") != CHOICES[self.best_by]:
            return None
        if best.get("snapshot") == images_seen:
            return None  # this one: the run was killed before it was saved
        if best.get("chosen_on") != self.evaluator.data.fingerprint:
            return None  # of other images: it says nothing of these
        value = best.get("score")
        return float(value) if isinstance(value, int | float) else None

    def _encode(self, prompts: Sequence[str]) -> TextBatch:
        """Captions of another split, for an encoder that trains."""
        assert isinstance(self.text, TrainedText)
        return self.text.for_drawing(self.text.encode(prompts).to(self.device, torch.long))
