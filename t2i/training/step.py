"""The losses of one training step: the discriminator's, the generator's, and the warm-up's.

Discriminator (DF-GAN eq. 1, for any adversarial loss):

    real(D(x, e)) + 1/2 [fake(D(G(z, e), e)) + fake(D(x, e'))] + weight * penalty(x, e)

with e' the caption of another image, or the mean over several. Generator: generator(D(G(z, e), e)). Each term of
t2i/losses adds its part. Every loss is a mean over images and no network mixes them (or mixes them in groups of a fixed
size), so that micro-batches weighted by their shares have the gradient of the whole batch.

A text encoder that is trained belongs to the discriminator's phase: it learns from real images and their captions; the
generator takes its embeddings as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from t2i.augment import AUGMENT_NUMBERS, augment
from t2i.convolution import differentiated_twice
from t2i.losses.adversarial import AdversarialLoss, sum_heads
from t2i.losses.base import DiscriminatorPass, Fakes, GeneratorPass, Term
from t2i.losses.penalties import GradientPenalty
from t2i.models.base import Discriminator, Features, Generator
from t2i.pixels import backgrounds, on_background
from t2i.text.pooler import TextBatch
from t2i.text.transformer import TransformerEncoder
from t2i.training.batch import Batch
from t2i.training.randomness import StepRandom
from t2i.training.schedule import StepPlan
from t2i.training.statistics import Statistics, watch_collapse

ALL = slice(None)


@dataclass(frozen=True)
class Objective:
    """What a run minimises: its networks and its losses.

    text_encoder: one that is trained, or None. phases_share: the discriminator's phase hands over to the generator's
    what both compute. statistics: where metrics go.
    """

    generator: Generator
    discriminator: Discriminator
    text_encoder: TransformerEncoder | None
    adversarial: AdversarialLoss
    penalty: GradientPenalty | None
    terms: Sequence[Term] = ()
    augment: tuple[str, ...] = ()
    shared_fakes: bool = False
    phases_share: bool = True
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def needs_captions(self) -> bool:
        return any(term.needs_captions for term in self.terms)

    @property
    def real_augmentation(self) -> str:
        """The numbers that augment real images: the generator's, where a term compares the two."""
        return "G" if any(term.pairs_images for term in self.terms) else "D real"

    @property
    def fake_augmentation(self) -> str:
        """The numbers that augment generated images in the discriminator's phase."""
        return "G" if self.shared_fakes or self.real_augmentation == "G" else "D fake"

    # ---- captions ----

    def encode(self, text: TextBatch, rng: StepRandom, name: str, captions: int = 1) -> TextBatch:
        """Embeddings of a trained encoder, with dropout; those of a frozen one are there already.

        captions: how many rows of the text there are for each image.
        """
        if self.text_encoder is None:
            return text
        numbers = self.text_encoder.dropout_numbers
        if not numbers:
            return self.text_encoder(text)
        return self.text_encoder(text, rng.uniform(name, captions * numbers).reshape(-1, numbers))

    @torch.no_grad()
    def encode_for_generator(self, text: TextBatch) -> TextBatch:
        """The embeddings that a prompt will have when it is drawn."""
        return text if self.text_encoder is None else self.text_encoder(text)

    def read(self, captions: TextBatch | None) -> tuple[TextBatch | None, Tensor | None]:
        """All captions of the batch as the discriminator reads them, and their conditions [N, E]. captions: None where
        no term needs them."""
        if captions is None:
            return None, None
        tokens = self.discriminator.read(captions)
        return tokens, self.discriminator.pooler.pool(tokens)

    def own(self, conditions: Tensor | None, text: TextBatch, rng: StepRandom) -> Tensor:
        """The conditions of the images' own captions, [B, E]: of those that `read` gave, else of the text."""
        return self.discriminator.pool(text) if conditions is None else conditions[rng.rows]

    # ---- images ----

    def draw(self, plan: StepPlan, z: Tensor, text: TextBatch, rng: StepRandom, name: str, rows: slice = ALL) -> Tensor:
        """Images of this noise and these captions, with those rows of the random numbers called `name`."""
        count = self.generator.training_noise(plan.growth)
        training_noise = rng.normal(f"{name} shake", count)[rows] if count else None
        return self.generator(z, text, growth=plan.growth, training_noise=training_noise)

    def noise(self, rng: StepRandom, name: str) -> Tensor:
        """[B, Z]."""
        return rng.normal(f"{name} z", self.generator.z_dim)

    def augmented(self, images: Tensor, rng: StepRandom, name: str) -> Tensor:
        """Images [B, C, r, r] as the discriminator sees them: with DiffAugment. One that knows RGB alone, [B, 3, r, r],
        sees transparent ones on a background, a real image and a generated one on the same."""
        rgb_alone = self.discriminator.rgb_alone
        if rgb_alone and images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        elif rgb_alone and images.shape[1] == 4:
            images = on_background(images, backgrounds(rng.uniform("background", 1)).to(images.dtype))
        if not self.augment:
            return images
        return augment(images, rng.uniform(f"{name} augment", AUGMENT_NUMBERS), self.augment)


