"""What every architecture promises. Parametrised over the registry: a new one is tested without a line here."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from t2i.losses.adversarial import LOSSES
from t2i.losses.contrastive import ContrastiveHead, PlacesHead
from t2i.losses.penalties import PENALTIES
from t2i.models import get_architecture, list_architectures
from t2i.models.folder import ModelDescription, load_model, save_model
from t2i.text.pooler import CONDITIONINGS, TextBatch, TextStatistics
from t2i.training.batch import Batch
from t2i.training.objective import GANObjective, Phase
from t2i.training.randomness import StepRandom

WIDTH = 24  # of the text encoder


@pytest.fixture(params=list_architectures())
def architecture(request):
    return get_architecture(request.param)


def build(architecture, resolution=32, conditioning="attention", seed=0):
    options = {**architecture.model_options, **architecture.smallest}
    return architecture.build(resolution, conditioning, TextStatistics.identity(WIDTH), options, seed)


def wake(network):
    """Off the zeros that many layers start with, so that everything has a gradient and text a say."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in network.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return network


def captions(count, length=7, seed=0):
    noise = torch.Generator().manual_seed(seed)
    mask = torch.ones(count, length, dtype=torch.bool)
    mask[::2, length - 2 :] = False
    return TextBatch(torch.randn(count, length, WIDTH, generator=noise), mask)


def make_batch(count, resolution=32):
    noise = torch.Generator().manual_seed(5)
    images = torch.rand(count, 3, resolution, resolution, generator=noise) * 2 - 1
    text, ids = captions(count), torch.arange(count)
    return Batch(images, text, text, torch.eye(count, dtype=torch.bool), ids.roll(1)[:, None], np.zeros(count))


