"""A new run with the networks of an earlier one, of one of its snapshots, or of a model."""

import functools
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hash_encoder import HashEncoder
from short_runs import (
    CPU,
    assert_same_bits,
    config,
    final_tensors,
    first_batch,
    new_trainer,
    smallest,
    start,
    take_step,
)
from small import WIDTH, captions

from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import PreparedDataset
from t2i.data.sources.shapes import ShapesSource
from t2i.errors import UsageError, UserError
from t2i.layers import upsample
from t2i.models import list_architectures
from t2i.models.folder import ModelDescription, load_model, save_model
from t2i.models.growing import Growth
from t2i.pixels import PixelFormat
from t2i.text.pooler import TextStatistics
from t2i.training.begin_with import find_source
from t2i.training.checkpoint import list_checkpoints, save_checkpoint
from t2i.training.loop import train
from t2i.training.run import Run
from t2i.training.schedule import Schedule
from t2i.training.settings import new_settings
from t2i.training.trainer import make_networks


def check_source(settings, data):
    find_source(settings.begin_with).check(settings, data)


def begin(settings, data, root):
    """The run after its first snapshot, before any step, and what it said."""
    said = []
    check_source(settings, data)
    return start(settings, data, root, stop=lambda: True, say=said.append)[0], said[0]


def test_a_run_begins_with_the_networks_of_another(shapes_data, tmp_path):
    """Grown there, at full size here: what the source has besides is left; after that it is a run like any other."""
    source, _ = start(config("stylegan2"), shapes_data, tmp_path)
    settings = config("stylegan2", growing=False, kimg=0.016, seed=1, begin_with=str(source.folder))
    before = final_tensors(source)
    run, _ = begin(settings, shapes_data, tmp_path)
    after = final_tensors(run)
    for name in ("generator", "discriminator", "ema"):
        assert after[f"{name}.safetensors"], name
        for key, value in after[f"{name}.safetensors"].items():
            assert torch.equal(value, before[f"{name}.safetensors"][key]), f"{name}: {key}"
    assert len(after["discriminator.safetensors"]) < len(before["discriminator.safetensors"])
    assert not after["optimizer_g.safetensors"]
    assert train(settings, shapes_data, run, CPU, resume=True).images_seen == 16
    whole, _ = start(settings, shapes_data, tmp_path)
    assert_same_bits(final_tensors(whole), final_tensors(run))
    assert_same_bits(final_tensors(source), before)


@pytest.fixture(scope="module")
def scored(shapes_data, tmp_path_factory):
    """A run of 48 images in snapshots of 8, the one at 16 its best."""
    run, _ = start(config("stylegan2", run__snapshot_kimg=0.008), shapes_data, tmp_path_factory.mktemp("scored"))
    run.write_best({"snapshot": 16})
    return run


@pytest.mark.parametrize("name, seen, whole", [
    ("{run}", 48, True), ("{run}@40", 40, True), ("{run}/checkpoints/000000040", 40, True),
    ("{run}@24", 24, False), ("{run}@best", 16, False), ("{run}/checkpoints/000000016/model", 16, False),
    ("copy", 48, False),
])  # fmt: skip
def test_it_takes_what_there_is_of_a_run_a_snapshot_or_a_model(name, seen, whole, scored, shapes_data, tmp_path):
    """Of a model alone the generator; its discriminator then is a new one, which knows the captions' statistics."""
    name = name.format(run=scored.folder)
    if name == "copy":
        name = str(shutil.copytree(scored.model, tmp_path / "copy"))
    changes = {"schedule.growing": False, "run.seed": 5, "begin_with": name}
    run, said = begin(config("stylegan2", **changes), shapes_data, tmp_path)
    networks = "the networks" if whole else "the generator"
    assert said == f"begins with {networks} of {name} ({seen} images)"
    found, snapshot = final_tensors(run), scored.checkpoints / f"{seen:09d}"
    drawn = load_model(snapshot / "model")[0].state_dict()
    fresh = new_trainer(shapes_data, "stylegan2", **changes).discriminator.state_dict()
    fresh |= {key: value for key, value in drawn.items() if key.startswith("pooler.mixer.")}  # it reads as that does
    theirs = final_tensors(scored, snapshot) if whole else {"generator.safetensors": drawn}
    theirs.setdefault("discriminator.safetensors", fresh)
    for part in ("generator", "discriminator"):
        for key, value in found[f"{part}.safetensors"].items():
            assert torch.equal(value, theirs[f"{part}.safetensors"][key]), f"{part}: {key}"
    assert all(torch.equal(value, drawn[key]) for key, value in found["ema.safetensors"].items())


