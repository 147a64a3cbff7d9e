"""The evaluation protocol: captions and seeds of the samples, reference images, bounds of each score.

All is fixed for a data set and a seed: sample i has a caption of image order[i] and the noise of seed 2^32 seed + i.
The reference images are those of the evaluated split. The ceiling is the same score for as many real images of the
training split; without one, for one half of the evaluated images against the other half. The floor, of scores that
depend on the text, is that of the same samples with their captions shuffled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t2i.data.prepared import PreparedDataset
from t2i.data.sampler import choice_at
from t2i.errors import UsageError, UserError
from t2i.evaluation import statistics
from t2i.evaluation.attributes import accuracy
from t2i.evaluation.clip import Clip, load_clip
from t2i.evaluation.copies import COUNT, Copies
from t2i.evaluation.distances import Distances, RealFeatures
from t2i.evaluation.features import RESIZE, FeatureNetwork, Progress, load_lite2, silent
from t2i.evaluation.inception import load_inception
from t2i.evaluation.matcher import sentences, too_few, train_matcher
from t2i.evaluation.real_images import data_features, fixed_order, name_of, shared_images
from t2i.evaluation.report import Report, Score
from t2i.evaluation.retrieval import Retrieval, sample_choices
from t2i.evaluation.sampler import CaptionSampler, Samples
from t2i.evaluation.saved import place_captions
from t2i.evaluation.variety import Variety

LITE2, INCEPTION, CLIP = "lite2", "inception", "clip"
# The names that --metrics takes, in reading order, with the network that each uses.
METRICS = {
    "fd": LITE2, "kd": LITE2, "prdc": LITE2, "r-precision": LITE2, "variety": LITE2, "attributes": None, "copies": None,
    "fid": INCEPTION, "kid": INCEPTION, "clip": CLIP,
}  # fmt: skip
# The scores between two sets: metric -> kind of statistic, name.
BETWEEN_SETS = {
    LITE2: {"fd": ("frechet", "FD-lite2"), "kd": ("kernel", "KD-lite2"), "prdc": ("manifold", "")},
    INCEPTION: {"fid": ("frechet", "FID"), "kid": ("kernel", "KID")},
}
ASKED_FOR = ("copies",)  # takes minutes: only where it is named
RETRIEVAL = {"r-precision": "R-precision", "clip": "CLIP R@1"}  # metrics that rank captions for an image
REFERENCE = 10_000  # at most so many reference images, and samples by default; more where asked for
DEGRADED = 5_000  # training images that the matcher also sees degraded
SCENES = 400  # scenes of each kind, for attribute accuracy


@dataclass(frozen=True)
class Options:
    """metrics: names from METRICS; None: all that are possible. samples: images to generate; None: one for each image
    of the evaluated split, at most 10,000. inception: the weight file of FID. clip: a folder or a hub name."""

    metrics: tuple[str, ...] | None = None
    samples: int | None = None
    seed: int = 0
    inception: Path | None = None
    clip: str | None = None
    device: str = "cpu"
    scenes: int = SCENES


class Evaluator:
    """Scores models on one split. All that does not depend on the model (features of real images, ceilings, the
    matcher) is computed or read once, here; `score` may then be called for one model after the other.

    data: the evaluated split. train: the training split, for the matcher and the ceilings. captions: of samples that
    were drawn before, which are scored in place of a model's. notes: what was left out and why. Raises UserError, one
    line, where a named score is not possible.
    """

    def __init__(
        self,
        data: PreparedDataset,
        train: PreparedDataset | None = None,
        options: Options = Options(),
        progress: Progress = silent,
        captions: Sequence[str] | None = None,
    ):
        self.data, self.options, self.drawn_before = data, options, captions is not None
        self.notes: list[str] = []
        self.train = self._usable(train, progress)
        self.samples = len(captions) if captions is not None else options.samples or min(len(data), REFERENCE)
        self.metrics = self._choose()
        if captions is None:
            self.images, self.caption_ids = self._captions(self.samples)
            # A different noise for each: noise_of_seed uses all 64 bits.
            self.seeds = (options.seed << 32) + np.arange(self.samples, dtype=np.int64)
        else:  # here a seed is the number of a saved sample
            ours = self._captions(max(self.samples, min(len(data), REFERENCE)))
            self.seeds, self.images, self.caption_ids = place_captions(data, captions, *ours)
        order = fixed_order(data, len(data))
        # The row of the reference that a sample's caption belongs to.
        self.rows = np.argsort(order)[self.images]
        self.reference = order[: max(self.samples, REFERENCE, int(self.rows.max()) + 1)]
        self.networks: dict[str, FeatureNetwork] = {}
        self.retrievals: dict[str, Retrieval] = {}
        self.distances: dict[str, Distances] = {}
        self.variety: Variety | None = None
        self.copies: Copies | None = None
        self._set_up(progress)
        if not (self.distances or self.retrievals or self.variety or {"attributes", "copies"} & set(self.metrics)):
            raise UserError(self.notes[-1])

    def score(self, sampler: Samples, progress: Progress = silent) -> Report:
        """Generates the samples and scores them. Raises UserError, one line, where the model does not fit the data."""
        sampler.check(self.data)
        features = self.extract(sampler, np.arange(self.samples), progress)
        scores: list[Score] = []
        margins = None
        for name in self.networks:
            if name in self.distances:
                scores += self.distances[name].scores(features[name])
            if name in self.retrievals:
                retrieval = self.retrievals[name]
                scores += retrieval.scores(features[name], self.options.seed)
                if margins is None and retrieval.has_distractors:
                    margins = retrieval.margins(features[name])
        if self.variety is not None:
            assert isinstance(sampler, CaptionSampler)
            progress("variety", 0, None)
            scores += self.variety.scores(sampler)
        if "attributes" in self.metrics:
            assert isinstance(sampler, CaptionSampler)
            progress("attributes", 0, None)
            scores += _attribute_scores(sampler, self.options.scenes, self.options.seed)
        if self.copies is not None:
            first = slice(0, COUNT)
            drawn = [
                images for _, images in sampler.draw_dataset(self.data, self.caption_ids[first], self.seeds[first])
            ]
            scores.append(self.copies.score(np.concatenate(drawn), progress))
        return Report(scores, self.facts(), list(self.notes), margins)

    def extract(self, sampler: Samples, samples: np.ndarray, progress: Progress) -> dict[str, np.ndarray]:
        """Generates these samples; their features by every network: name -> float32 [n, D]. No image is kept."""
        out = {name: np.empty((len(samples), net.width), np.float32) for name, net in self.networks.items()}
        if not self.networks:
            return out
        for rows, images in sampler.draw_dataset(self.data, self.caption_ids[samples], self.seeds[samples]):
            progress("samples", rows.start, len(samples))
            for name, network in self.networks.items():
                out[name][rows] = network(images)
        progress("samples", len(samples), len(samples))
        return out

    def facts(self) -> dict[str, Any]:
        """The protocol as a report records it: data, counts, seeds, networks."""
        networks = {
            name: {"name": net.name, "sha256": net.sha256, "input": f"{net.resolution} px, {RESIZE}"}
            for name, net in self.networks.items()
        }
        facts = {"data": _describe(self.data), "samples": self.samples, "seed": self.options.seed, "networks": networks}
        if self.train is not None:
            facts["train_data"] = _describe(self.train)
        if LITE2 in self.retrievals:
            facts["matcher"] = self.matcher.facts
        return facts

    # --- set-up ---------------------------------------------------------------------------------------------

    def _captions(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The image and the caption of each of `count` samples of a model."""
        positions = np.arange(count, dtype=np.int64)
        images = fixed_order(self.data, count)[positions % len(self.data)]
        which = choice_at(positions, self.data.caption_counts(images), self.options.seed)
        ids = [self.data.caption_ids(int(image))[choice] for image, choice in zip(images, which)]
        return images, np.array(ids, np.int64)

    def _usable(self, train: PreparedDataset | None, progress: Progress) -> PreparedDataset | None:
        """The training split, unless it holds the evaluated images."""
        if train is None:
            return None
        if train.resolution != self.data.resolution:
            self.notes.append(
                f"{train.path} is not used: it holds {train.resolution} px, {self.data.path} {self.data.resolution} px"
            )
            return None
        if train.fingerprint == self.data.fingerprint:
            self.notes.append(f"{self.data.path} is the training set itself: memorising it would score best")
            return None
        if shared := shared_images(self.data, train, progress):
            what = f"{shared:,} of the {len(self.data):,} images of {self.data.path} are in {train.path} too"
            if shared > len(self.data) // 10:
                self.notes.append(f"{what}: it gives neither a matcher nor a ceiling")
                return None
            self.notes.append(what)
        return train

    def _choose(self) -> list[str]:
        """The metrics to compute; those left out are added to the notes."""
        named = self.options.metrics
        for name in named or ():
            if name not in METRICS:
                raise UsageError(f"--metrics: unknown metric {name!r:.40}; known are {', '.join(METRICS)}")
        chosen = []
        for name in [n for n in METRICS if n not in ASKED_FOR] if named is None else dict.fromkeys(named):
            problem = self._problem(name)
            if problem is None:
                chosen.append(name)
            elif named is not None:
                raise problem
            elif not isinstance(problem, UsageError):  # an option that was not given needs no note
                self.notes.append(f"{name} left out: {problem}")
        if not chosen:
            raise UserError(self.notes[-1])
        return chosen

    def _problem(self, name: str) -> UserError | None:
        """Why a metric is not possible: UsageError for a missing option, UserError for data that do not suffice."""
        if METRICS[name] == INCEPTION and self.options.inception is None:
            return UsageError(f"{name} needs --inception-weights FILE, such as pt_inception-2015-12-05-6726825d.pth")
        if METRICS[name] == CLIP and self.options.clip is None:
            return UsageError(f"{name} needs --clip FOLDER, or a name on the Hugging Face hub")
        if name == "attributes" and (self.data.info.get("source") or {}).get("kind") != "shapes":
            return UsageError(f"attributes needs synthetic shapes (t2i prepare --shapes); {self.data.path} has none")
        if self.drawn_before and name in ("variety", "attributes"):
            return UserError(f"saved images are not enough for {name}, which draws prompts of its own")
        if name == "copies" and self.train is None:
            return UserError(f"copies needs the training data: {next(iter(self.notes), 'name it with --train-data')}")
        between_sets = any(name in family for family in BETWEEN_SETS.values())
        if between_sets and min(self.samples, len(self.data)) < statistics.LEAST:
            return UserError(
                f"{self.samples:,} samples against {len(self.data):,} images of {self.data.path} are too few for a "
                f"distance between sets: {statistics.LEAST} of each at least"
            )
        if name == "r-precision" and self.train is not None:
            return too_few(self.train)
        if name == "r-precision":
            what = "its matcher trains on the training split and must not see the evaluated split"
            why = next(iter(self.notes), "name the training split with --train-data")
            return UserError(what if self.notes and self.options.metrics is None else f"{what} ({why})")
        return None

    def _set_up(self, progress: Progress) -> None:
        device = self.options.device
        wanted = {METRICS[name] for name in self.metrics}
        clip = None
        if LITE2 in wanted:
            self.networks[LITE2] = load_lite2(device)
        if INCEPTION in wanted:
            assert self.options.inception is not None
            self.networks[INCEPTION] = load_inception(self.options.inception, device)
        if CLIP in wanted:
            assert self.options.clip is not None
            clip = load_clip(self.options.clip, device)
            self.networks[CLIP] = clip.images
        if "variety" in self.metrics:
            self.variety = Variety.of(self.data, self.train, self.networks[LITE2], self.caption_ids)
        if "copies" in self.metrics:
            assert self.train is not None
            self.copies = Copies.of(self.train, progress)
        choices = self._choices()
        for name, network in self.networks.items():
            real = data_features(network, self.data, len(self.reference), progress)
            other = None
            if self.train is not None and name != CLIP:
                # A matcher trains on more images than a ceiling compares.
                count = max(self.samples, REFERENCE) if "r-precision" in self.metrics else self.samples
                other = data_features(network, self.train, count if name == LITE2 else self.samples, progress)
            kinds = dict(BETWEEN_SETS.get(name, {}).get(metric, ("", "")) for metric in self.metrics)
            kinds.pop("", None)
            if kinds:
                others = None if other is None or self.train is None else RealFeatures(other, name_of(self.train))
                reference = RealFeatures(real, name_of(self.data))
                self.distances[name] = Distances(kinds, network.label, reference, others, self.samples)
            if name == LITE2 and "r-precision" in self.metrics and choices is not None:
                assert other is not None
                self.retrievals[name] = self._matcher_retrieval(real, other, choices, progress)
        if clip is not None:
            self.retrievals[CLIP] = self._clip_retrieval(clip, choices, progress)

    def _choices(self) -> np.ndarray | None:
        """Each sample's own caption and its distractors; None where there are too few captions."""
        if not {"r-precision", "clip"} & set(self.metrics):
            return None
        try:
            return sample_choices(self.data, self.images, self.caption_ids, self.options.seed)
        except UserError as error:
            if self.options.metrics is not None and "r-precision" in self.metrics:
                raise
            left_out = [name for metric, name in RETRIEVAL.items() if metric in self.metrics]
            self.notes.append(f"{' and '.join(left_out)} left out: {error}")
            return None

    def _matcher_retrieval(
        self, real: np.ndarray, other: np.ndarray, choices: np.ndarray, progress: Progress
    ) -> Retrieval:
        assert self.train is not None
        # The same matcher for any number of samples.
        images = fixed_order(self.train, REFERENCE)
        network = self.networks[LITE2]
        degraded = data_features(network, self.train, DEGRADED, progress, degraded=True)
        self.matcher = train_matcher(self.train, images, other[: len(images)], degraded, network, progress)
        ids, rows = np.unique(choices, return_inverse=True)
        return Retrieval(
            name="R-precision", network=self.matcher.label, vectors=self.matcher.images,
            texts=self.matcher.texts(sentences(self.data, ids, progress)), choices=rows.reshape(choices.shape),
            real=self.matcher.images(real)[self.rows], real_of=f"the real images of {name_of(self.data)}",
        )  # fmt: skip

    def _clip_retrieval(self, clip: Clip, choices: np.ndarray | None, progress: Progress) -> Retrieval:
        network = self.networks[CLIP]
        if choices is None:
            choices = self.caption_ids[:, None]
        ids, rows = np.unique(choices, return_inverse=True)
        texts = clip.texts([self.data.caption(int(caption)) for caption in ids], progress)
        real = data_features(network, self.data, len(self.reference), progress)[self.rows]
        return Retrieval(
            name="CLIP R@1", cosine="CLIP score", network=network.label, vectors=lambda features: features,
            texts=texts, choices=rows.reshape(choices.shape),
            real=real, real_of=f"the real images of {name_of(self.data)}",
        )  # fmt: skip


