"""The presets `published` hold the facts that the docstring of their architecture's file lists."""

import re
import tomllib

import pytest

from t2i.models import dfgan, stylegan
from t2i.presets import list_presets, preset_file, read_preset
from t2i.toml_tables import flatten
from t2i.training.schedule import Schedule
from t2i.training.tables import config_from

ARCHITECTURES = {"dfgan": dfgan, "stylegan": stylegan}


def facts(arch):
    """The lines `name = value` of a docstring, and the lines `R px: batch, learning rate`."""
    text = ARCHITECTURES[arch].__doc__
    settings = tomllib.loads("\n".join(re.findall(r"^    [a-z_0-9.]+ = .+$", text, re.M)))
    stages = re.findall(r"^    (\d+) px: (\d+), ([\d.]+)$", text, re.M)
    return flatten(settings), [(int(side), int(batch), float(lr)) for side, batch, lr in stages]


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_preset_named_published_holds_the_published_settings(arch, resolution):
    settings, _ = read_preset(preset_file(arch, "published"), resolution)
    named, _ = facts(arch)
    assert len(named) >= 16
    assert {name: settings[name] for name in named} == named


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
def test_stylegan_grows_as_published(resolution):
    schedule = Schedule(config_from(read_preset(preset_file("stylegan", "published"), resolution)[0]), resolution)
    stages = [stage for stage in facts("stylegan")[1] if stage[0] <= resolution]
    assert [(s.resolution, s.batch, s.lr_g) for s in schedule.stages] == stages
    assert [s.lr_d for s in schedule.stages] == [s.lr_g for s in schedule.stages]
    for number, stage in enumerate(schedule.stages[1:], 1):
        # Each fade takes 600 kimg, and so does each resolution between two fades, to a few batches.
        assert stage.start == pytest.approx(1_200_000 * number - 600_000, abs=256 * number)
        for images, alpha in ((0, 0), (300_000, 0.5), (600_256, 1)):
            growth = schedule.plan(stage.start + images).growth
            assert growth.resolution == stage.resolution and growth.alpha == pytest.approx(alpha, abs=1e-3)


def test_no_other_architecture_has_one():
    assert "published" not in list_presets("stylegan2")
