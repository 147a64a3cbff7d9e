"""Settings: where a value comes from, what is refused, what older versions called them, and that each is explained."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from t2i import presets
from t2i.aliases import SETTINGS
from t2i.config import COMMAND_LINE, FIELDS, TrainConfig, build, help_of, option
from t2i.errors import UsageError, UserError
from t2i.losses.registry import TERMS
from t2i.models import get_architecture, registry
from t2i.setting_groups import Optim
from t2i.setting_layers import Layers, read_toml
from t2i.toml_tables import flatten, to_toml
from t2i.training.settings import new_settings
from t2i.training.tables import config_from


def layers(*found):
    """(source, {dotted name: value}) ... laid over each other."""
    made = Layers()
    for source, values in found:
        made.add(source, values)
    return made


def test_the_defaults_make_sense_and_every_setting_is_explained():
    assert TrainConfig() == build({}) == build(flatten(TrainConfig().tables())) == Layers().build()
    helps = [help_of(name) for name in FIELDS]
    helps += [field.metadata["help"] for loss in TERMS.values() for field in dataclasses.fields(loss.Settings)]
    for text in helps:
        assert text.endswith(".") and len(text) > 8


def test_later_layers_win_and_each_value_remembers_its_layer():
    made = layers(
        ("preset small", {"optim.batch": 4, "optim.lr_g": 0.1, "optim.lr_d": 0.1, "model.generator.nf": 8,
                          "model.generator.z_dim": 10}),
        ("run.toml", {"optim.lr_g": 0.2, "optim.lr_d": 0.2, "model.generator.nf": 16}),
        (COMMAND_LINE, {"optim.lr_d": 0.3}),
    )  # fmt: skip
    config = made.build()
    assert config.optim == Optim(batch=4, lr_g=0.2, lr_d=0.3)
    assert config.generator == {"nf": 16, "z_dim": 10}
    assert [made.origin.get(f"optim.{name}") for name in ("batch", "lr_g", "lr_d", "beta2")] == [
        "preset small", "run.toml", COMMAND_LINE, None
    ]  # fmt: skip


def test_a_config_is_frozen_and_survives_json_and_toml(tmp_path):
    config = config_from({
        "loss.adversarial.augment": ["translation", "cutout"], "model.generator.layout_mlp": 8,
        "schedule.stages": [{"resolution": 8, "share": 0.5, "lr": 0.1}, {"resolution": 16, "share": 1}],
        "eval.every": 16, "eval.data": 'a "name" \\ with\n\u2028 all', "loss.contrastive.weight": 2.0,
    })  # fmt: skip
    assert build(flatten(json.loads(json.dumps(config.tables())))) == config == config.changed()
    path = tmp_path / "run.toml"
    path.write_text(to_toml(config.tables()), encoding="utf-8")
    assert build(read_toml(path)) == config
    assert config.adversarial.augment == ("translation", "cutout")
    assert config.changed(optim__batch=16).optim.batch == 16
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.optim.batch = 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim.batch": "many"}, "--batch: input should be a number, not 'many'"),
        ({"schedule.kimg": "5"}, "--kimg: input should be a number, not '5'"),
        ({"schedule.minutes": "5"}, "--minutes: input should be a number, not '5'"),
        ({"optim.cuda_graphs": "true"}, "optim.cuda_graphs: input should be true or false, not 'true'"),
        ({"run.seed": True}, "--seed: input should not be true or false, as True is"),
        ({"schedule.stages": [{"resolution": "8", "share": 1.0}]},
         "schedule.stages: input should be a number, not '8'"),
        ({"schedule.stages": [{"resolution": 8, "share": True}]},
         "schedule.stages: input should not be true or false"),
        ({"schedule.stages": 3}, "schedule.stages: "),
        ({"begin_with": 3}, "--begin-with: input should be a valid string"),
        ({"loss.adversarial.kind": "mse"}, "--loss: input should be 'hinge', 'logistic', 'wgan-gp' or 'relativistic'"),
        ({"loss.adversarial.augment": ["blur"]}, "loss.adversarial.augment: "),
        ({"model.discriminator.kind": 3}, "model.discriminator.kind: input should be a text, not 3"),
        ({"schedule.kimg": None}, "--kimg: "),
        ({"run.trackers": ["mlflow"]}, "run.trackers: "),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_refused_in_one_line(values, message):
    with pytest.raises(UsageError) as caught:
        build(values)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        *({name: 0} for name in ("loss.penalty.every", "optim.accumulate", "schedule.kimg", "optim.lr_g",
                                 "optim.ema_kimg", "run.log_kimg", "schedule.minutes")),
        *({name: float("nan")} for name in ("schedule.kimg", "optim.lr_g", "optim.beta1", "loss.penalty.weight",
                                            "schedule.minutes", "run.snapshot_kimg")),
        {"optim.lr_d": float("inf")}, {"optim.batch": 1}, {"optim.beta2": 1.0}, {"optim.beta1": -0.1},
        {"loss.penalty.weight": -1.0}, {"run.seed": -1}, {"run.seed": 2**63}, {"run.threads": 0},
        {"run.keep_snapshots": 1}, {"optim.freeze_d": -1}, {"optim.batch": 7, "optim.accumulate": 2},
        {"loss.adversarial.shared_fakes": True, "text.encoder": "transformer"},
        {"loss.adversarial.mismatches": 32},
    ],
    ids=str,
)  # fmt: skip
def test_values_that_make_no_sense_are_refused_naming_option_or_file(values):
    name = next(iter(values))
    with pytest.raises(UsageError, match=f"^{option(name)} "):
        layers((COMMAND_LINE, values)).build()
    with pytest.raises(UsageError, match=f"^run.toml: {name} "):
        layers(("run.toml", values)).build()


@pytest.mark.parametrize("names, device, found", [
    (["small", "published"], "cpu", "small"), (["fast", "wide"], "cuda", "wide"),
    (["narrow", "fast"], "cpu", "fast"), (["narrow", "fast"], "cuda", "fast"), (["narrow", "broad"], "cpu", "broad"),
])  # fmt: skip
def test_the_first_preset_is_taken_where_the_automatic_one_is_none_of_the_architectures(
    names, device, found, monkeypatch, tmp_path
):
    plain = dataclasses.replace(get_architecture("dfgan"), name="plain")
    monkeypatch.setitem(registry._ARCHITECTURES, "plain", plain)
    monkeypatch.setitem(registry._DISCRIMINATORS, "plain", plain.discriminator)
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    for name in names:
        (tmp_path / f"plain-{name}.toml").write_text('arch = "plain"\n')
    assert new_settings(SimpleNamespace(resolution=32), {"arch": "plain"}, None, device)[0].preset == found


@pytest.mark.parametrize("name", ["batches", "optim.batches", "model", "text", "model.generator"])
def test_unknown_settings_and_values_in_the_place_of_tables(name):
    with pytest.raises(UsageError, match=f"^run.toml: {name}: there is no such setting; t2i train --dry-run prints"):
        layers(("run.toml", {name: 3})).build()


@pytest.mark.parametrize("text", [b"batch = ", b"\xff\xfe", b"a = 1\na = 2", b"x = " + b"[" * 5000])
def test_a_file_that_is_no_toml_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"run\.toml: not valid TOML") as caught:
        read_toml(path)
    assert "\n" not in str(caught.value)


# ---- what 0.1 called them ----

OLD = """
conditioning = "sentence"
text_encoder = "transformer"
contrastive = 2.0
places = 3.0
pretrain_kimg = 8.0
pretrain_lr = 0.5
loss = "logistic"
penalty = "r1"
penalty_weight = 9.0
penalty_every = 10
shared_fakes = false
augment = ["cutout"]
mismatches = 11
growing = true
stages = [{ resolution = 8, share = 0.5, batch = 24, lr = 0.01 }, { resolution = 16, share = 0.5 }]
grow_kimg = 13.0
fade = 0.75
batch = 48
accumulate = 3
kimg = 14.0
minutes = 15.0
lr_g = 0.1
lr_d = 0.2
beta1 = 0.3
beta2 = 0.4
ema_kimg = 16.0
precision = "bf16"
cuda_graphs = false
seed = 17
log_kimg = 18.0
snapshot_kimg = 19.0
checkpoint_minutes = 20.0
eval_every = 21
eval_samples = 22
eval_data = "val"
best_by = "fd"
on_nan = "rollback"
tensorboard = true