def score(
    sampler: CaptionSampler, data: PreparedDataset, train: PreparedDataset | None, **options: Any
) -> dict[str, float]:
    """Name -> value of one model's scores; options: the fields of Options. For many models keep an Evaluator."""
    return Evaluator(data, train, Options(**options)).score(sampler).values()


def _describe(data: PreparedDataset) -> dict[str, Any]:
    return {
        "path": str(data.path), "name": data.name, "split": data.split, "resolution": data.resolution,
        "pictures": len(data), "fingerprint": data.fingerprint,
    }  # fmt: skip


def _attribute_scores(sampler: CaptionSampler, scenes: int, seed: int) -> list[Score]:
    """Attribute accuracy on synthetic shapes: seen and unseen pairs, one object and two."""
    scores = []
    for (group, pairs), found in accuracy(sampler.prompts, sampler.resolution, scenes, seed).items():
        objects = "one object" if group == "single" else "two objects"
        for name, value in found["model"].items():
            scores.append(
                Score(
                    name=f"{name}, {objects}, {pairs}", value=value, better="higher",
                    network="an exact reader of synthetic shapes", reference="the scene that the prompt names",
                    samples=scenes, ceiling=found["ceiling"][name], ceiling_of="the scenes themselves, rendered",
                    floor=found["floor"][name], error=float(np.sqrt(value * (1 - value) / scenes)),
                )
            )  # fmt: skip
    return scores
