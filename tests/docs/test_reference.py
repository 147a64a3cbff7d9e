"""docs/reference is what the code says: scripts/reference.py writes it, and every setting says what it does."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import reference  # noqa: E402

from t2i.models import get_architecture, list_architectures  # noqa: E402
from t2i.models.registry import get_discriminator, list_discriminators, options_of  # noqa: E402
from t2i.presets import facts, list_presets, preset_file  # noqa: E402
from t2i.training.tables import help_for  # noqa: E402

PAGES = reference.pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_what_the_code_says(path):
    assert path.read_text(encoding="utf-8") == PAGES[path], "stale: python scripts/reference.py"


def test_no_other_page_is_there():
    assert {path.name for path in reference.FOLDER.iterdir()} == set(reference.PAGES)


def test_every_setting_of_a_network_says_what_it_does():
    networks = [get_architecture(name).generator for name in list_architectures()]
    networks += [get_discriminator(kind) for kind in list_discriminators()]
    named = {key for network in networks for key in options_of(network)}
    assert [key for key in named if not help_for(f"model.generator.{key}")] == []


@pytest.mark.parametrize("arch", list_architectures())
def test_every_preset_says_for_whom_it_is(arch):
    for name in list_presets(arch):
        assert list(facts(preset_file(arch, name))) == ["for", "hardware", "minutes", "quality"]


def test_a_column_of_metrics_is_in_the_reference_when_it_is_written(tiny_run):
    header = (tiny_run / "metrics.csv").read_text().partition("\n")[0].split(",")
    page = PAGES[reference.FOLDER / "metrics.md"]
    assert [name for name in header if f"| `{name}` |" not in page] == []
