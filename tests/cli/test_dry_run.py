"""Settings of a new run: where they come from, presets in files, and --dry-run, whose file repeats the run."""

import re
import tomllib
from types import SimpleNamespace

import pytest

from t2i.errors import UsageError
from t2i.models import list_architectures
from t2i.presets import list_presets, preset_file
from t2i.toml_tables import flatten, to_toml
from t2i.training.settings import new_settings
from t2i.training.tables import effective

PRESETS = [(arch, preset) for arch in list_architectures() for preset in list_presets(arch)]


def resolve(resolution=32, config=None, **flags):
    """Settings, and where each came from. flags: by their dotted names, "__" for the dot."""
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return new_settings(SimpleNamespace(resolution=resolution), named, config, "cpu")


def dry_run(t2i, *arguments):
    """The lines at the top of a dry run, {name: text}, and its settings, {dotted name: value}."""
    said = t2i("train", *arguments, "--dry-run")
    head = said.partition("\n\n")[0].splitlines()
    assert len(head) <= 10 and all(line.startswith("# ") for line in head)
    return dict(line[2:].split(maxsplit=1) for line in head[1:]), flatten(tomllib.loads(said))


def test_a_flag_wins_over_the_file_that_over_the_preset_and_nothing_is_written(here, t2i, minilm_data, tiny_run):
    (here / "run.toml").write_text("[optim]\nlr_g = 0.5\nlr_d = 0.25\n")
    flags = ("--lr-d", "0.125", "--seed", "3")
    rows, settings = dry_run(t2i, minilm_data, "--config", "run.toml", *flags)
    found = {name: settings[f"optim.{name}"] for name in ("lr_d", "lr_g", "beta2", "accumulate")}
    assert found == {"lr_d": 0.125, "lr_g": 0.5, "beta2": 0.99, "accumulate": 1}  # of flag, file, preset, default
    assert set(rows["yours"].split(", ")) == {"optim.lr_g 0.5", "optim.lr_d 0.125", "run.seed 3"}
    assert rows["data"] == f"{minilm_data} (48 images, 16 px)"
    before = sorted(tiny_run.rglob("*"))
    rows, settings = dry_run(t2i, "--resume", tiny_run)
    assert rows["data"] == f"{minilm_data} (48 images, 16 px)" and rows["yours"] == "as the run began"
    assert (settings["optim.batch"], settings["model.generator.nf"]) == (8, 4)
    assert sorted(tiny_run.rglob("*")) == before
    assert [path.name for path in here.iterdir()] == ["run.toml"]


def test_every_value_remembers_where_it_came_from(tmp_path):
    (tmp_path / "run.toml").write_text("[optim]\nlr_g = 0.5\nlr_d = 0.25\n")
    _, origin = resolve(config=tmp_path / "run.toml", optim__lr_d=0.125, schedule__kimg=8.0)
    assert origin["optim.lr_d"] == origin["schedule.kimg"] == "command line"
    assert origin["optim.lr_g"] == str(tmp_path / "run.toml")
    assert origin["optim.beta2"] == "preset fast"
    assert origin["schedule.warm_up_kimg"] == "preset fast, for a run of 8.0 kimg"
    assert "optim.accumulate" not in origin  # the default


# ---- the file of a dry run -------------------------------------------------------------------------------------

CHOICES = [
    {},
    {"schedule__kimg": 5.0, "run__seed": 3, "optim__batch": 16, "optim__accumulate": 2, "run__threads": 2},
    {"loss__adversarial__kind": "wgan-gp", "optim__lr_g": 1e-5},
    {"loss__adversarial__kind": "hinge", "loss__penalty__kind": "none", "eval__every": 1000},
]


@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize("arch, preset", PRESETS)
def test_the_file_of_a_dry_run_repeats_the_run(tmp_path, arch, preset, resolution):
    path = tmp_path / "run.toml"
    for choice in CHOICES:
        config, _ = resolve(resolution, arch=arch, preset=preset, **choice)
        path.write_text(to_toml(effective(config)))
        assert resolve(resolution, path)[0] == config