@dataclass(frozen=True)
class Phase:
    """One optimiser's turn in a step, "D" or "G". module: what it trains. loss: of a micro-batch, see below."""

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    loss: "PhaseLoss"


class Shared(NamedTuple):
    """What the discriminator's phase has computed and the generator's phase takes over, else computes again."""

    fakes: Fakes
    real_maps: Any


PhaseLoss = Callable[[Objective, StepPlan, Batch, StepRandom, Shared | None], tuple[Tensor, Shared | None]]


# ---- the discriminator's phase ----


def discriminator_loss(
    nets: Objective, plan: StepPlan, batch: Batch, rng: StepRandom, shared: Shared | None = None
) -> tuple[Tensor, Shared | None]:
    """The mean loss over a micro-batch, [], and what it computed for the generator's phase too."""
    statistics = nets.statistics
    fakes = draw_for_discriminator(nets, plan, batch, rng)
    watch_collapse(statistics, batch.images, fakes.images.detach())
    d, real_maps = discriminate(nets, plan, batch, rng, fakes)

    # The weight of a wrong caption goes to the fake where there is none: all captions belong to the image.
    none_wrong = batch.wrong < 0  # [B, K]
    share = 0.5 * (~none_wrong).float().mean(1)
    real = d.real.unsqueeze(1)  # [B, 1] or [B, 1, heads]
    mismatch = (~none_wrong * sum_heads(nets.adversarial.mismatch(d.wrong, real), 2)).mean(1)
    losses = sum_heads(nets.adversarial.real(d.real)) + 0.5 * mismatch
    losses = losses + (1 - share) * sum_heads(nets.adversarial.fake(d.fake, d.real))
    statistics.add("loss_d", losses)
    statistics.add("logits_real", d.real)
    wrong = d.wrong.reshape(*none_wrong.shape, -1).mean(2)  # of one head or several
    statistics.add("logits_mismatch", wrong.masked_fill(none_wrong, 0), left_out=none_wrong.sum())
    statistics.add("logits_fake", d.fake)

    if nets.penalty and plan.penalty:
        where = (d.real, d.images, d.words)
        if nets.penalty.between:
            where = logits_between(nets, d, fakes.seen.detach())
        penalty = plan.penalty * nets.penalty.function(*where)
        statistics.add("penalty", penalty)
        losses = losses + plan.lazy * penalty
    for term in nets.terms:
        if (part := term.discriminator(d)) is not None:
            losses = losses + part
    return losses.mean(), Shared(fakes, detach(real_maps)) if nets.phases_share else None


