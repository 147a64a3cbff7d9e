"""Settings: where a value comes from, what is refused, and that each one is explained."""

import dataclasses
from types import SimpleNamespace

import pytest

from t2i.config import COMMAND_LINE, FIELDS, TrainConfig, help_of, option, read_toml, resolve, validate
from t2i.errors import UsageError, UserError
from t2i.models import get_architecture, registry
from t2i.training.setup import new_settings


def test_the_defaults_make_sense_and_every_setting_is_explained():
    assert TrainConfig().check() == validate({}) == resolve()[0]
    for name in FIELDS:
        assert help_of(name).endswith(".") and len(help_of(name)) > 8


def test_later_layers_win_and_each_value_remembers_its_layer():
    config, origin = resolve(
        ("preset small", {"batch": 4, "lr_g": 0.1, "lr_d": 0.1, "model": {"nf": 8, "z_dim": 10}}),
        ("run.toml", {"lr_g": 0.2, "lr_d": 0.2, "model": {"nf": 16}}),
        (COMMAND_LINE, {"lr_d": 0.3}),
    )
    assert (config.batch, config.lr_g, config.lr_d, config.beta2) == (4, 0.2, 0.3, TrainConfig.beta2)
    assert config.model == {"nf": 16, "z_dim": 10}
    assert [origin[name] for name in ("batch", "lr_g", "lr_d", "beta2")] == [
        "preset small", "run.toml", COMMAND_LINE, "default"
    ]  # fmt: skip


def test_a_config_is_frozen_and_survives_json():
    config = validate({"augment": ["translation", "cutout"], "model": {"nf": 3}})
    assert validate(dataclasses.asdict(config)) == config
    assert config.augment == ("translation", "cutout")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.batch = 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": "many"}, "--batch: input should be a number, not 'many'"),
        ({"kimg": "5"}, "--kimg: input should be a number, not '5'"),
        ({"minutes": "5"}, "--minutes: input should be a number, not '5'"),
        ({"tensorboard": "true"}, "tensorboard: input should be true or false, not 'true'"),
        ({"seed": True}, "--seed: input should not be true or false, as True is"),
        ({"stages": [{"resolution": "8", "share": 1.0}]}, "stages: input should be a number, not '8'"),
        ({"stages": [{"resolution": 8, "share": True}]}, "stages: input should not be true or false"),
        ({"stages": 3}, "stages: "),
        ({"begin_with": 3}, "--begin-with: input should be a valid string"),
        ({"loss": "mse"}, "--loss: input should be 'hinge', 'logistic' or 'wgan-gp'"),
        ({"augment": ["blur"]}, "augment: "),
        ({"model": 3}, "model: "),
        ({"kimg": None}, "--kimg: "),
        ({"tensorboard": "perhaps"}, "tensorboard: "),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_in_one_line(values, message):
    with pytest.raises(UsageError) as caught:
        validate(values)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        *({name: 0} for name in ("penalty_every", "accumulate", "kimg", "lr_g", "ema_kimg", "log_kimg", "minutes")),
        *({name: float("nan")} for name in ("kimg", "lr_g", "beta1", "penalty_weight", "minutes", "snapshot_kimg")),
        {"lr_d": float("inf")}, {"batch": 1}, {"beta2": 1.0}, {"beta1": -0.1}, {"penalty_weight": -1.0},
        {"seed": -1}, {"seed": 2**63}, {"batch": 7, "accumulate": 2},
        {"shared_fakes": True, "text_encoder": "transformer"},
    ],
    ids=str,
)  # fmt: skip
def test_values_that_make_no_sense_are_refused_naming_option_or_file(values):
    name = next(iter(values))
    with pytest.raises(UsageError, match=f"^{option(name)} "):
        resolve((COMMAND_LINE, values))
    with pytest.raises(UsageError, match=f"^run.toml: {name} "):
        resolve(("run.toml", values))


@pytest.mark.parametrize("names, device, found", [
    (["small", "paper"], "cpu", "small"), (["small", "paper"], "cuda", "paper"),
    (["narrow", "fast"], "cpu", "fast"), (["narrow", "fast"], "cuda", "narrow"), (["narrow", "broad"], "cpu", "narrow"),
])  # fmt: skip
def test_the_first_preset_is_taken_where_the_automatic_one_is_none_of_the_architectures(
    names, device, found, monkeypatch
):
    dfgan = get_architecture("dfgan")
    plain = dataclasses.replace(dfgan, name="plain", presets=dict.fromkeys(names, dfgan.presets["small"]))
    monkeypatch.setitem(registry._ARCHITECTURES, "plain", plain)
    assert new_settings(SimpleNamespace(resolution=32), {"arch": "plain"}, None, device)[0].preset == found


def test_unknown_settings_and_a_model_that_is_no_table():
    with pytest.raises(UsageError, match=r"run.toml: no setting is called 'batches'; there is arch, "):
        resolve(("run.toml", {"batches": 3}))
    with pytest.raises(UsageError, match=r"run.toml: \[model\] must be a table"):
        resolve(("run.toml", {"model": 3}))


@pytest.mark.parametrize("text", [b"batch = ", b"\xff\xfe", b"a = 1\na = 2", b"x = " + b"[" * 5000])
def test_a_file_that_is_no_toml_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"run\.toml: not valid TOML") as caught:
        read_toml(path)
    assert "\n" not in str(caught.value)