def test_a_new_discriminator_reads_captions_as_the_generator_does(scored, shapes_data, tmp_path):
    """Statistics of other captions would mean other conditions; of the token mixer it is the source."""
    trainer = new_trainer(shapes_data, "stylegan2", **{"schedule.growing": False, "run.seed": 5})
    for network in (trainer.generator, trainer.discriminator):
        network.pooler.mean += 1
    assert not trainer.begin_with(find_source(f"{scored.folder}@16"))
    theirs, text = load_model(scored.checkpoints / "000000016" / "model")[0].pooler, captions()
    for network in (trainer.generator, trainer.discriminator):
        assert torch.equal(network.pooler.read(text).tokens, theirs.read(text).tokens)


def test_the_average_goes_on_from_the_average_of_the_run_before(shapes_data, tmp_path):
    """And over a third run: it half forgets in a twentieth of all images that the networks saw."""
    run, _ = start(config(kimg=0.064), shapes_data, tmp_path)
    for seen in (64 + 8, 64 + 8 + 8):
        before = final_tensors(run)["ema.safetensors"]
        run, _ = start(config(kimg=0.008, begin_with=str(run.folder)), shapes_data, tmp_path)
        after, generator = (final_tensors(run)[f"{name}.safetensors"] for name in ("ema", "generator"))
        kept = 0.5 ** (8 / (0.05 * seen))
        for name, value in before.items():
            torch.testing.assert_close(after[name], kept * value + (1 - kept) * generator[name], msg=name)


def test_a_run_begins_with_networks_that_fit_only(scored, shapes_data, tmp_path):
    begin_with = {"begin_with": str(scored.folder), "kimg": 0.008}
    for settings, words in [
        (config("dfgan", **begin_with), "its arch is stylegan2, here it is dfgan"),
        (config("stylegan2", conditioning="sentence", **begin_with), "its conditioning is attention, here it is sent"),
        (config("stylegan2", text_encoder="transformer", **begin_with), "the vocabulary of a trained one"),
        (config("stylegan2", begin_with=str(tmp_path)), "no model here"),
        (config("stylegan2", begin_with=f"{scored.folder}@17"), "there is no such snapshot; there are 0, 8, 16, 24"),
    ]:
        with pytest.raises(UserError, match=words):
            check_source(settings, shapes_data)
    wider = config("stylegan2", model__generator__fmap_base=32, **begin_with)
    with pytest.raises(UserError, match="its fmap_base is 16, here it is 32"):
        check_source(wider, shapes_data)
    with pytest.raises(UserError, match="does not fit: convs"):
        start(wider, shapes_data, tmp_path)
    other = SimpleNamespace(path="other", resolution=16, text={"sha256": "f" * 64}, form=PixelFormat())
    with pytest.raises(UserError, match="other was prepared with another text encoder"):
        check_source(config("stylegan2", **begin_with), other)


# ---- at another resolution ----


@pytest.fixture(scope="module")
def data_at(tmp_path_factory):
    """Data of a resolution."""

    @functools.cache
    def make(resolution):
        out = tmp_path_factory.mktemp("data") / f"shapes-train-{resolution}"
        prepare(ShapesSource(16), out, HashEncoder(), PrepareOptions(resolution=resolution, workers=1))
        return PreparedDataset(out)

    return make


@pytest.fixture(scope="module")
def source(data_at, tmp_path_factory):
    """A run at 32 px, with snapshots at 8, 16, 24 ... images; one of stylegan has grown by way of 8 and 16 px."""

    @functools.cache
    def make(arch):
        settings = config(arch, run__snapshot_kimg=0.008, schedule__growing=arch == "stylegan")
        return start(settings, data_at(32), tmp_path_factory.mktemp("source"))[0]

    return make


def settings_at(data, name, **flags):
    """As the command line finds them for a run on other data."""
    network = {name: value for name, value in smallest("stylegan").items() if name.startswith("model.discriminator.")}
    flags = {"begin_with": name, "preset": "small", "optim.batch": 8, **network, **flags}
    return new_settings(data, flags, None, "cpu")[0]


