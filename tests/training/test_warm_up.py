"""How long a generator warms up by the energy score alone: no more than a share of the run; said where that is all."""

from types import SimpleNamespace

import pytest
from short_runs import smallest

from t2i.cli import run
from t2i.presets import preset_file, read_preset
from t2i.toml_tables import nest, to_toml
from t2i.training.schedule import Schedule
from t2i.training.settings import new_settings

WARM_UP, GROW = "schedule.warm_up_kimg", "schedule.grow_kimg"


def settings_of(resolution, device, **flags):
    flags = {"preset" if name == "preset" else f"schedule.{name}": value for name, value in flags.items()}
    settings, origin = new_settings(SimpleNamespace(resolution=resolution), flags, None, device)
    return settings, settings.schedule, origin


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_presets_own_length_has_its_own_warm_up(device, resolution):
    settings, times, origin = settings_of(resolution, device)
    preset, _ = read_preset(preset_file("stylegan2", settings.preset), resolution)
    assert (times.warm_up_kimg, times.grow_kimg) == (preset[WARM_UP], preset.get(GROW))
    assert origin[WARM_UP] == f"preset {settings.preset}"


@pytest.mark.parametrize(
    "device, resolution, kimg, warm_up, growing",
    [
        ("cpu", 32, 30.0, 7.5, None),
        ("cpu", 64, 30.0, 7.5, 15.0),
        ("cuda", 32, 200.0, 50.0, None),
        ("cuda", 64, 200.0, 32.0, 200.0),
        ("cuda", 128, 200.0, 32.0, 200.0),
    ],
)
def test_a_short_run_warms_up_and_grows_in_proportion(device, resolution, kimg, warm_up, growing):
    settings, times, origin = settings_of(resolution, device, kimg=kimg)
    assert (times.warm_up_kimg, times.grow_kimg) == (warm_up, growing)
    assert origin[WARM_UP] == f"preset {settings.preset}, for a run of {kimg} kimg"
    schedule = Schedule(settings, resolution)
    if growing:  # the warm-up ends where 64 px begin, as in a long run
        assert abs(schedule.stages[1].start - 1000 * warm_up) <= settings.optim.batch
    assert schedule.discriminator_trained(int(1000 * kimg))
    assert not schedule.discriminator_trained(int(1000 * warm_up))


def test_what_a_user_names_stays():
    assert settings_of(64, "cpu", kimg=30.0, warm_up_kimg=20.0)[1].warm_up_kimg == 20.0
    times = settings_of(64, "cpu", kimg=30.0, grow_kimg=25.0)[1]
    assert (times.grow_kimg, times.warm_up_kimg) == (25.0, 7.5)
    assert settings_of(64, "cuda", kimg=1500.0, growing=False)[1].warm_up_kimg == 256.0


def test_a_run_that_no_discriminator_takes_part_in_says_so(minilm_data, here, capfd, curves):
    settings = {**smallest("stylegan2"), WARM_UP: 0.016, "optim.batch": 8, "loss.energy.weight": 1.0}
    (here / "run.toml").write_text(to_toml(nest(settings)))
    command = ["train", str(minilm_data), "--preset", "small", "--config", "run.toml", "--device", "cpu"]
    assert run([*command, "--kimg", "0.016"]) == 0
    out, err = capfd.readouterr()
    assert err == "t2i: warning: warm_up_kimg 0.016 is all of a run of 0.016 kimg: no discriminator will be trained\n"
    assert "this was the warm-up only: a discriminator trains from 0.016 kimg on\n" in out
    assert (next((here / "runs").iterdir()) / "losses.png").is_file()
    assert run(["train", "--resume", "--kimg", "0.024"]) == 0
    out, err = capfd.readouterr()
    assert "warm-up only" not in out and err == ""