@pytest.mark.parametrize("choice", [
    {"arch": "stylegan", "schedule__growing": False}, {"preset": "small", "text__encoder": "transformer"},
    {"preset": "fast", "loss__energy__features": 0.0}, {"preset": "fast", "loss__energy__weight": 0.0},
    {"preset": "fast", "model__discriminator__kind": "dfgan", "schedule__growing": False},
    {"arch": "dfgan", "text__conditioning": "sentence"},
])  # fmt: skip
def test_so_it_does_where_a_choice_turns_off_what_a_preset_has(tmp_path, choice):
    config, _ = resolve(64, **choice)
    (tmp_path / "run.toml").write_text(to_toml(effective(config)))
    assert resolve(64, tmp_path / "run.toml")[0] == config


def test_on_the_command_line_too(here, t2i, minilm_data):
    said = t2i("train", minilm_data, "--arch", "stylegan", "--kimg", "7", "--lr-g", "0.003", "--dry-run")
    (here / "run.toml").write_text(said)
    again = t2i("train", minilm_data, "--config", "run.toml", "--dry-run")
    assert again.partition("\n\n")[2] == said.partition("\n\n")[2]


@pytest.mark.parametrize("flags, expected, words", [
    (["--arch", "stylegan", "--preset", "small"], {"loss.adversarial.kind": "logistic"}, {"stages": "16 px from"}),
    (["--arch", "stylegan", "--no-growing"], {"schedule.growing": False, "schedule.stages": None}, {"stages": "none"}),
    (["--arch", "stylegan", "--preset", "original"], {"loss.adversarial.kind": "wgan-gp",
     "loss.penalty.kind": "wgan-gp"}, {"losses": "wgan-gp, wgan-gp"}),
    (["--loss", "wgan-gp"], {"loss.penalty.kind": "wgan-gp", "loss.penalty.every": 1, "loss.penalty.weight": None},
     {"yours": "loss.adversarial.kind wgan-gp"}),
    (["--penalty", "ma-gp"], {"loss.penalty.every": 1}, {"losses": "hinge, ma-gp, contrastive 4"}),
    (["--text-encoder", "transformer"], {"text.transformer.width": 128, "text.transformer.layers": 2,
     "loss.contrastive.weight": 1.0}, {"preset": "small"}),
    (["--arch", "dfgan"], {"preset": "fast"}, {"preset": "[its settings for 32 px]"}),
    ([], {"preset": "fast"}, {"yours": "nothing differs from the preset"}),
])  # fmt: skip
def test_dry_run_shows_what_a_choice_brings_with_it(here, t2i, minilm_data, flags, expected, words):
    rows, settings = dry_run(t2i, minilm_data, *flags)
    assert {name: settings.get(name) for name in expected} == expected
    assert all(text in rows[name] for name, text in words.items()), rows


# ---- presets, and names of 0.1 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("arch, preset", PRESETS)
def test_a_preset_may_be_a_file(tmp_path, arch, preset):
    path = tmp_path / "mine.toml"
    path.write_text(re.sub(r"(?m)^ema_kimg = .*", "ema_kimg = 3.0", preset_file(arch, preset).read_text()))
    config, origin = resolve(64, preset=str(path))
    built_in, _ = resolve(64, arch=arch, preset=preset)
    assert config == built_in.changed(optim__ema_kimg=3.0, preset=str(path)) != built_in
    assert origin["optim.ema_kimg"] == f"preset {path}"