def draw(generator, growth=None):
    z = torch.randn(3, generator.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return generator(z, captions(3), growth=growth)


@pytest.mark.parametrize("which", ["", "@16"])  # whole, and a model alone
@pytest.mark.parametrize("resolution", [16, 64, 128])
def test_stylegan2_draws_the_same_at_another_resolution(resolution, which, source, data_at, tmp_path):
    """Higher, its image enlarged, for the new blocks are silent; lower, the sum of its RGB images up to there."""
    data, name = data_at(resolution), f"{source('stylegan2').folder}{which}"
    settings = settings_at(data, name)
    assert not settings.schedule.growing and settings.schedule.warm_up_kimg == 0
    run, said = begin(settings, data, tmp_path)
    assert said.startswith(f"begins with the generator of {name} (")
    ours, expected = load_model(run.model)[0], draw(load_model(find_source(name).model)[0], Growth(min(resolution, 32)))
    while expected.shape[-1] < resolution:
        expected = F.interpolate(expected, scale_factor=2.0, mode="bilinear", align_corners=False)
    assert torch.equal(draw(ours), expected)
    if resolution == 64:  # new blocks do learn
        assert train(settings.changed(schedule__kimg=0.008), data, run, CPU, resume=True).images_seen == 8
        assert load_model(run.model)[0].to_rgb[-1].conv.weight.abs().sum() > 0


@pytest.mark.parametrize("which, had", [("", 32), ("@8", 8), ("@16", 8), ("@24", 16)])
def test_stylegan_grows_on_from_the_resolution_that_it_has(which, had, source, data_at, tmp_path):
    """Without RGB skips a new ToRGB draws all of the image: it has to fade in, and is no zero. At 16 images 16 px have
    only begun to."""
    data, name = data_at(64), f"{source('stylegan').folder}{which}"
    settings = settings_at(data, name, arch="stylegan")
    assert Schedule(settings, 64).resolutions == [side for side in (8, 16, 32, 64) if side >= had]
    run, _ = begin(settings, data, tmp_path)
    (theirs, _, _), (ours, description, _) = load_model(find_source(name).model), load_model(run.model)
    assert ours.growth == Growth(had) and description.growth == [had, 1.0]
    assert torch.equal(draw(ours), draw(theirs, Growth(had)))
    torch.testing.assert_close(draw(ours, Growth(2 * had, 0.0)), upsample(draw(theirs, Growth(had))))
    assert draw(ours, Growth(64)).std() > 0.01


def test_stylegan_begins_where_it_has_a_torgb_only(source, data_at, tmp_path):
    grown, small, large = str(source("stylegan").folder), data_at(16), data_at(64)
    with pytest.raises(UsageError, match=r"it draws at 8, 16, 32 px, and the run begins at 64 px; let it grow"):
        check_source(settings_at(large, grown, arch="stylegan", **{"schedule.growing": False}), large)
    run, _ = begin(settings_at(small, grown, arch="stylegan"), small, tmp_path)
    assert torch.equal(draw(load_model(run.model)[0]), draw(load_model(find_source(grown).model)[0], Growth(16)))
    plain, _ = begin(config("stylegan", growing=False, begin_with=grown), data_at(32), tmp_path)
    with pytest.raises(UsageError, match=r"it draws at 32 px, and the run begins at 16 px; let it grow"):
        check_source(settings_at(small, str(plain.folder), arch="stylegan"), small)


@pytest.mark.parametrize("resolution", [pytest.param(16, marks=pytest.mark.slow), 64])
def test_dfgan_has_one_size(resolution, source, data_at):
    settings = config(begin_with=str(source("dfgan").folder))
    with pytest.raises(UsageError, match=f"dfgan at 32 px cannot begin a run at {resolution} px") as caught:
        check_source(settings, data_at(resolution))
    assert "\n" not in str(caught.value)


# ---- what the new run has from the other one ----

NARROW = {f"model.generator.{name}": value for name, value in {"w_dim": 16, "fmap_base": 16, "fmap_max": 8}.items()}


def settings_beside(source, config=None, **flags):
    flags = {"begin_with": str(source.folder), **{name.replace("__", "."): value for name, value in flags.items()}}
    return new_settings(SimpleNamespace(resolution=64), flags, config, "cpu")


def run_of(tmp_path, seen, **changes):
    """A run that has come so far, as far as settings know."""
    changes = {**(NARROW if changes.get("arch") != "dfgan" else {"model.generator.nf": 4}), **changes}
    settings, _ = new_settings(SimpleNamespace(resolution=64), changes, None, "cuda")
    facts = {"name": "a", "split": "train", "resolution": 64, "fingerprint": "", "path": "a"}
    run = Run.create(tmp_path, settings, facts, "cuda")
    generator, _ = make_networks(settings, 64, TextStatistics.identity(WIDTH))
    encoder = {"name": "hash", "sha256": "0" * 64, "width": WIDTH, "max_tokens": 16}
    text = {"conditioning": "attention", "layers": settings.text.layers, "lr_multiplier": settings.text.lr_multiplier}
    growth = Schedule(settings, 64).growth_after(seen)
    model = ModelDescription(
        settings.arch, 64, encoder, text, settings.generator, list(generator.rgb_resolutions),
        None if growth == Growth(64) else list(growth), {"images_seen": seen},
    )  # fmt: skip
    save_checkpoint(run.checkpoints, {"images_seen": seen}, {}, lambda folder: save_model(folder, generator, model))
    return run, settings


def test_a_run_takes_over_the_shape_of_the_networks_and_does_not_warm_up_again(tmp_path):
    source, theirs = run_of(tmp_path, 900_000)
    assert theirs.preset == "wide" and theirs.schedule.growing and theirs.schedule.warm_up_kimg == 256.0
    settings, origin = settings_beside(source)
    assert (settings.preset, settings.generator) == ("wide", theirs.generator)
    assert (settings.discriminator_kind, settings.discriminator) == (theirs.discriminator_kind, theirs.discriminator)
    assert (settings.schedule.warm_up_kimg, settings.schedule.growing) == (0.0, False)
    assert origin["schedule.growing"] == f"begins with {source.folder}"
    own, _ = settings_beside(source, schedule__warm_up_kimg=8.0, schedule__growing=True, preset="fast")
    assert (own.schedule.warm_up_kimg, own.schedule.growing, own.preset, own.generator) == (
        8.0, True, "fast", theirs.generator,
    )  # fmt: skip


def test_a_run_begun_with_one_that_was_stopped_early_learns_what_that_had_yet_to(tmp_path):
    source, theirs = run_of(tmp_path, 100_000)
    settings, _ = settings_beside(source)
    assert (settings.schedule.warm_up_kimg, settings.schedule.growing) == (theirs.schedule.warm_up_kimg, True)
    fading, _ = run_of(tmp_path, 260_000)  # at 64 px, but hardly yet
    assert settings_beside(fading)[0].schedule.growing
    other, _ = run_of(tmp_path, 100_000, arch="dfgan")
    assert settings_beside(other)[0].arch == "dfgan"
    assert settings_beside(other, arch="stylegan")[0].arch == "stylegan"  # Source.check refuses it
    assert [path.name for path in list_checkpoints(other.checkpoints)] == ["000100000"]


# ---- frozen blocks of the discriminator ----


@pytest.mark.parametrize("arch", list_architectures())
@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_frozen_blocks_do_not_move_and_others_do(count, arch, shapes_data):
    """Blocks from the image on: at 16 px there are two."""
    trainer = new_trainer(shapes_data, arch, **{"optim.freeze_d": count, "schedule.growing": False, "optim.batch": 8})
    blocks = trainer.discriminator.blocks_from_image
    assert len(blocks) == 2
    before = {name: value.clone() for name, value in trainer.discriminator.named_parameters()}
    for number in range(2):
        take_step(trainer, first_batch(shapes_data), number)
    frozen = {id(parameter) for block in blocks[:count] for parameter in block.parameters()}
    names = {id(parameter): name for name, parameter in trainer.discriminator.named_parameters()}
    assert frozen <= names.keys()
    moved = {name for name, value in trainer.discriminator.named_parameters() if not torch.equal(value, before[name])}
    assert moved.isdisjoint(names[key] for key in frozen)
    # A softmax does not see what is added to all keys, nor the paper's DF-GAN branches that gamma turns off.
    for block in [*blocks[count:], trainer.discriminator.head]:
        assert moved & {names[id(parameter)] for parameter in block.parameters()}
    assert any(name.startswith("pooler.") for name in moved)


def test_a_frozen_backbone_has_no_blocks_to_freeze(refused, minilm_data, here):
    (here / "run.toml").write_text("[optim]\nfreeze_d = 1\n")
    refused(2, "optim.freeze_d", "train", minilm_data, "--preset", "fast", "--config", "run.toml", "--kimg", 0.01)