def draw_for_discriminator(nets: Objective, plan: StepPlan, batch: Batch, rng: StepRandom) -> Fakes:
    """Fakes for the discriminator's phase; with their graph where the generator's phase goes on from them."""
    with_graph = nets.shared_fakes and nets.phases_share
    name = "G" if nets.shared_fakes else "D"
    with torch.set_grad_enabled(with_graph):
        return draw_fakes(nets, plan, batch, rng, name, nets.fake_augmentation)


def draw_fakes(nets: Objective, plan: StepPlan, batch: Batch, rng: StepRandom, name: str, augmentation: str) -> Fakes:
    """Generated images of a batch's captions with the random numbers `name`, augmented with those of `augmentation`."""
    with plan.autocast(batch.images.device.type):
        text = nets.encode_for_generator(batch.text)
        images = nets.draw(plan, nets.noise(rng, name), text, rng, name)
    seen = nets.augmented(images, rng, augmentation)
    with plan.autocast(batch.images.device.type):
        return Fakes(images, seen, nets.discriminator.extract(seen))


def discriminate(
    nets: Objective, plan: StepPlan, batch: Batch, rng: StepRandom, fakes: Fakes
) -> tuple[DiscriminatorPass, Any]:
    """The discriminator's pass over real and generated images, and its maps of the real ones.

    One pass over the real images serves the right caption, the wrong ones, and a penalty on real pairs, which is taken
    in fp32, where second derivatives are needed.
    """
    d, device = nets.discriminator, batch.images.device.type
    penalised = nets.penalty is not None and plan.penalty > 0 and not nets.penalty.between
    images = nets.augmented(batch.images, rng, nets.real_augmentation).detach()
    with plan.autocast(device):
        captions: TextBatch | None = None
        wrong_text: TextBatch | None = None
        if nets.needs_captions:
            captions = nets.encode(batch.captions, rng.take(slice(0, rng.batch)), "D text")
            text = captions[rng.rows]
        else:
            text = nets.encode(batch.text, rng, "D text")
            wrong = batch.captions[batch.wrong.flatten()]
            wrong_text = nets.encode(wrong, rng, "D mismatch", batch.wrong.shape[1])  # [B K, L, T]
    with differentiated_twice() if penalised else plan.autocast(device):
        tokens, conditions = nets.read(captions)
        words = None
        if penalised:
            images.requires_grad_(True)
            words = d.pooler.standardise(text)
            if not words.tokens.requires_grad:  # an encoder that is trained has them in its graph
                words.tokens.requires_grad_(True)
            condition = d.pooler.pool(d.pooler.mix(words))
        else:
            condition = nets.own(conditions, text, rng)
        maps, fake_maps = d.extract(images), detach(fakes.maps)
        if penalised:
            features, fake_features = d.features_of_maps(maps, plan.growth), None
        else:
            features, fake_features = features_of_both(d, maps, fake_maps, plan)
        real = d.logits(features, condition)
        if conditions is not None:
            others = conditions[batch.wrong]
        else:
            assert wrong_text is not None
            others = d.pool(wrong_text).unflatten(0, batch.wrong.shape)
        wrong_logits = torch.stack([d.logits(features, other) for other in others.unbind(1)], dim=1)
    with plan.autocast(device):
        if fake_features is None:
            fake_features = d.features_of_maps(fake_maps, plan.growth)
        fake = d.logits(fake_features, d.pool(text))
    found = DiscriminatorPass(
        plan, batch, rng, nets.statistics.add, d, text, tokens, conditions, condition, features,
        images, fake_features, real, fake, wrong_logits, None if words is None else words.tokens,
    )  # fmt: skip
    return found, maps


