"""The documentation: every link leads somewhere, every command, setting and script that it names exists."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from t2i.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}


def prose(page: Path) -> str:
    """A page without its indented and fenced code."""
    text = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.M | re.S)
    return re.sub(r"^(    |\t).*$", "", text, flags=re.M)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_and_tests_that_are_named_exist(page):
    named = set(re.findall(r"\b((?:benchmarks|scripts|tests)/[\w/]+\.py)", TEXTS[page]))
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_that_are_named_exist(page):
    commands = typer.main.get_command(app).commands
    for command, rest in re.findall(r"\bt2i ([a-z][a-z-]*)((?: [^\n`]*)?)", TEXTS[page].replace("\\\n", " ")):
        if command not in commands:
            continue  # prose: "t2i is", "t2i takes"
        known = {
            option for parameter in commands[command].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        own = re.split(r"&&|[|;]| python | t2i ", rest)[0]
        assert set(re.findall(r"(?<!\S)(--[a-z][a-z-]+)", own)) - known - {"--help"} == set(), (command, rest)


TOML = [block for text in TEXTS.values() for block in re.findall(r"^```toml\n(.*?)^```", text, flags=re.M | re.S)]


@pytest.mark.parametrize("block", TOML, ids=lambda block: block.split(" =")[0])
def test_config_files_that_are_shown_are_taken(block, tmp_path):
    from t2i.training.settings import new_settings

    (tmp_path / "run.toml").write_text(block)
    flags = {"arch": "stylegan"} if "[[schedule.stages]]" in block else {}
    _, origin = new_settings(SimpleNamespace(resolution=32), flags, tmp_path / "run.toml", "cpu")
    assert str(tmp_path / "run.toml") in origin.values()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_are_named_exist(page):
    from t2i.training.tables import unknown_settings

    named = re.findall(r"`((?:text|optim|schedule|loss|eval|run)\.(?!py)[a-z_.]+)\b", TEXTS[page])
    assert unknown_settings(dict.fromkeys(named)) == []


def test_every_image_is_shown():
    shown = "\n".join(TEXTS.values())
    assert [path.name for path in (ROOT / "docs" / "pictures").iterdir() if path.name not in shown] == []
