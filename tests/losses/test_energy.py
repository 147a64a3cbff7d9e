"""The energy score: its distances are norms, it is smallest for the data's own distribution, and steps use it so."""

import pytest
import torch
from short_runs import CPU, config
from training.test_golden import FrozenText, make_batch

from t2i.errors import UsageError
from t2i.losses.energy import coarse_distance, feature_distance
from t2i.training.randomness import StepRandom
from t2i.training.schedule import Schedule
from t2i.training.tables import check_together
from t2i.training.trainer import Trainer

FAST = {
    "loss__energy__weight": 60.0, "loss__energy__features": 50.0, "loss__contrastive__weight": 4.0,
    "model__discriminator": {"kind": "projected", "input_resolution": 64}, "loss__penalty__kind": "none",
    "schedule__growing": False, "schedule__stages": [],
}  # fmt: skip


def images(*values):
    """One flat image a value."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 32, 32)


def maps(*values):
    """Feature maps of images: each a unit vector at an angle."""
    angle = torch.tensor(values)[:, None, None].expand(-1, 4, 4)
    return [torch.stack([angle.cos(), angle.sin()], dim=1)]


@pytest.mark.parametrize(
    "distance", [coarse_distance, lambda a, b: feature_distance([a], [b])], ids=["coarse", "features"]
)
def test_the_distances_are_norms_and_not_their_squares(distance):
    a, b, c = (torch.randn(64, 3, 16, 16) for _ in range(3))
    assert (distance(a, c) <= distance(a, b) + distance(b, c) + 1e-6).all()
    assert torch.equal(distance(a, b), distance(b, a))
    assert (distance(a, a) <= 0.0101).all()  # the root of eps


def test_the_coarse_distance_grows_as_the_difference_does():
    near, far = coarse_distance(images(0.0), images(0.2)), coarse_distance(images(0.0), images(0.4))
    assert far.item() == pytest.approx(2 * near.item(), rel=0.01)
    checker = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1
    assert coarse_distance(checker.expand(1, 3, 32, 32), images(0.0)).item() < 0.02  # finer than it looks


def score(distance, real, drawn, repulsion):
    """The expected energy score of drawings of a caption, all pairs of both sets."""

    def mean(first, second):
        rows, columns = torch.meshgrid(torch.arange(len(first)), torch.arange(len(second)), indexing="ij")
        return distance(first[rows.flatten()], second[columns.flatten()]).mean()

    return (mean(drawn, real) - repulsion / 2 * mean(drawn, drawn)).item()


@pytest.mark.parametrize(
    ("distance", "make"),
    [(coarse_distance, images), (lambda a, b: feature_distance([a], [b]), lambda *v: maps(*v)[0])],
    ids=["coarse", "features"],
)
def test_it_is_smallest_for_the_data_where_a_regression_is_for_the_middle(distance, make):
    """A caption with two kinds of images: drawn as they are, both alike, all in the middle, one kind alone, too far."""
    real = make(*[-0.5] * 8, *[0.5] * 8)
    candidates = {
        "as the data": make(*[-0.5] * 8, *[0.5] * 8),
        "the middle": make(*[0.0] * 16),
        "one kind": make(*[0.5] * 16),
        "one kind mostly": make(*[-0.5] * 4, *[0.5] * 12),
        "too far": make(*[-0.8] * 8, *[0.8] * 8),
        "blurred": make(*torch.linspace(-0.5, 0.5, 16).tolist()),
    }
    proper = {name: score(distance, real, drawn, 1.0) for name, drawn in candidates.items()}
    assert min(proper, key=proper.get) == "as the data"
    regression = {name: score(distance, real, drawn, 0.0) for name, drawn in candidates.items()}
    assert regression["the middle"] < regression["as the data"] + 0.02


@pytest.mark.parametrize("repulsion, spread", [
    (1.0, (0.85, 1.15)), pytest.param(0.0, (0.0, 0.15), marks=pytest.mark.slow),
])  # fmt: skip
def test_a_generator_learns_the_spread_of_a_captions_images(repulsion, spread):
    """One caption, images of three colours; the generator is a perceptron from noise to a colour."""
    colours = 0.5 * (2 * torch.eye(3) - 1)
    generator = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.GELU(), torch.nn.Linear(64, 3))
    optimizer = torch.optim.Adam(generator.parameters(), 3e-3)

    def flat(colours):
        return colours[:, :, None, None].expand(-1, 3, 2, 2)

    for _ in range(1500):
        real = flat(colours.repeat(50, 1))
        first = flat(generator(torch.randn(150, 4)))
        with torch.no_grad():
            second = flat(generator(torch.randn(150, 4)))
        loss = (coarse_distance(first, real) - repulsion * coarse_distance(first, second)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = [generator(torch.randn(600, 4)) for _ in range(2)]
        real = [colours[torch.randint(3, (600,))] for _ in range(2)]
    found, wanted = ((a - b).norm(dim=1).mean().item() for a, b in (drawn, real))
    assert spread[0] <= found / wanted <= spread[1]


def gradients(settings, plan_at=0):
    """The generator's gradients of one step, and its metrics."""
    trainer = Trainer(settings, 16, FrozenText(), CPU)
    for part in (
        trainer.generator,
        trainer.discriminator,
        trainer.ema.model,
        *(t.module for t in trainer.terms if t.module),
    ):
        part.double()
    plan = Schedule(settings, 16).plan(plan_at)
    rng = StepRandom(0, plan_at, plan.batch)
    found = {}
    for phase in trainer.phases:
        phase.optimizer.register_step_pre_hook(
            lambda optimizer, *_, name=phase.name: found.update(
                {
                    name: [
                        p.grad.clone()
                        for group in optimizer.param_groups
                        for p in group["params"]
                        if p.grad is not None
                    ]
                }
            )
        )
    trainer.step(plan, make_batch(settings, rng), rng)
    return found["G"], trainer.statistics.read()


@pytest.mark.usefixtures("double_precision")
def test_a_batch_in_pieces_has_the_gradients_of_the_batch():
    whole, metrics = gradients(config("stylegan2", **FAST))
    pieces, again = gradients(config("stylegan2", optim__accumulate=2, **FAST))
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b)
    for name in ("coarse_distance", "coarse_spread", "feature_distance", "feature_spread"):
        assert again[name] == pytest.approx(metrics[name])


@pytest.mark.usefixtures("double_precision")
def test_the_warm_up_has_no_discriminator():
    settings = config("stylegan2", schedule__warm_up_kimg=1.0, **FAST)
    _, metrics = gradients(settings)
    assert set(metrics) == {"coarse_distance", "coarse_spread", "saturated", "diversity", "gradient_g"}


def test_what_does_not_go_with_it_is_refused():
    for changes, words in [
        ({**FAST, "model__discriminator": {"kind": "stylegan2"}}, "needs .model.discriminator. kind"),
        ({**FAST, "loss__adversarial__shared_fakes": True}, "excludes loss.adversarial.shared_fakes"),
    ]:
        with pytest.raises(UsageError, match=words):
            check_together(config("stylegan2", **changes))
