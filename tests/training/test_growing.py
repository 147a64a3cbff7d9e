"""Progressive growing: a function of the images seen, the same for reals and fakes, and nothing jumps at a change."""

import json
from types import SimpleNamespace

import pytest
import torch

from t2i.config import validate
from t2i.errors import UsageError, UserError
from t2i.models import get_architecture, list_architectures
from t2i.models.folder import load_model
from t2i.models.growing import Growth, real_at, set_growth
from t2i.layers import downsample, upsample
from t2i.text.pooler import TextBatch, TextStatistics
from t2i.training.growth import Schedule, fit_stages
from t2i.training.loop import train
from t2i.training.run import Run
from t2i.training.setup import new_settings

GROWING = [name for name in list_architectures() if get_architecture(name).grows]
STAGES = (
    {"resolution": 8, "share": 0.25, "batch": 16},
    {"resolution": 16, "share": 0.25, "lr": 0.002},
    {"resolution": 32, "share": 0.5, "batch": 4, "lr": 0.003},
)


def config(**changes):
    settings = dict(growing=True, stages=STAGES, kimg=0.16, batch=8, lr_g=1e-3, lr_d=4e-3, fade=0.5)
    return validate({**settings, **changes}).check()


def networks(name, shown_at=(8, 16, 32)):
    architecture = get_architecture(name)
    options = {**architecture.model_options, **architecture.smallest, "shown_at": shown_at}
    return architecture.build(32, "attention", TextStatistics.identity(24), options, 0)


def text(count=2):
    return TextBatch(torch.randn(count, 5, 24), torch.ones(count, 5, dtype=torch.bool))


def test_a_stage_is_whole_batches_with_its_own_batch_and_rate():
    spans = Schedule(config(), 32).spans
    assert [(s.start, s.end, s.resolution, s.batch) for s in spans] == [
        (0, 32, 8, 16), (32, 72, 16, 8), (72, None, 32, 4)]  # fmt: skip
    assert [(s.lr_g, s.lr_d) for s in spans] == [(1e-3, 4e-3), (0.002, 0.002), (0.003, 0.003)]


def test_alpha_rises_over_the_first_part_of_each_stage_but_the_first():
    schedule = Schedule(config(), 32)
    assert schedule.at(0).growth(0) == Growth(8, 1.0)
    assert schedule.at(32).growth(32) == Growth(16, 0.0)
    assert schedule.at(40).growth(40) == Growth(16, pytest.approx(0.4))  # a stage of 40 pictures fades over 20
    assert schedule.at(52).growth(52) == Growth(16, 1.0)
    assert schedule.at(10**9).growth(10**9) == Growth(32, 1.0)


def test_a_longer_resumed_run_does_not_grow_again():
    first = Schedule(config(), 32).spans
    longer = Schedule(config(kimg=100, grow_kimg=0.16), 32).spans
    assert first == longer


@pytest.mark.parametrize("kimg, grown", [(None, 60), (1000.0, 60), (20.0, 20), ("many", None)])
def test_the_small_preset_grows_early_and_within_the_run(kimg, grown, shapes_data):
    flags = {"arch": "stylegan", "preset": "small"} | ({"kimg": kimg} if kimg else {})
    if grown is None:
        with pytest.raises(UsageError, match="--kimg"):
            new_settings(shapes_data, flags, None, "cpu")
        return
    settings, _ = new_settings(shapes_data, flags, None, "cpu")
    assert (settings.grow_kimg or settings.kimg) == grown
    spans = Schedule(settings, 32).spans
    assert spans[-1].resolution == 32 and spans[-1].start == pytest.approx(400 * grown, abs=2 * settings.batch)


@pytest.mark.parametrize("resolution, sides", [(32, [32]), (64, [32, 64]), (128, [32, 64, 128])])
def test_fast_learns_by_likeness_below_full_size_and_reach_it_with_the_discriminator(resolution, sides):
    architecture = get_architecture("stylegan2")
    row = architecture.presets["fast"][resolution]
    options = {name: value for name, value in row.items() if name not in architecture.model_options}
    settings = validate({**architecture.defaults, **options, "arch": "stylegan2"}).check()
    schedule = Schedule(settings, resolution)
    assert schedule.sides == sides
    if len(sides) > 1:
        assert schedule.spans[-1].start == 1000 * settings.pretrain_kimg == 40_000
        assert schedule.spans[-1].growth(40_000).alpha == 0
        assert schedule.spans[-1].growth(48_000).alpha == 1


