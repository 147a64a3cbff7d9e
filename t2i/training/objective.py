"""What a training step minimises: phases, and the gradients of each.

The loop knows no losses; it says, for each phase that is due, accumulate_gradients(phase, ...) over the
micro-batches, then lets the phase's optimiser step.

D phase (DF-GAN eq. 1, for any adversarial loss):

    real(D(x, e)) + 1/2 [fake(D(G(z, e), e)) + fake(D(x, e'))] + weight * penalty(x, e)

with e' the caption of another picture, or the mean over several. G phase: generator(D(G(z, e), e)).

With a contrastive term the discriminator learns besides to tell a real picture's caption from the batch's others, and
the generator to draw pictures whose caption it knows (XMC-GAN: Zhang et al. 2021, sec. 4); with `places` so it does
word by word, and learns that a picture mirrored belies a caption that speaks of sides. With a diversity term the
generator is rewarded for pictures of one caption that differ. While it is pretrained the generator learns alone, by the
likeness of its pictures to the captions' own, averaged down.

A text encoder that is trained belongs to the D phase: it learns from real pictures and their captions, by the terms
above; the generator takes its embeddings as they are.
"""

import contextlib
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.convolution import differentiated_twice
from t2i.data.sides import MIRRORS
from t2i.device import send
from t2i.losses.adversarial import AdversarialLoss, heads
from t2i.losses.contrastive import ContrastiveHead, PlacesHead, contrastive_loss
from t2i.losses.diversity import diversity
from t2i.losses.likeness import FINER_SIDES, coarse_difference
from t2i.losses.noise import NoiseEncoder
from t2i.losses.penalties import Penalty
from t2i.losses.perceptual import perceptual_difference
from t2i.models.base import Features
from t2i.models.layers import GROUP
from t2i.precision import at_least_fp32
from t2i.text.pooler import TextBatch
from t2i.training.batch import Batch
from t2i.training.drawing import Drawer, Noise
from t2i.training.randomness import StepRandom
from t2i.training.statistics import Statistics, watch_collapse

REDRAWN = 4  # one picture in so many is drawn a second time, for the diversity term


@dataclass(frozen=True)
class Phase:
    """One optimiser's turn. `name` is "D" or "G"; `module` is what it trains; it is due every step."""

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer


class GANObjective:
    """Losses of a conditional GAN.

    autocast_dtype: None for fp32, else the dtype of the generator's and of the penalty-free discriminator passes. A
    pass that a penalty is taken from runs in fp32 (on CUDA, as all fp32 passes, with convolutions in TF32: torch's
    default).
    pretraining: the generator learns by likeness alone; no discriminator is asked. The training sets it.
    augments, nearest_of, noise_encoder: see Drawer.
    noise_kl: what a nat that a picture tells by its noise costs, beside a likeness of weight 1.
    shared_fakes: both phases see the same generated pictures, as in DF-GAN's published loop, augmented alike.
    penalty_every: with k > 1 the penalty is taken every k-th step, k times as heavy (lazy regularisation, Karras et
    al. 2020, appendix B).
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        loss: AdversarialLoss,
        penalty: Penalty | None,
        penalty_weight: float = 0.0,
        penalty_every: int = 1,
        augments: tuple[str, ...] = (),
        autocast_dtype: torch.dtype | None = None,
        text_encoder: nn.Module | None = None,
        contrast: ContrastiveHead | None = None,
        contrast_weight: float = 1.0,
        places: PlacesHead | None = None,
        diversity_weight: float = 0.0,
        likeness_weight: float = 0.0,
        perceptual_weight: float = 0.0,
        nearest_of: int = 1,
        noise_encoder: NoiseEncoder | None = None,
        noise_kl: float = 0.0,
        shared_fakes: bool = False,
    ):
        self.text_encoder, self.contrast_weight = text_encoder, contrast_weight
        self.contrast, self.places = contrast, places
        self.generator, self.discriminator = generator, discriminator
        self.drawer = Drawer(generator, augments=augments, nearest_of=nearest_of, noise_encoder=noise_encoder)
        self.noise_kl, self.diversity_weight = noise_kl, diversity_weight
        self.likeness_weight, self.perceptual_weight = likeness_weight, perceptual_weight
        self.loss, self.penalty = loss, penalty
        self.penalty_weight, self.penalty_every = penalty_weight, penalty_every
        self.autocast_dtype = autocast_dtype
        self.shared_fakes = shared_fakes
        # From the D phase to the G phase: noise, pictures, what the discriminator sees in them and in the real ones.
        self._kept: tuple[Noise, Tensor, Any] | None = None
        self._kept_reals: Any = None
        self.pretraining = False
        self.statistics = Statistics()

    def accumulate_gradients(
        self,
        phase: Phase,
        batch: Batch,
        share: float,
        step: int,
        random: StepRandom,
        scale: Callable[[Tensor], Tensor] = lambda loss: loss,
        alone: bool = False,
    ) -> None:
        """Add the gradients of one micro-batch, which is `share` of the global batch; fp16 scales the loss up.

        With shares that sum to 1 the result is the gradient of the whole batch: every loss is a mean over pictures
        and no network mixes them (or mixes in groups of a fixed size).
        alone: this process has no other micro-batch in this step. Shared fakes are then kept, with their graph, from
        the D phase to the G phase, and what the frozen network sees in real pictures; else both are made again, from
        the same numbers.
        """
        if self.pretraining:
            loss = self._pretraining_loss(batch, random)
        elif phase.name == "D":
            loss = self._discriminator_loss(batch, step, random, alone)
        else:
            loss = self._generator_loss(batch, random)
        scale(loss * share).backward()

    def forget(self) -> None:
        """Drop what the D phase has put by for the G phase: the step failed in between."""
        self._kept = self._kept_reals = None

    def form(self, step: int) -> tuple[Hashable, ...]:
        """What a step's losses depend on beside tensors, and the blur's width: equal for steps that are alike."""
        return self.pretraining, self._penalises(step), self.penalty_weight, self.drawer.blur_reach

    def _penalises(self, step: int) -> bool:
        return self.penalty is not None and step % self.penalty_every == 0

    def _discriminator_loss(self, batch: Batch, step: int, random: StepRandom, keep: bool = False) -> Tensor:
        fakes, shown, seen = self._fakes_to_judge(batch, random, self.shared_fakes and keep)
        watch_collapse(self.statistics, batch.images, fakes)

        # Real pictures: one pass serves the matching caption, the wrong one, and a penalty on real pairs.
        penalise = self._penalises(step)
        on_reals = penalise and not self.penalty.between
        images = self.drawer.augment(batch.images, random, self._real_augmentation).detach()
        with self._autocast(batch.images):
            captions, text = self._texts(batch, random)
            wrong_text = self._encode_wrong(batch, random) if captions is None else None
        with differentiated_twice() if on_reals else self._autocast(batch.images):
            read, conditions, condition = self._read(captions, text, random)
            if on_reals:
                images.requires_grad_(True)
                if not condition.requires_grad:  # a pooler without weights
                    condition.requires_grad_(True)
            seen_reals = self.discriminator.look(images)
            if on_reals:
                features, features_of_fakes = self.discriminator.features_of(seen_reals), None
            else:  # in one pass
                features, features_of_fakes = self._features_of_both(seen_reals, seen)
            real = self.discriminator.logits(features, condition)
            if wrong_text is None:  # with the contrastive term every caption of the batch is read already
                others = conditions[batch.wrong]  # [B, K, E]
            else:
                others = self.discriminator.pool(wrong_text).unflatten(0, batch.wrong.shape)
            wrong = torch.stack([self.discriminator.logits(features, other) for other in others.unbind(1)], dim=1)
        with self._autocast(batch.images):
            if features_of_fakes is None:
                features_of_fakes = self.discriminator.features_of(seen)
            fake = self.discriminator.logits(features_of_fakes, self.discriminator.pool(text))

        self._kept_reals = [part.detach() for part in seen_reals] if self.perceptual_weight and keep else None
        lacking = batch.wrong < 0  # where all captions belong to the picture
        mismatch = (~lacking * heads(self.loss.fake(wrong), 2)).mean(1)
        losses = heads(self.loss.real(real)) + 0.5 * (heads(self.loss.fake(fake)) + mismatch)
        self.statistics.add("loss_d", losses)
        self.statistics.add("logits_real", real)
        wrong = wrong.reshape(*lacking.shape, -1).mean(2)  # of one head or several
        self.statistics.add("logits_mismatch", wrong.masked_fill(lacking, 0), left_out=lacking.sum())
        self.statistics.add("logits_fake", fake)
        if penalise:
            judged = (real, images, condition) if on_reals else self._judge_between(images, shown, text, random)
            penalty = self.penalty_weight * self.penalty(*judged)
            self.statistics.add("penalty", penalty)
            losses = losses + self.penalty_every * penalty
        if self.contrast is not None:
            losses = losses + self._contrastive("", features, read, conditions, batch, random)
        if self.places is not None:
            losses = losses + self._mirrored(images, read[random.rows], batch.mirror)
        return losses.mean()

    def _judge_between(
        self, images: Tensor, fakes: Tensor, text: TextBatch, random: StepRandom
    ) -> tuple[Tensor, Tensor, Tensor]:
        """For a penalty between real and generated pictures (Gulrajani et al. 2017, alg. 1): what it is taken from."""
        share = random.uniform("D between", 1, 1, 1).to(images.dtype)
        between = torch.lerp(images, fakes, share).requires_grad_(True)
        with differentiated_twice():
            condition = self.discriminator.pool(text)
            return self.discriminator.logits(self.discriminator.features(between), condition), between, condition

    def _features_of_both(self, first: Any, second: Any) -> tuple[Features, Features]:
        """What the discriminator makes of two batches that it has looked at, [B, ...] each."""
        if len(first if isinstance(first, Tensor) else first[0]) % GROUP:  # a group would hold pictures of both
            return self.discriminator.features_of(first), self.discriminator.features_of(second)
        if isinstance(first, Tensor):
            both = torch.cat([first, second])
        else:
            both = [torch.cat(parts) for parts in zip(first, second)]
        summaries, regions = (part.chunk(2) for part in self.discriminator.features_of(both))
        return Features(summaries[0], regions[0]), Features(summaries[1], regions[1])

    def _generator_loss(self, batch: Batch, random: StepRandom) -> Tensor:
        with self._autocast(batch.images):
            text = self._encode_plainly(batch.text)
            captions = None if self.contrast is None else self._encode_plainly(batch.captions)
            if self._kept is None:
                noise = self.drawer.noise_near(batch.images, text, random, "G")
                fakes = self.drawer.draw(noise.z, text, random, "G")
                seen = self.discriminator.look(self.drawer.augment(fakes, random, "G"))
            else:
                noise, fakes, seen = self._kept
                self._kept = None
            features = self.discriminator.features_of(seen)
            read, conditions, condition = self._read(captions, text, random)
            fake = self.discriminator.logits(features, condition)
        losses = heads(self.loss.generator(fake))
        self.statistics.add("loss_g", losses)
        if self.likeness_weight:
            likeness = coarse_difference(fakes, batch.images)
            self.statistics.add("loss_likeness", likeness)
            losses = losses + self.likeness_weight * self._likeness_loss(likeness, noise)
        if self.perceptual_weight:
            difference = perceptual_difference(seen, self._seen_reals(batch, random))
            self.statistics.add("loss_perceptual", difference)
            losses = losses + self.perceptual_weight * difference
        if self.diversity_weight:
            losses = losses - self._diversity(fakes, text, random)
        if self.contrast is not None:
            losses = losses + self._contrastive("_g", features, read, conditions, batch, random)
        return losses.mean()

    def _pretraining_loss(self, batch: Batch, random: StepRandom) -> Tensor:
        text = self._encode_plainly(batch.text)
        with self._autocast(batch.images):
            noise = self.drawer.noise_near(batch.images, text, random, "G")
            fakes = self.drawer.draw(noise.z, text, random, "G")
        watch_collapse(self.statistics, batch.images, fakes.detach())
        losses = coarse_difference(fakes, batch.images, FINER_SIDES)
        self.statistics.add("loss_likeness", losses)
        return self._likeness_loss(losses, noise).mean()

    def _likeness_loss(self, difference: Tensor, noise: Noise) -> Tensor:
        """Differences to captions' own pictures, [B], and what is paid for being told."""
        if noise.nats is None:
            return difference
        self.statistics.add("noise_nats", noise.nats)
        return difference + self.noise_kl * noise.nats

    @property
    def _real_augmentation(self) -> str:
        """With the perceptual term real pictures are augmented as the generator's are, to be compared with them."""
        return "G" if self.perceptual_weight else "D real"

    @torch.no_grad()
    def _seen_reals(self, batch: Batch, random: StepRandom) -> list[Tensor]:
        """What the frozen network sees in the real pictures of the generator's phase."""
        kept, self._kept_reals = self._kept_reals, None
        if kept is not None:
            return kept
        images = self.drawer.augment(batch.images, random, self._real_augmentation)
        with self._autocast(batch.images):
            return self.discriminator.look(images)

    def _fakes_to_judge(self, batch: Batch, random: StepRandom, keep: bool) -> tuple[Tensor, Tensor, Any]:
        """Generated pictures for the discriminator's phase: as drawn, as shown to it, and what it sees in them.

        No gradient goes through them. keep: through what is put by for the generator's phase one does.
        """
        self._kept = None  # what a step that failed may have left
        augmentation = "G" if self.shared_fakes else "D fake"
        for network in self.drawer.networks if keep else ():
            network.requires_grad_(True)
        with torch.set_grad_enabled(keep):
            with self._autocast(batch.images):
                text = self._encode_plainly(batch.text)
                if self.shared_fakes:
                    noise = self.drawer.noise_near(batch.images, text, random, "G")
                else:
                    noise = Noise(self.drawer.noise(random, "D"))
                fakes = self.drawer.draw(noise.z, text, random, "G" if self.shared_fakes else "D")
            shown = self.drawer.augment(fakes, random, augmentation)
            with self._autocast(batch.images):
                seen = self.discriminator.look(shown)
        for network in self.drawer.networks if keep else ():
            network.requires_grad_(False)
        if keep:
            self._kept = noise, fakes, seen
        cut = seen.detach() if isinstance(seen, Tensor) else [part.detach() for part in seen]
        return fakes.detach(), shown.detach(), cut

    def _texts(self, batch: Batch, random: StepRandom) -> tuple[TextBatch | None, TextBatch]:
        """Embeddings of the whole batch's captions, which only the contrastive term needs, and of the pictures' own."""
        if self.contrast is None:
            return None, self._encode(batch.text, random, "D text")
        captions = self._encode(batch.captions, random.take(slice(0, random.batch)), "D text")
        return captions, captions[random.rows]

    def _read(
        self, captions: TextBatch | None, text: TextBatch, random: StepRandom
    ) -> tuple[TextBatch | None, Tensor | None, Tensor]:
        """What the discriminator makes of text: the batch's captions as it reads them, their conditions [N, E], and
        those of the pictures' own, [B, E]. The first two are for the contrastive term alone."""
        if captions is None:
            return None, None, self.discriminator.pool(text)
        read = self.discriminator.read(captions)
        conditions = self.discriminator.pooler.pool(read)
        return read, conditions, conditions[random.rows]

    def _contrastive(
        self, phase: str, features: Features, read: TextBatch, conditions: Tensor, batch: Batch, random: StepRandom
    ) -> Tensor:
        """The weighted contrastive term, [B]: do these pictures know their captions? phase: "" or "_g", in the logs."""
        own = torch.arange(random.batch, device=conditions.device)[random.rows]
        losses = contrastive_loss(self.contrast(features.summary, conditions), own, batch.belongs)
        self.statistics.add(f"contrast{phase}", losses)
        if self.places is not None:
            places = contrastive_loss(self.places(features.regions, read), own, batch.belongs)
            self.statistics.add(f"places{phase}", places)
            losses = losses + places
        return self.contrast_weight * losses

    def _mirrored(self, images: Tensor, read: TextBatch, axes: np.ndarray) -> Tensor:
        """The weighted term of mirrored pictures, [B]: their captions speak of sides, and are wrong."""
        found = torch.zeros(len(images), dtype=at_least_fp32(images).dtype, device=images.device)
        if not axes.any():
            return found
        rows = [send(torch.from_numpy(np.flatnonzero(axes == axis)), images.device) for axis in MIRRORS]
        mirrored = torch.cat([images.detach()[some].flip(axis) for some, axis in zip(rows, MIRRORS)])
        rows = torch.cat(rows)
        with self._autocast(images):
            regions = self.discriminator.features(mirrored).regions
        losses = F.softplus(self.places.pairs(regions, read[rows]))
        self.statistics.add("mirrored", losses)
        return found.index_put((rows,), self.contrast_weight * losses)

    def _diversity(self, fakes: Tensor, text: TextBatch, random: StepRandom) -> Tensor:
        """The weighted diversity term, [B]: every REDRAWN-th picture of the whole batch stands for those without."""
        found = torch.zeros_like(fakes[:, 0, 0, 0], dtype=at_least_fp32(fakes).dtype)
        rows = slice(-random.rows.start % REDRAWN, None, REDRAWN)
        if rows.start < len(fakes):
            with self._autocast(fakes):
                z = self.drawer.noise(random, "G other", rows)
                others = self.drawer.draw(z, text[rows], random, "G other", rows)
            difference = diversity(fakes[rows], others)
            self.statistics.add("diversity_within", difference)
            stands_for = random.batch / math.ceil(random.batch / REDRAWN)
            found[rows] = stands_for * self.diversity_weight * difference
        return found

    def _encode_wrong(self, batch: Batch, random: StepRandom) -> TextBatch:
        """The wrong captions, [B K, L, T], where not all of the batch's are encoded."""
        return self._encode(batch.captions[batch.wrong.flatten()], random, "D mismatch", batch.wrong.shape[1])

    def _encode(self, text: TextBatch, random: StepRandom, name: str, captions: int = 1) -> TextBatch:
        """Embeddings of a trained encoder, with dropout; those of a frozen one are there already.

        captions: how many rows of the text there are for each picture.
        """
        if self.text_encoder is None:
            return text
        numbers = self.text_encoder.dropout_numbers
        if not numbers:
            return self.text_encoder(text)
        return self.text_encoder(text, random.uniform(name, captions * numbers).reshape(-1, numbers))

    @torch.no_grad()
    def _encode_plainly(self, text: TextBatch) -> TextBatch:
        """The embeddings that a prompt will have when the generator draws."""
        return text if self.text_encoder is None else self.text_encoder(text)

    def _autocast(self, images: Tensor) -> contextlib.AbstractContextManager:
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(images.device.type, self.autocast_dtype)