def gradients(architecture, accumulate, phase_name, dtype=torch.float64, term=None):
    generator, discriminator = (wake(network).to(dtype) for network in build(architecture))
    objective = make_objective(architecture, generator, discriminator)
    if term in ("contrastive", "places"):
        with torch.random.fork_rng():
            torch.manual_seed(2)
            found = discriminator.features(torch.zeros(1, 3, 32, 32, dtype=dtype))
            objective.contrast = ContrastiveHead(found.summary.shape[1], discriminator.pooler.out_width).to(dtype)
            if term == "places":
                objective.places = PlacesHead(found.regions.shape[1], discriminator.pooler.read_width).to(dtype)
    if term == "diversity":
        objective.diversity_weight = 4.0
    batch, random = make_batch(8), StepRandom(0, 0, 8)
    texts = [text.to("cpu", dtype) for text in (batch.text, batch.captions)]
    batch = replace(batch, images=batch.images.to(dtype), text=texts[0], captions=texts[1])
    module = discriminator if phase_name == "D" else generator
    generator.requires_grad_(phase_name == "G")
    discriminator.requires_grad_(phase_name == "D")
    phase = Phase(phase_name, module, torch.optim.SGD(module.parameters(), 1.0))
    size = 8 // accumulate
    original = StepRandom.normal
    StepRandom.normal = lambda self, name, *shape: original(self, name, *shape).to(dtype)
    try:
        for start in range(0, 8, size):
            rows = slice(start, start + size)
            objective.accumulate_gradients(phase, batch[rows], 1 / accumulate, 0, random.take(rows))
    finally:
        StepRandom.normal = original
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def make_objective(architecture, generator, discriminator):
    return GANObjective(
        generator,
        discriminator,
        loss=LOSSES[architecture.defaults["loss"]],
        penalty=PENALTIES[architecture.defaults["penalty"]],
        penalty_weight=2.0,
        augments=("translation", "cutout"),
    )


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_generator_draws_and_discriminator_judges(architecture, resolution, conditioning):
    generator, discriminator = build(architecture, resolution, conditioning)
    text = captions(2)
    images = generator(torch.randn(2, generator.z_dim), text)
    assert images.shape == (2, 3, resolution, resolution)
    assert images.dtype == torch.float32
    logits = discriminator(images, text)
    assert logits.shape == (2,)
    assert torch.isfinite(images).all()
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("phase", ["D", "G"])
def test_every_weight_gets_a_finite_gradient(architecture, phase):
    for name, gradient in gradients(architecture, 1, phase).items():
        if phase == "G" and name.startswith("pooler.reader."):  # taken over from the discriminator's
            assert gradient is None, name
            continue
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("phase", ["D", "G"])
def test_accumulated_gradients_are_those_of_the_whole_batch(architecture, phase):
    pieces = 4 if architecture.group == 1 else 8 // architecture.group
    whole, pieces = gradients(architecture, 1, phase), gradients(architecture, pieces, phase)
    for name in whole:
        torch.testing.assert_close(pieces[name], whole[name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    "term, phase", [("contrastive", "D"), ("contrastive", "G"), ("places", "D"), ("places", "G"), ("diversity", "G")]
)
def test_a_further_term_trains_its_networks_and_is_exact_in_pieces(architecture, term, phase, monkeypatch):
    monkeypatch.setattr("t2i.losses.diversity.LIMIT", 100.0)  # untrained pictures may differ by more than the real one
    count = 4 if architecture.group == 1 else 8 // architecture.group
    without = gradients(architecture, 1, phase)
    whole, pieces = (gradients(architecture, n, phase, term=term) for n in (1, count))
    for name in whole:
        torch.testing.assert_close(pieces[name], whole[name], rtol=1e-9, atol=1e-12, msg=name)
    assert any(not torch.allclose(whole[name], without[name], rtol=1e-3) for name in whole)


@pytest.mark.parametrize("count", [2, 5, 6, 8])
def test_what_is_seen_in_a_real_picture_does_not_depend_on_generated_ones(architecture, count):
    """Whatever the batch: with a penalty they are looked at apart, without one in one pass."""
    generator, discriminator = (wake(network).double() for network in build(architecture))
    objective = make_objective(architecture, generator, discriminator)
    batches = torch.rand(2, count, 3, 32, 32, dtype=torch.float64) * 2 - 1
    for together, images in zip(objective._features_of_both(*batches), batches):
        for part, expected in zip(together, discriminator.features(images)):
            torch.testing.assert_close(part, expected, rtol=1e-9, atol=1e-12)


def test_same_seed_same_weights_and_the_global_rng_is_left_alone(architecture):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second, other = build(architecture), build(architecture), build(architecture, seed=1)
    assert torch.equal(torch.rand(1), expected)
    for a, b in zip(first, second):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert not all(torch.equal(x, y) for x, y in zip(first[0].state_dict().values(), other[0].state_dict().values()))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_text_changes_the_picture_and_padding_does_not(architecture, conditioning):
    generator = wake(build(architecture, conditioning=conditioning)[0]).eval()
    z, text = torch.randn(2, generator.z_dim), captions(2)
    images = generator(z, text)
    assert not torch.allclose(images, generator(z, captions(2, seed=4)), atol=1e-3)
    tokens = torch.cat([text.tokens, torch.full((2, 3, WIDTH), 7.0)], dim=1)
    mask = torch.cat([text.mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(generator(z, TextBatch(tokens, mask)), images, rtol=0, atol=1e-4)


def test_truncation_at_zero_leaves_one_picture_a_prompt(architecture):
    generator = wake(build(architecture)[0]).eval()
    text = captions(1)[torch.tensor([0, 0])]
    z = torch.randn(2, generator.z_dim)
    free, truncated = generator(z, text), generator(z, text, truncation_psi=0.0)
    assert not torch.allclose(free[0], free[1], atol=1e-3)
    torch.testing.assert_close(truncated[0], truncated[1])


def test_discriminator_judges_one_pass_over_the_pictures_with_many_captions(architecture):
    discriminator = wake(build(architecture)[1])
    batch = make_batch(4)
    features = discriminator.features(batch.images)
    for text in (batch.text, captions(4, seed=9)):
        torch.testing.assert_close(
            discriminator.logits(features, discriminator.pool(text)), discriminator(batch.images, text)
        )


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_saved_and_loaded_model_draws_the_same_picture(architecture, conditioning, tmp_path):
    generator = wake(build(architecture, conditioning=conditioning)[0]).eval()
    options = {**architecture.model_options, **architecture.smallest}
    encoder = {"name": "hash", "sha256": "0" * 64, "width": WIDTH, "max_tokens": 16}
    save_model(tmp_path / "m", generator, ModelDescription(architecture.name, 32, conditioning, options, encoder))
    loaded, description, digest = load_model(tmp_path / "m")
    assert description.architecture == architecture.name
    assert len(digest) == 64
    z, text = torch.randn(2, generator.z_dim), captions(2)
    assert torch.equal(loaded(z, text), generator(z, text))


def test_every_preset_row_builds_at_its_resolution(architecture):
    for rows in architecture.presets.values():
        for resolution, row in rows.items():
            options = {k: v for k, v in row.items() if k in architecture.model_options}
            with torch.device("meta"):
                architecture.build_generator(resolution, "attention", TextStatistics.identity(WIDTH), **options)
