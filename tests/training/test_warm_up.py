"""How long a generator learns by likeness alone: no more than a share of the run; said where that is all of it."""

import json
from types import SimpleNamespace

import pytest
from t2i.training.growth import Schedule
from t2i.training.setup import new_settings

from t2i.cli import run
from t2i.models import get_architecture


def settings_of(resolution, device, **flags):
    return new_settings(SimpleNamespace(resolution=resolution), flags, None, device)


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_presets_own_length_has_its_own_pretraining(device, resolution):
    settings, origin = settings_of(resolution, device)
    row = get_architecture("stylegan2").presets[settings.preset][resolution]
    assert (settings.pretrain_kimg, settings.grow_kimg) == (row["pretrain_kimg"], row.get("grow_kimg"))
    assert origin["pretrain_kimg"] == f"preset {settings.preset}"


@pytest.mark.parametrize(
    "device, resolution, kimg, pretraining, growing",
    [
        ("cpu", 32, 30.0, 7.5, None),
        ("cpu", 64, 30.0, 7.5, 15.0),
        ("cuda", 32, 200.0, 50.0, None),
        ("cuda", 64, 200.0, 32.0, 200.0),
        ("cuda", 128, 200.0, 32.0, 200.0),
    ],
)
def test_a_short_run_is_pretrained_and_grows_in_proportion(device, resolution, kimg, pretraining, growing):
    settings, origin = settings_of(resolution, device, kimg=kimg)
    assert (settings.pretrain_kimg, settings.grow_kimg) == (pretraining, growing)
    assert origin["pretrain_kimg"] == f"preset {settings.preset}, for a run of {kimg} kimg"
    schedule = Schedule(settings, resolution)
    if growing:  # likeness ends where 64 px begin, as in a long run
        assert abs(schedule.spans[1].start - 1000 * pretraining) <= settings.batch
    assert schedule.judged(int(1000 * kimg)) and not schedule.judged(int(1000 * pretraining))


def test_the_blur_of_a_short_run_fades_out_in_its_first_tenth():
    whole = get_architecture("stylegan2").presets["projected"][64]["blur_kimg"]
    for kimg, expected in ((None, whole), (100_000.0, whole), (50.0, 5.0)):
        flags = {"arch": "stylegan2", "preset": "projected"} | ({} if kimg is None else {"kimg": kimg})
        assert settings_of(64, "cpu", **flags)[0].blur_kimg == expected
    assert settings_of(64, "cpu", preset="projected", kimg=50.0, blur_kimg=20.0)[0].blur_kimg == 20.0


def test_what_a_user_names_stays():
    assert settings_of(64, "cpu", kimg=30.0, pretrain_kimg=20.0)[0].pretrain_kimg == 20.0
    settings, _ = settings_of(64, "cpu", kimg=30.0, grow_kimg=25.0)
    assert (settings.grow_kimg, settings.pretrain_kimg) == (25.0, 7.5)
    assert settings_of(64, "cuda", kimg=1500.0, growing=False)[0].pretrain_kimg == 256.0


def test_a_run_that_no_discriminator_takes_part_in_says_so(minilm_data, here, capfd):
    sizes = "".join(f"{key} = {json.dumps(value)}\n" for key, value in get_architecture("stylegan2").smallest.items())
    (here / "run.toml").write_text(f"pretrain_kimg = 0.016\nbatch = 8\n[model]\n{sizes}")
    command = ["train", str(minilm_data), "--preset", "small", "--config", "run.toml", "--device", "cpu"]
    assert run([*command, "--kimg", "0.016"]) == 0
    out, err = capfd.readouterr()
    assert err == "t2i: warning: pretrain_kimg 0.016 is all of a run of 0.016 kimg: no discriminator will be trained\n"
    assert "it has learned by likeness only (pretrain_kimg: a discriminator trains from 0.016 kimg on)\n" in out
    assert (next((here / "runs").iterdir()) / "losses.png").is_file()
    assert run(["train", "--resume", "--kimg", "0.024"]) == 0
    out, err = capfd.readouterr()
    assert "likeness" not in out and err == ""
