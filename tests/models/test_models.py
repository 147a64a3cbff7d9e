"""What every architecture promises. Parametrised over the registry: a new one is tested without a line here."""

from dataclasses import replace

import pytest
import torch
from short_runs import CPU, config, smallest
from small import WIDTH, batch, captions, networks

from t2i.models import get_architecture, list_architectures
from t2i.models.folder import ModelDescription, load_model, save_model
from t2i.models.growing import Growth
from t2i.presets import FOLDER, read_preset
from t2i.text.pooler import CONDITIONINGS, Conditioning, TextBatch, TextStatistics
from t2i.toml_tables import nest
from t2i.training.randomness import StepRandom
from t2i.training.schedule import Schedule, StepPlan
from t2i.training.step import features_of_both
from t2i.training.tables import config_from
from t2i.training.text import FrozenText
from t2i.training.trainer import Trainer

pytestmark = pytest.mark.parametrize("arch", list_architectures())


def wake(network):
    """Off the zeros that many layers start with, so that everything has a gradient and text a say."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in network.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return network


def gradients(arch, **changes):
    """Of every weight that a step trains, by phase and name; the step itself moves none."""
    settings = config(arch, growing=False, augment=("translation", "cutout"), **changes)
    trainer = Trainer(settings, 32, FrozenText(), CPU, networks=[wake(network) for network in networks(arch, 32)])
    plan = replace(Schedule(settings, 32).plan(0), lr_g=0.0, lr_d=0.0)
    trainer.step(plan, batch(8, 32, flip_axis=[3, 0, 2, 2, 0, 3, 0, 0]), StepRandom(0, 0, 8))
    return {(phase.name, n): p.grad for phase in trainer.phases for n, p in phase.module.named_parameters()}


def smallest_pieces(arch):
    """How many of them a batch of 8 can be accumulated in."""
    return 8 // max(2, get_architecture(arch).discriminator.group)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_shapes_of_images_and_logits(arch, resolution, conditioning):
    generator, discriminator = networks(arch, resolution, conditioning=conditioning)
    images = generator(torch.randn(2, generator.z_dim), captions())
    assert images.shape == (2, 3, resolution, resolution)
    assert images.dtype == torch.float32
    logits = discriminator(images, captions())
    assert logits.shape == (2,)
    assert torch.isfinite(images).all()
    assert torch.isfinite(logits).all()


@pytest.mark.usefixtures("double_precision")
def test_every_weight_gets_a_finite_gradient(arch):
    for name, gradient in gradients(arch).items():
        if name[0] == "G" and "pooler.mixer." in name[1]:  # copied from the discriminator's
            assert gradient is None, name
            continue
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name


CONTRASTIVE = {"loss__contrastive__weight": 1.0}
TERMS = {
    "none": {},
    "contrastive": CONTRASTIVE,
    "word_region": {**CONTRASTIVE, "loss__word_region__weight": 1.0},
    "energy": {"loss__energy__weight": 4.0},
}


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("term", TERMS)
def test_accumulated_gradients_are_those_of_the_whole_batch(arch, term):
    """With further terms, which change those of both phases, too."""
    whole = gradients(arch, **TERMS[term])
    pieces = gradients(arch, **TERMS[term], accumulate=smallest_pieces(arch))
    for name in whole:
        torch.testing.assert_close(pieces[name], whole[name], rtol=1e-9, atol=1e-12, msg=str(name))
    without = gradients(arch)
    changed = {name[0] for name, old in without.items() if old is not None
               and not torch.allclose(whole[name], old, rtol=1e-3)}  # fmt: skip
    assert changed == {"none": set(), "diversity": {"G"}}.get(term, {"D", "G"})


@pytest.mark.parametrize("count", [2, 5, 6, 8])
def test_features_of_real_images_do_not_depend_on_generated_ones(arch, count):
    """Whatever the batch: with a penalty they are computed apart, without one in one pass."""
    discriminator = wake(networks(arch, 32)[1]).double()
    batches = torch.rand(2, count, 3, 32, 32, dtype=torch.float64) * 2 - 1
    plan = StepPlan(0, count, Growth(32), 0.0, 0.0)
    for together, images in zip(features_of_both(discriminator, *batches, plan), batches):
        for part, expected in zip(together, discriminator.features(images)):
            torch.testing.assert_close(part, expected, rtol=1e-9, atol=1e-12)


def test_same_seed_same_weights_and_the_global_rng_is_left_alone(arch):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second, other = networks(arch), networks(arch), networks(arch, seed=1)
    assert torch.equal(torch.rand(1), expected)
    for a, b in zip(first, second):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert not all(torch.equal(x, y) for x, y in zip(first[0].state_dict().values(), other[0].state_dict().values()))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_text_changes_the_image_and_padding_does_not(arch, conditioning):
    generator = wake(networks(arch, 32, conditioning=conditioning)[0]).eval()
    z, text = torch.randn(2, generator.z_dim), captions()
    images = generator(z, text)
    assert not torch.allclose(images, generator(z, captions(seed=4)), atol=1e-3)
    tokens = torch.cat([text.tokens, torch.full((2, 3, WIDTH), 7.0)], dim=1)
    mask = torch.cat([text.mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(generator(z, TextBatch(tokens, mask)), images, rtol=0, atol=1e-4)


def test_truncation_at_zero_leaves_one_image_a_prompt(arch):
    generator = wake(networks(arch, 32)[0]).eval()
    text = captions(1)[torch.tensor([0, 0])]
    z = torch.randn(2, generator.z_dim)
    free, truncated = generator(z, text), generator(z, text, truncation_psi=0.0)
    assert not torch.allclose(free[0], free[1], atol=1e-3)
    torch.testing.assert_close(truncated[0], truncated[1])


def test_one_pass_over_the_images_gives_logits_for_many_captions(arch):
    discriminator = wake(networks(arch, 32)[1])
    images = batch(4, 32).images
    features = discriminator.features(images)
    for text in (captions(4), captions(4, seed=9)):
        torch.testing.assert_close(
            discriminator.logits(features, discriminator.pool(text)), discriminator(images, text)
        )


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_saved_and_loaded_model_gives_the_same_image(arch, conditioning, tmp_path):
    generator = wake(networks(arch, 32, conditioning=conditioning)[0]).eval()
    encoder = {"name": "hash", "sha256": "0" * 64, "width": WIDTH, "max_tokens": 16}
    text = {"conditioning": conditioning, "layers": 1, "lr_multiplier": config(arch).text.lr_multiplier}
    options = nest(smallest(arch))["model"]["generator"]
    save_model(tmp_path / "m", generator, ModelDescription(arch, 32, encoder, text, options))
    loaded, description, digest = load_model(tmp_path / "m")
    assert description.architecture == arch
    assert len(digest) == 64
    z = torch.randn(2, generator.z_dim)
    assert torch.equal(loaded(z, captions()), generator(z, captions()))


def test_every_preset_builds_at_each_of_its_resolutions(arch):
    for path in FOLDER.glob(f"{arch}-*.toml"):
        for resolution in (32, 64, 128, 256):
            settings, nearest = read_preset(path, resolution)
            assert nearest == resolution
            with torch.device("meta"):
                text = Conditioning(TextStatistics.identity(WIDTH))
                get_architecture(arch).generator(resolution, text, **config_from(settings).generator)