def test_on_the_command_line_a_preset_may_be_a_file_too(here, t2i, minilm_data):
    (here / "mine.toml").write_text("# A preset of my own\n" + preset_file("dfgan", "small").read_text())
    rows, settings = dry_run(t2i, minilm_data, "--preset", "mine.toml", "--kimg", "7")
    assert rows["preset"] == "mine.toml: A preset of my own [its settings for 32 px]"
    assert rows["yours"] == "schedule.kimg 7.0"
    assert (settings["arch"], settings["preset"]) == ("dfgan", "mine.toml")


@pytest.mark.parametrize("flags", [{}, {"loss__adversarial__kind": "wgan-gp"}, {"loss__adversarial__kind": "logistic"}])
def test_a_preset_may_say_little(tmp_path, flags):
    (tmp_path / "mine.toml").write_text('arch = "dfgan"\n')
    config, _ = resolve(64, preset=str(tmp_path / "mine.toml"), **flags)
    assert config.arch == "dfgan" and config.optim.batch == 32
    assert config.penalty.kind == ("wgan-gp" if "wgan-gp" in flags.values() else "ma-gp")


OLD = """
arch = "stylegan2"
preset = "fast"
contrastive = 3.0
pretrain_kimg = 80.0
snapshot_kimg = 50.0
[[stages]]
resolution = 32
share = 1.0
[model]
sketch = 4
fmap_base = 128
text_lr = 0.5
"""
NEW = """
arch = "stylegan2"
preset = "fast"
schedule = { warm_up_kimg = 80.0, stages = [{ resolution = 32, share = 1.0 }] }
loss.contrastive.weight = 3.0
run.snapshot_kimg = 50.0
text.lr_multiplier = 0.5
model.generator = { layout_mlp = 4, fmap_base = 128 }
"""


def test_the_names_of_0_1_still_work(tmp_path):
    (tmp_path / "old.toml").write_text(OLD)
    (tmp_path / "new.toml").write_text(NEW)
    config, _ = resolve(64, tmp_path / "old.toml")
    assert config == resolve(64, tmp_path / "new.toml")[0]
    assert (config.generator["fmap_base"], config.text.lr_multiplier) == (128, 0.5)
    assert config.terms["contrastive"] == {"weight": 3.0}


@pytest.mark.parametrize("rows", ["at = 3", "[at]\nx = 3", "[at.big]", "at.64 = 3"])
def test_a_preset_s_rows_are_tables_by_resolution(tmp_path, rows):
    (tmp_path / "mine.toml").write_text(f'arch = "dfgan"\n{rows}\n')
    with pytest.raises(ValueError, match=r"mine.toml: \[at\] holds tables named by a resolution"):
        resolve(64, preset=str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stages = 3", r"preset .*mine.toml: schedule.stages: input should be a valid tuple, not 3"),
        ('warm_up_kimg = "long"', r"preset .*mine.toml: schedule.warm_up_kimg: input should be a number, not 'long'"),
        ("grow_kimg = true", r"preset .*mine.toml: schedule.grow_kimg: input should not be true or false"),
        ("warmth = 3", r"preset .*mine.toml: schedule.warmth: there is no such setting"),
    ],
)
def test_a_preset_s_values_are_checked_as_those_of_a_config_file(tmp_path, text, words):
    (tmp_path / "mine.toml").write_text(f'arch = "dfgan"\n[schedule]\n{text}\n')
    with pytest.raises(UsageError, match=f"^{words}"):
        resolve(64, preset=str(tmp_path / "mine.toml"), schedule__kimg=5.0, optim__batch=8)


@pytest.mark.parametrize("quick, precision", [(True, "bf16"), (False, "fp32")])
def test_amp_is_bf16_where_the_processor_has_it(here, t2i, minilm_data, monkeypatch, quick, precision):
    monkeypatch.setattr("t2i.device.has_quick_bf16", lambda device: quick)
    said = t2i("train", minilm_data, "--amp", "--device", "cpu", "--dry-run")
    assert f'precision = "{precision}"' in said or precision == "fp32"  # the default is left out
    assert f"cpu, {precision}" in said