@pytest.mark.parametrize(
    "resolution, sides", [(32, [32]), (64, [32, 64]), (128, [32, 64, 128]), (256, [32, 64, 128, 256])]
)
def test_on_a_gpu_the_preset_is_wide_whose_first_stage_is_the_likeness(resolution, sides, shapes_data):
    data = SimpleNamespace(resolution=resolution)
    assert new_settings(shapes_data, {}, None, "cpu")[0].preset == "fast"
    settings, _ = new_settings(data, {}, None, "cuda")
    assert settings.preset == "wide" and settings.model["discriminator"] == "projected"
    schedule = Schedule(settings, resolution)
    assert schedule.sides == sides
    if len(sides) > 1:
        assert schedule.spans[1].start == 1000 * settings.pretrain_kimg == 256_000
        assert [span.batch for span in schedule.spans] == [128, *[settings.batch] * (len(sides) - 1)]
        assert schedule.spans[-1].start < 1000 * settings.kimg / 2
    assert new_settings(data, {"arch": "stylegan"}, None, "cuda")[0].preset == "paper"
    assert new_settings(data, {"text_encoder": "transformer"}, None, "cuda")[0].preset == "paper"


PAPER = {"arch": "stylegan", "preset": "paper"}


@pytest.mark.parametrize(
    "flags, batches, rates",
    [
        (PAPER, [128, 128, 64], (1e-3, 1e-3)),
        ({**PAPER, "batch": 16}, [16, 16, 16], (1e-3, 1e-3)),
        ({**PAPER, "lr_g": 5e-4}, [128, 128, 64], (5e-4, 1e-3)),
        ({**PAPER, "lr_d": 5e-4}, [128, 128, 64], (1e-3, 5e-4)),
        ({"preset": "wide", "growing": True, "batch": 16}, [16, 16], (4e-3, 1e-2)),
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
    spans = Schedule(new_settings(data, flags, file, "cpu")[0], data.resolution).spans
    assert [span.batch for span in spans] == batches
    assert {(span.lr_g, span.lr_d) for span in spans} == {rates}


def test_a_users_own_stages_keep_their_batches_and_rates(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[[stages]]\nresolution = 32\nshare = 1.0\nbatch = 4\nlr = 0.5\n")
    data = SimpleNamespace(resolution=32)
    (span,) = Schedule(new_settings(data, {**PAPER, "batch": 16, "lr_g": 1e-3}, file, "cpu")[0], 32).spans
    assert (span.batch, span.lr_g, span.lr_d) == (4, 0.5, 0.5)


def test_what_a_stage_has_of_its_own_is_said():
    plain = [{"resolution": side, "share": 0.5} for side in (16, 32)]
    assert Schedule(config(stages=plain), 32).describe() == "16 px from 0 kimg, 32 px from 0.08 kimg"
    assert Schedule(config(), 32).describe() == (
        "8 px from 0 kimg with batch 16 and lr_g 0.001 and lr_d 0.004, "
        "16 px from 0.032 kimg with batch 8 and lr 0.002, 32 px from 0.072 kimg with batch 4 and lr 0.003"
    )


def test_without_growing_there_is_one_stage_at_full_size():
    (span,) = Schedule(config(growing=False), 32).spans
    assert (span.start, span.end, span.resolution, span.batch, span.lr_d) == (0, None, 32, 8, 4e-3)
    assert span.growth(0) == Growth(32, 1.0)


@pytest.mark.parametrize("resolution, sides", [(8, [8]), (16, [8, 16]), (64, [8, 16, 32, 64])])
def test_stages_fit_the_data_sets_resolution(resolution, sides):
    stages = fit_stages(config().stages, resolution)
    assert [stage.resolution for stage in stages] == sides
    assert sum(stage.share for stage in stages) == pytest.approx(1)


@pytest.mark.parametrize("resolution, words", [(4, "as small as"), (24, "never meets")])
def test_a_resolution_that_growing_cannot_reach_is_refused(resolution, words):
    with pytest.raises(UsageError, match=words):
        fit_stages(config().stages, resolution)


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
        config(stages=stages)
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
    z, captions = torch.randn(2, generator.z_dim), text()
    set_growth(generator, Growth(8))
    before = generator(z, captions)
    set_growth(generator, Growth(16, 0.0))
    torch.testing.assert_close(generator(z, captions), upsample(before))
    images = torch.rand(2, 3, 16, 16)
    set_growth(discriminator, Growth(8))
    logits = discriminator(downsample(images), captions)
    set_growth(discriminator, Growth(16, 0.0))
    torch.testing.assert_close(discriminator(images, captions), logits)


@pytest.mark.parametrize("name", GROWING)
def test_alpha_blends_old_and_new_pictures(name):
    generator, _ = networks(name)
    z, captions = torch.randn(2, generator.z_dim), text()

    def at(alpha):
        set_growth(generator, Growth(32, alpha))
        return generator(z, captions)

    torch.testing.assert_close(at(0.3), 0.7 * at(0.0) + 0.3 * at(1.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GROWING)
def test_a_run_grows_and_every_trace_of_it_says_so(name, shapes_data, tmp_path):
    architecture = get_architecture(name)
    stages = [{"resolution": 8, "share": 0.5}, {"resolution": 16, "share": 0.5, "batch": 4}]
    settings = validate(
        {**architecture.defaults, "arch": name, "growing": True, "stages": stages, "batch": 8, "kimg": 0.048,
         "log_kimg": 0.001, "snapshot_kimg": 0.024, "model": architecture.smallest}
    )  # fmt: skip
    facts = {"name": "shapes", "split": "train", "resolution": 16, "fingerprint": shapes_data.fingerprint}
    run = Run.create(tmp_path, settings, facts, "cpu")
    train(settings, shapes_data, run, torch.device("cpu"), stop=StopAt(run, 28))
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    stage = [(line["images_seen"], line["resolution"], round(line["alpha"], 2)) for line in lines]
    # 24 pictures at 8 px, then 16 px in batches of 4, where alpha is 0, 1/3, 2/3 and then 1.
    assert stage == [(8, 8, 1), (16, 8, 1), (24, 8, 1), (28, 16, 0), (32, 16, 0.33)]
    generator, description, _ = load_model(run.model)
    assert generator.growth == Growth(16, pytest.approx(1 / 3))
    assert description.options["growth"] == [16, pytest.approx(1 / 3)]
    train(settings, shapes_data, run, torch.device("cpu"), resume=True)
    assert load_model(run.model)[0].growth == Growth(16)


class StopAt:
    """Asks to stop once a line of metrics has counted so many images."""

    def __init__(self, run, images_seen):
        self.path, self.images_seen = run.folder / "metrics.jsonl", images_seen

    def __call__(self):
        return f'"images_seen": {self.images_seen}' in (self.path.read_text() if self.path.is_file() else "")


@pytest.mark.parametrize("name", GROWING)
def test_a_model_saved_while_it_grows_draws_at_its_size(name, tmp_path):
    from t2i.models.folder import ModelDescription, save_model

    architecture = get_architecture(name)
    generator, _ = networks(name)
    set_growth(generator, Growth(16, 0.5))
    options = {**architecture.model_options, **architecture.smallest, "shown_at": [8, 16, 32], "growth": [16, 0.5]}
    encoder = {"name": "hash", "sha256": "0" * 64, "width": 24, "max_tokens": 16}
    save_model(tmp_path, generator, ModelDescription(name, 32, "attention", options, encoder))
    loaded, _, _ = load_model(tmp_path)
    z, captions = torch.randn(2, generator.z_dim), text()
    assert loaded(z, captions).shape == (2, 3, 16, 16)
    assert torch.equal(loaded(z, captions), generator(z, captions))


def test_presets_grow_where_the_documentation_says():
    """At 32 px and below fast and wide stand still; asked to, each preset begins at 32 px, or at half of 32 px."""

    def sides(resolution, preset, **flags):
        flags = {"arch": "stylegan2", "preset": preset, **flags}
        settings, _ = new_settings(SimpleNamespace(resolution=resolution), flags, None, "cpu")
        return Schedule(settings, resolution).sides

    for preset in get_architecture("stylegan2").presets:
        grows = preset in ("fast", "wide")
        assert [sides(side, preset)[0] for side in (16, 32, 64, 128)] == [16, 32, *([32, 32] if grows else [64, 128])]
        assert [sides(side, preset, growing=True)[0] for side in (32, 64, 128)] == [16, 32, 32]
        with pytest.raises(UsageError, match="--growing has no effect: 16 px would be the only stage"):
            sides(16, preset, growing=True)


@pytest.mark.parametrize("growth", [[24, 1.0], [0, 1.0], [32, 7.0], [32, float("nan")], [4, 0.5], [32], "32", [], {}])
@pytest.mark.parametrize("name", GROWING)
def test_a_growth_that_cannot_be_is_refused_in_one_line(name, growth, tmp_path):
    from t2i.models.folder import ModelDescription, save_model

    architecture = get_architecture(name)
    options = {**architecture.model_options, **architecture.smallest, "shown_at": [8, 16, 32]}
    encoder = {"name": "hash", "sha256": "0" * 64, "width": 24, "max_tokens": 16}
    save_model(tmp_path, networks(name)[0], ModelDescription(name, 32, "attention", options, encoder))
    config, index = tmp_path / "generator" / "config.json", tmp_path / "model_index.json"
    for path, change in ((index, {"growth": growth}), (config, {"options": {**options, "growth": growth}})):
        whole = path.read_text()
        path.write_text(json.dumps({**json.loads(whole), **change}))
        with pytest.raises(UserError, match=r"does not fit its description \(growth is a resolution") as caught:
            load_model(tmp_path)
        assert "\n" not in str(caught.value)
        path.write_text(whole)
    assert load_model(tmp_path)[0].growth == Growth(32)


@pytest.mark.parametrize("name", GROWING)
def test_a_run_stopped_while_it_grows_says_so_and_draws_at_full_size(name, minilm_data, tmp_path, monkeypatch, capfd):
    """At 8 px a picture of a "16 px" model was 8 px wide, without a word."""
    from PIL import Image

    from t2i import TextToImagePipeline
    from t2i.cli import run
    from t2i.cli.console import still_growing

    monkeypatch.chdir(tmp_path)
    sizes = "\n".join(f"{key} = {json.dumps(value)}" for key, value in get_architecture(name).smallest.items())
    stages = "".join(f"[[stages]]\nresolution = {side}\nshare = 0.5\n" for side in (8, 16))
    (tmp_path / "run.toml").write_text(f"grow_kimg = 1.0\nbatch = 8\n{stages}[model]\n{sizes}\n")
    arguments = ["--arch", name, "--growing", "--config", "run.toml", "--kimg", "0.016", "--device", "cpu"]
    assert run(["train", str(minilm_data), *arguments]) == 0
    assert "it has grown to 8 px only (stages: 8 px from 0 kimg, 16 px from" in capfd.readouterr().out
    assert run(["generate", "a table", "-o", "out.png"]) == 0
    assert "it draws 8 px, enlarged to 16" in capfd.readouterr().err
    assert Image.open("out.png").size == (16, 16)
    run_folder = next((tmp_path / "runs").iterdir())
    for path in (run_folder, run_folder / "model"):
        assert run(["info", str(path), "--json"]) == 0
        facts = json.loads(capfd.readouterr().out)
        assert (facts["resolution"], facts["grown to"]) == (16, 8)
    pipe = TextToImagePipeline.from_pretrained(run_folder, "cpu")
    assert still_growing(pipe) == "this model was saved while it grew: it draws 8 px, enlarged to 16"