def features_of_both(d: Discriminator, first: Any, second: Any, plan: StepPlan) -> tuple[Features, Features]:
    """The features of two batches of maps, [B, ...] each, in one pass."""
    if len(first if isinstance(first, Tensor) else first[0]) % d.group:  # a group would hold images of both
        return d.features_of_maps(first, plan.growth), d.features_of_maps(second, plan.growth)
    if isinstance(first, Tensor):
        both: Any = torch.cat([first, second])
    else:
        both = [torch.cat(parts) for parts in zip(first, second)]
    summaries, regions = (part.chunk(2) for part in d.features_of_maps(both, plan.growth))
    return Features(summaries[0], regions[0]), Features(summaries[1], regions[1])


def logits_between(nets: Objective, d: DiscriminatorPass, fakes: Tensor) -> tuple[Tensor, Tensor, None]:
    """Logits and images of random points between real and generated images, for a penalty that is taken
    there (Gulrajani et al. 2017, alg. 1)."""
    share = d.rng.uniform("D between", 1, 1, 1).to(fakes.dtype)
    between = torch.lerp(d.images, fakes, share).requires_grad_(True)
    with differentiated_twice():
        condition = nets.discriminator.pool(d.text)
        features = nets.discriminator.features(between, d.plan.growth)
        return nets.discriminator.logits(features, condition), between, None


def detach(maps: Any) -> Any:
    """A tensor, or a list of them, without its graph."""
    return maps.detach() if isinstance(maps, Tensor) else [part.detach() for part in maps]


# ---- the generator's phase ----


def generator_loss(
    nets: Objective, plan: StepPlan, batch: Batch, rng: StepRandom, shared: Shared | None = None
) -> tuple[Tensor, None]:
    """The mean loss over a micro-batch, []. shared: what the discriminator's phase returned for it."""
    d, device, statistics = nets.discriminator, batch.images.device.type, nets.statistics
    fakes = shared.fakes if shared is not None and nets.shared_fakes else draw_fakes(nets, plan, batch, rng, "G", "G")
    with plan.autocast(device):
        text = nets.encode_for_generator(batch.text)
        captions = nets.encode_for_generator(batch.captions) if nets.needs_captions else None
        features = d.features_of_maps(fakes.maps, plan.growth)
        tokens, conditions = nets.read(captions)
        condition = nets.own(conditions, text, rng)
        fake = d.logits(features, condition)

    @torch.no_grad()
    def real_maps() -> Any:
        if shared is not None:
            return shared.real_maps
        images = nets.augmented(batch.images, rng, nets.real_augmentation)
        with plan.autocast(device):
            return d.extract(images)

    def other() -> Fakes:
        return shared.fakes if shared is not None else draw_for_discriminator(nets, plan, batch, rng)

    real = fake
    if nets.adversarial.relativistic:
        with torch.no_grad(), plan.autocast(device):
            real = d.logits(d.features_of_maps(real_maps(), plan.growth), condition)
    losses = sum_heads(nets.adversarial.generator(fake, real))
    statistics.add("loss_g", losses)
    g = GeneratorPass(
        plan, batch, rng, statistics.add, d, text, tokens, conditions, condition, features,
        nets.generator, fakes.images, fakes.maps, real_maps, other, fake,
    )  # fmt: skip
    for term in nets.terms:
        if (part := term.generator(g)) is not None:
            losses = losses + part
    return losses.mean(), None


def warm_up_loss(
    nets: Objective, plan: StepPlan, batch: Batch, rng: StepRandom, shared: Shared | None = None
) -> tuple[Tensor, None]:
    """The mean loss of the warm-up over a micro-batch, []: the generator learns by the energy score alone."""
    with plan.autocast(batch.images.device.type):
        text = nets.encode_for_generator(batch.text)
        fakes = nets.draw(plan, nets.noise(rng, "G"), text, rng, "G")
        with torch.no_grad():
            others = nets.draw(plan, nets.noise(rng, "D"), text, rng, "D")
    watch_collapse(nets.statistics, batch.images, fakes.detach())
    parts = (term.warm_up(fakes, others, batch.images, nets.statistics.add) for term in nets.terms)
    return torch.stack([part for part in parts if part is not None]).sum(0).mean(), None
