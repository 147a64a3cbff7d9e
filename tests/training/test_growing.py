"""Progressive growing: a function of the images seen, the same for reals and fakes, and nothing jumps at a change."""

import json
from types import SimpleNamespace

import pytest
import torch
from short_runs import CPU, config, logged, smallest, start
from small import WIDTH, captions

from t2i.config import build
from t2i.errors import UsageError, UserError
from t2i.layers import downsample, upsample
from t2i.models import get_architecture, list_architectures
from t2i.models.folder import ModelDescription, load_model, save_model
from t2i.models.growing import Growth, real_at
from t2i.presets import list_presets, preset_file, read_preset
from t2i.text.pooler import TextStatistics
from t2i.toml_tables import nest, to_toml
from t2i.training.loop import train
from t2i.training.schedule import Schedule, fit_stages
from t2i.training.settings import new_settings
from t2i.training.trainer import make_networks

GROWING = [name for name in list_architectures() if get_architecture(name).generator.grows]
STAGES = (
    {"resolution": 8, "share": 0.25, "batch": 16},
    {"resolution": 16, "share": 0.25, "lr": 0.002},
    {"resolution": 32, "share": 0.5, "batch": 4, "lr": 0.003},
)


def schedule(resolution=32, **changes):
    """Of a run of 160 images."""
    settings = {
        "schedule.growing": True, "schedule.stages": STAGES, "schedule.kimg": 0.16, "schedule.fade": 0.5,
        "optim.batch": 8, "optim.lr_g": 1e-3, "optim.lr_d": 4e-3,
    }  # fmt: skip
    return Schedule(build({**settings, **{name.replace("__", "."): value for name, value in changes.items()}}),
                    resolution)  # fmt: skip


def networks(name):
    """At 32 px, of a run that grows."""
    return make_networks(config(name, schedule__stages=STAGES), 32, TextStatistics.identity(WIDTH))


def stages_of(data, flags, file=None, device="cpu"):
    return Schedule(new_settings(data, flags, file, device)[0], data.resolution).stages


def test_a_stage_is_whole_batches_with_its_own_batch_and_rate():
    spans = schedule().stages
    assert [(s.start, s.end, s.resolution, s.batch) for s in spans] == [
        (0, 32, 8, 16), (32, 72, 16, 8), (72, None, 32, 4)]  # fmt: skip
    assert [(s.lr_g, s.lr_d) for s in spans] == [(1e-3, 4e-3), (0.002, 0.002), (0.003, 0.003)]


def test_alpha_rises_over_the_first_part_of_each_stage_but_the_first():
    plan = schedule().plan
    assert plan(0).growth == Growth(8, 1.0)
    assert plan(32).growth == Growth(16, 0.0)
    assert plan(40).growth == Growth(16, pytest.approx(0.4))  # a stage of 40 images fades over 20
    assert plan(52).growth == Growth(16, 1.0)
    assert plan(10**9).growth == Growth(32, 1.0)


def test_a_longer_resumed_run_does_not_grow_again():
    assert schedule().stages == schedule(schedule__kimg=100, schedule__grow_kimg=0.16).stages


@pytest.mark.parametrize("kimg, grown", [(None, 60), (1000.0, 60), (20.0, 20), ("many", None)])
def test_the_small_preset_grows_early_and_within_the_run(kimg, grown, shapes_data):
    flags = {"arch": "stylegan", "preset": "small"} | ({"schedule.kimg": kimg} if kimg else {})
    if grown is None:
        with pytest.raises(UsageError, match="--kimg"):
            new_settings(shapes_data, flags, None, "cpu")
        return
    settings, _ = new_settings(shapes_data, flags, None, "cpu")
    assert (settings.schedule.grow_kimg or settings.schedule.kimg) == grown
    last = Schedule(settings, 32).stages[-1]
    assert last.resolution == 32 and last.start == pytest.approx(400 * grown, abs=2 * settings.optim.batch)


@pytest.mark.parametrize("resolution, sides", [(32, [32]), (64, [32, 64]), (128, [32, 64, 128])])
def test_fast_warms_up_below_full_size_and_reaches_it_with_the_discriminator(resolution, sides):
    settings = build(read_preset(preset_file("stylegan2", "fast"), resolution)[0])
    schedule = Schedule(settings, resolution)
    assert schedule.resolutions == sides
    if len(sides) > 1:
        assert schedule.stages[-1].start == 1000 * settings.schedule.warm_up_kimg == 40_000
        assert schedule.plan(40_000).growth.alpha == 0
        assert schedule.plan(48_000).growth.alpha == 1