[model]
discriminator = "projected"
input_resolution = 64
sketch = 8
text_layers = 2
text_lr = 0.1
z_dim = 4
fmap_base = 32

[encoder]
vocabulary = 300
width = 16
layers = 2
heads = 2
feed_forward = 32
max_tokens = 20
dropout = 0.0
"""
NEW = """
[text]
conditioning = "sentence"
encoder = "transformer"
layers = 2
lr_multiplier = 0.1

[text.transformer]
vocabulary = 300
width = 16
layers = 2
heads = 2
feed_forward = 32
max_tokens = 20
dropout = 0.0

[optim]
batch = 48
accumulate = 3
lr_g = 0.1
lr_d = 0.2
beta1 = 0.3
beta2 = 0.4
ema_kimg = 16.0
precision = "bf16"
cuda_graphs = false

[schedule]
kimg = 14.0
minutes = 15.0
warm_up_kimg = 8.0
warm_up_lr = 0.5
growing = true
grow_kimg = 13.0
fade = 0.75

[[schedule.stages]]
resolution = 8
share = 0.5
batch = 24
lr = 0.01

[[schedule.stages]]
resolution = 16
share = 0.5

[loss.adversarial]
kind = "logistic"
mismatches = 11
shared_fakes = false
augment = ["cutout"]