@pytest.mark.parametrize(
    "resolution, sides", [(32, [32]), (64, [32, 64]), (128, [32, 64, 128]), (256, [32, 64, 128, 256])]
)
def test_on_a_gpu_the_preset_is_wide_whose_first_stage_is_the_warm_up(resolution, sides, shapes_data):
    data = SimpleNamespace(resolution=resolution)
    assert new_settings(shapes_data, {}, None, "cpu")[0].preset == "fast"
    settings, _ = new_settings(data, {}, None, "cuda")
    assert settings.preset == "wide" and settings.discriminator_kind == "projected"
    schedule = Schedule(settings, resolution)
    assert schedule.resolutions == sides
    if len(sides) > 1:
        assert schedule.stages[1].start == 1000 * settings.schedule.warm_up_kimg == 256_000
        assert [stage.batch for stage in schedule.stages] == [128, *[settings.optim.batch] * (len(sides) - 1)]
        assert schedule.stages[-1].start < 1000 * settings.schedule.kimg / 2
    assert new_settings(data, {"arch": "stylegan"}, None, "cuda")[0].preset == "wide"
    assert new_settings(data, {"text.encoder": "transformer"}, None, "cuda")[0].preset == "small"


PUBLISHED = {"arch": "stylegan", "preset": "published"}


@pytest.mark.parametrize(
    "flags, batches, rates",
    [
        (PUBLISHED, [128, 128, 64], (1e-3, 1e-3)),
        ({**PUBLISHED, "optim.batch": 16}, [16, 16, 16], (1e-3, 1e-3)),
        ({**PUBLISHED, "optim.lr_g": 5e-4}, [128, 128, 64], (5e-4, 1e-3)),
        ({**PUBLISHED, "optim.lr_d": 5e-4}, [128, 128, 64], (1e-3, 5e-4)),
        ({"preset": "wide", "schedule.growing": True, "optim.batch": 16}, [16, 16], (4e-3, 1e-2)),
    ],
)
@pytest.mark.parametrize("where", ["command line", "config file"])
def test_a_named_batch_or_rate_is_that_of_every_stage_of_the_preset(where, flags, batches, rates, tmp_path):
    data = SimpleNamespace(resolution=64 if flags.get("preset") == "wide" else 32)
    file = None
    if where == "config file":
        file = tmp_path / "run.toml"
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in flags.items()))
        flags = {}
    stages = stages_of(data, flags, file)
    assert [stage.batch for stage in stages] == batches
    assert {(stage.lr_g, stage.lr_d) for stage in stages} == {rates}