[loss.penalty]
kind = "r1"
weight = 9.0
every = 10

[loss]
contrastive.weight = 2.0
word_region.weight = 3.0

[eval]
every = 21
samples = 22
data = "val"
best_by = "fd"

[run]
seed = 17
log_kimg = 18.0
snapshot_kimg = 19.0
checkpoint_minutes = 20.0
on_nan = "rollback"
trackers = ["tensorboard"]

[model.generator]
z_dim = 4
fmap_base = 32
layout_mlp = 8

[model.discriminator]
kind = "projected"
input_resolution = 64
"""


def read(folder, text):
    (folder / "run.toml").write_text(text)
    return read_toml(folder / "run.toml")


def test_a_file_with_the_names_of_an_older_version_gives_the_same_config(tmp_path):
    old, new = read(tmp_path, OLD), read(tmp_path, NEW)
    assert config_from(old) == config_from(new)
    named = {line.split(" = ")[0] for line in OLD.split("[encoder]")[0].splitlines()}
    assert {name.removeprefix("model.") for name in SETTINGS} <= named
    assert set(SETTINGS.values()) <= new.keys()
    defaults = flatten(TrainConfig().tables())
    same = [name for name in SETTINGS.values() if name in defaults and defaults[name] == new[name]]
    assert same == ["loss.adversarial.shared_fakes"]  # which does not go with a trained encoder


@pytest.mark.parametrize("old, new", [
    ("shared_fakes = true", "loss.adversarial.shared_fakes = true"),
    ("contrastive = 3.0\nplaces = true", "loss.contrastive.weight = 3.0\nloss.word_region.weight = 3.0"),
    ('places = true\ntext_encoder = "transformer"', 'loss.word_region.weight = 1.0\ntext.encoder = "transformer"'),
    ("places = false", ""),
    ("nearest_of = 1", ""),
    ('model.discriminator = "scratch"', 'model.discriminator.kind = "stylegan2"'),
    ("model.match_width = 16", "model.discriminator.match_width = 16"),
    ("model.fmap_max = 16", "model.generator.fmap_max = 16\nmodel.discriminator.fmap_max = 16"),
])  # fmt: skip
def test_values_that_meant_more_than_one_thing_mean_the_same(old, new, tmp_path):
    assert config_from(read(tmp_path, old)) == config_from(read(tmp_path, new))


@pytest.mark.parametrize("encoder, weight", [("prepared", None), ("transformer", 1.0)])
def test_a_contrastive_weight_that_was_left_open_is_the_encoders(encoder, weight):
    """So it stands in a config.json of 0.1."""
    from t2i.training.run import settings_from

    assert settings_from({"contrastive": None, "text_encoder": encoder}).terms == (
        {"contrastive": {"weight": weight}} if weight else {}
    )