def test_a_users_own_stages_keep_their_batches_and_rates(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[[schedule.stages]]\nresolution = 32\nshare = 1.0\nbatch = 4\nlr = 0.5\n")
    flags = {**PUBLISHED, "optim.batch": 16, "optim.lr_g": 1e-3}
    (stage,) = stages_of(SimpleNamespace(resolution=32), flags, file)
    assert (stage.batch, stage.lr_g, stage.lr_d) == (4, 0.5, 0.5)


def test_what_a_stage_has_of_its_own_is_said():
    plain = [{"resolution": side, "share": 0.5} for side in (16, 32)]
    assert schedule(schedule__stages=plain).describe() == "16 px from 0 kimg, 32 px from 0.08 kimg"
    assert schedule().describe() == (
        "8 px from 0 kimg with batch 16 and lr_g 0.001 and lr_d 0.004, "
        "16 px from 0.032 kimg with batch 8 and lr 0.002, 32 px from 0.072 kimg with batch 4 and lr 0.003"
    )


def test_without_growing_there_is_one_stage_at_full_size():
    (stage,) = schedule(schedule__growing=False).stages
    assert (stage.start, stage.end, stage.resolution, stage.batch, stage.lr_d) == (0, None, 32, 8, 4e-3)
    assert stage.growth(0) == Growth(32, 1.0)


@pytest.mark.parametrize("resolution, sides", [(8, [8]), (16, [8, 16]), (64, [8, 16, 32, 64])])
def test_stages_fit_the_data_sets_resolution(resolution, sides):
    stages = fit_stages(schedule().config.schedule.stages, resolution)
    assert [stage.resolution for stage in stages] == sides
    assert sum(stage.share for stage in stages) == pytest.approx(1)


@pytest.mark.parametrize("resolution, words", [(4, "as small as"), (24, "never meets")])
def test_a_resolution_that_growing_cannot_reach_is_refused(resolution, words):
    with pytest.raises(UsageError, match=words):
        fit_stages(schedule().config.schedule.stages, resolution)


@pytest.mark.parametrize(
    "stages, words",
    [
        ([{"resolution": 8, "share": 1}, {"resolution": 32, "share": 1}], "twice the one before"),
        ([{"resolution": 2, "share": 1}], "4 px at the least"),
        ([{"resolution": 8, "share": 0}], "share must be above 0"),
        ([{"resolution": 8, "share": 1, "batch": 1}], "batch 1 must be at least 2"),
        ([{"resolution": 8, "share": 1, "lr": -1.0}], "lr must be above 0"),
        ([{"resolution": "big", "share": 1}], "stages"),
    ],
)
def test_stages_that_make_no_sense_are_one_line(stages, words):
    with pytest.raises(UsageError, match=words) as caught:
        schedule(schedule__stages=stages)
    assert "\n" not in str(caught.value)


def test_reals_shrink_and_fade_as_fakes_do():
    images = torch.rand(2, 3, 32, 32)
    at_16 = downsample(images)
    assert torch.equal(real_at(images, Growth(32)), images)
    assert torch.equal(real_at(images, Growth(16)), at_16)
    torch.testing.assert_close(real_at(images, Growth(16, 0.0)), upsample(downsample(at_16)))
    torch.testing.assert_close(real_at(images, Growth(16, 0.25)), 0.25 * at_16 + 0.75 * upsample(downsample(at_16)))


@pytest.mark.parametrize("name", GROWING)
def test_nothing_jumps_when_a_resolution_begins(name):
    generator, discriminator = networks(name)
    z, text = torch.randn(2, generator.z_dim), captions()
    before = generator(z, text, growth=Growth(8))
    torch.testing.assert_close(generator(z, text, growth=Growth(16, 0.0)), upsample(before))
    images = torch.rand(2, 3, 16, 16)
    features = discriminator.features(downsample(images), Growth(8))
    torch.testing.assert_close(discriminator.features(images, Growth(16, 0.0)), features)


@pytest.mark.parametrize("name", GROWING)
def test_alpha_blends_old_and_new_images(name):
    generator, _ = networks(name)
    z, text = torch.randn(2, generator.z_dim), captions()
    old, between, new = (generator(z, text, growth=Growth(32, alpha)) for alpha in (0.0, 0.3, 1.0))
    torch.testing.assert_close(between, 0.7 * old + 0.3 * new, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GROWING)
def test_a_run_grows_and_every_trace_of_it_says_so(name, shapes_data, tmp_path):
    stages = [{"resolution": 8, "share": 0.5}, {"resolution": 16, "share": 0.5, "batch": 4}]
    settings = config(name, schedule__stages=stages, run__log_kimg=0.001, run__snapshot_kimg=0.024)
    asked = iter([False] * 4 + [True])
    run, _ = start(settings, shapes_data, tmp_path, stop=lambda: next(asked))
    stage = [(line["images_seen"], line["resolution"], round(line["alpha"], 2)) for line in logged(run)]
    # 24 images at 8 px, then 16 px in batches of 4, where alpha is 0, 1/3, 2/3 and then 1.
    assert stage == [(8, 8, 1), (16, 8, 1), (24, 8, 1), (28, 16, 0)]
    train(settings.changed(schedule__kimg=0.032, schedule__grow_kimg=0.048), shapes_data, run, CPU, resume=True)
    assert (logged(run)[-1]["resolution"], round(logged(run)[-1]["alpha"], 2)) == (16, 0.33)
    generator, description, _ = load_model(run.model)
    assert generator.growth == Growth(16, pytest.approx(1 / 3))
    assert description.growth == [16, pytest.approx(1 / 3)]
    train(settings, shapes_data, run, CPU, resume=True)
    assert load_model(run.model)[0].growth == Growth(16)


def describe(name, growth=None):
    """The generator of `networks`."""
    settings, encoder = config(name), {"name": "hash", "sha256": "0" * 64, "width": WIDTH, "max_tokens": 16}
    text = vars(settings.text).copy()
    del text["encoder"]
    return ModelDescription(name, 32, encoder, text, settings.generator, [8, 16, 32], growth)


@pytest.mark.parametrize("name", GROWING)
def test_a_model_saved_while_it_grows_draws_at_its_size(name, tmp_path):
    generator, _ = networks(name)
    save_model(tmp_path, generator, describe(name, growth=[16, 0.5]))
    loaded, _, _ = load_model(tmp_path)
    z, text = torch.randn(2, generator.z_dim), captions()
    assert loaded(z, text).shape == (2, 3, 16, 16)
    assert torch.equal(loaded(z, text), generator(z, text, growth=Growth(16, 0.5)))


def test_presets_grow_where_the_documentation_says():
    """At 32 px and below fast and wide stand still; asked to, each preset begins at 32 px, or at half of 32 px."""

    def first(resolution, preset, **flags):
        return stages_of(SimpleNamespace(resolution=resolution), {"preset": preset, **flags})[0].resolution

    for preset in list_presets("stylegan2"):
        grows = preset in ("fast", "wide")
        assert [first(side, preset) for side in (16, 32, 64, 128)] == [16, 32, *([32, 32] if grows else [64, 128])]
        growing = {"schedule.growing": True}
        assert [first(side, preset, **growing) for side in (32, 64, 128)] == [16, 32, 32]
        with pytest.raises(UsageError, match="--growing has no effect: 16 px would be the only stage"):
            first(16, preset, **growing)


@pytest.mark.parametrize("growth", [[24, 1.0], [0, 1.0], [32, 7.0], [32, float("nan")], [4, 0.5], [32], "32", [], {}])
@pytest.mark.parametrize("name", GROWING)
def test_a_growth_that_cannot_be_is_refused_in_one_line(name, growth, tmp_path):
    save_model(tmp_path, networks(name)[0], describe(name))
    path = tmp_path / "generator" / "config.json"
    whole = path.read_text()
    path.write_text(json.dumps({**json.loads(whole), "growth": growth}))
    with pytest.raises(UserError, match=r"does not fit its description \(growth is a resolution") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    path.write_text(whole)
    assert load_model(tmp_path)[0].growth == Growth(32)


@pytest.mark.parametrize("name", GROWING)
def test_a_run_stopped_while_it_grows_says_so_and_draws_at_full_size(name, minilm_data, here, capfd):
    """At 8 px an image of a "16 px" model was 8 px wide, without a word."""
    from PIL import Image

    from t2i import TextToImagePipeline
    from t2i.cli import run
    from t2i.prompts import still_growing

    stages = [{"resolution": side, "share": 0.5} for side in (8, 16)]
    settings = {**smallest(name), "schedule.grow_kimg": 1.0, "optim.batch": 8, "schedule.stages": stages}
    (here / "run.toml").write_text(to_toml(nest(settings)))
    arguments = [
        "--arch",
        name,
        "--preset",
        "small",
        "--growing",
        "--config",
        "run.toml",
        "--kimg",
        "0.016",
        "--device",
        "cpu",
    ]
    assert run(["train", str(minilm_data), *arguments]) == 0
    assert "it has grown to 8 px only (stages: 8 px from 0 kimg, 16 px from" in capfd.readouterr().out
    assert run(["generate", "a table", "-o", "out.png"]) == 0
    assert "it generates 8 px, enlarged to 16" in capfd.readouterr().err
    assert Image.open("out.png").size == (16, 16)
    run_folder = next((here / "runs").iterdir())
    for path in (run_folder, run_folder / "checkpoints" / "000000016" / "model"):
        assert run(["info", str(path), "--json"]) == 0
        facts = json.loads(capfd.readouterr().out)
        assert (facts["resolution"], facts["grown to"]) == (16, 8)
    pipe = TextToImagePipeline.from_pretrained(run_folder, "cpu")
    assert still_growing(pipe) == "this model was saved while it grew: it generates 8 px, enlarged to 16"
