"""The manual: every link leads somewhere, every setting and script that it names exists, its sentences are short."""

import re
import subprocess
from types import SimpleNamespace

import pytest
from manual_pages import DOCS, GUIDES, LOG, PAGES, ROOT, TEXTS, anchors, links, name, sentences, words

from t2i.version import __version__

LONGEST = 25  # words of a sentence


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    wrong = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_and_tests_that_are_named_exist(page):
    named = set(re.findall(r"\b((?:benchmarks|scripts|tests)/[\w/]+\.py)", TEXTS[page]))
    assert {name for name in named if not (ROOT / name).exists()} == set()


TOML = [block for text in TEXTS.values() for block in re.findall(r"^```toml\n(.*?)^```", text, flags=re.M | re.S)]


@pytest.mark.parametrize("block", TOML, ids=lambda block: block.split(" =")[0])
def test_config_files_that_are_shown_are_taken(block, tmp_path):
    from t2i.training.settings import new_settings

    (tmp_path / "run.toml").write_text(block)
    flags = {"arch": "stylegan"} if "[[schedule.stages]]" in block else {}
    _, origin = new_settings(SimpleNamespace(resolution=32), flags, tmp_path / "run.toml", "cpu")
    assert str(tmp_path / "run.toml") in origin.values()


@pytest.mark.parametrize("page", [page for page in PAGES if page not in LOG], ids=name)
def test_settings_that_are_named_exist(page):
    from t2i.training.tables import unknown_settings

    named = re.findall(r"`((?:text|optim|schedule|loss|eval|run)\.(?!py)[a-z_.]+)\b", TEXTS[page])
    named = [name for name in named if not name.endswith(".toml")]
    assert unknown_settings(dict.fromkeys(named)) == []


def test_every_image_is_shown():
    shown = "\n".join(TEXTS.values())
    assert [path.name for path in (DOCS / "pictures").iterdir() if path.name not in shown] == []


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_sentences_are_short(page):
    assert [sentence for sentence in sentences(page) if words(sentence) > LONGEST] == []


def test_the_counter_counts():
    from manual_pages import TEXTS

    TEXTS[DOCS / "x.md"] = f"# A title\n\n{'word ' * 26}end. It is `short`. `x` too.\n\n| {'cell ' * 27} | b |\n"
    try:
        assert [words(s) for s in sentences(DOCS / "x.md")] == [2, 27, 3, 2, 27, 1]
    finally:
        del TEXTS[DOCS / "x.md"]


def test_what_we_know_fits_a_page():
    assert len(TEXTS[DOCS / "research-log" / "index.md"].splitlines()) <= 60


# A newcomer's questions, and where each is answered: two links from the index at the most.
QUESTIONS = {
    "How do I train on 256 px with 8 GB?": "faq.md#how-do-i-train-256-px-with-8-gb",
    "My images ignore the prompt.": "faq.md#my-images-ignore-the-prompt",
    "How do I use my own BERT?": "faq.md#how-do-i-use-my-own-bert",
    "Which forms may my data have?": "data.md",
    "How do I resume?": "training.md#stop-and-resume",
    "What do the curves say?": "training.md#what-to-watch",
    "Which preset is for me?": "reference/presets.md",
    "Is FD-lite2 the FID?": "faq.md#is-fd-lite2-the-fid-can-i-compare-it-with-papers",
    "What does ema_kimg do?": "reference/settings.md#optim",
    "How long does it take?": "faq.md#how-long-does-it-take",
    "How do I share my model?": "drawing.md#on-the-hugging-face-hub",
    "How do I train on several GPUs?": "distributed.md#one-machine",
}


def reachable(clicks: int) -> set:
    """The pages within so many links of the index."""
    found = {DOCS / "index.md"}
    for _ in range(clicks):
        targets = {(page.parent / link.partition("#")[0]).resolve() for page in found for link in links(page)}
        found |= {target for target in targets if target in TEXTS}
    return found


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_newcomers_question_is_answered_within_two_clicks(question):
    path, _, anchor = QUESTIONS[question].partition("#")
    assert DOCS / path in reachable(1 if anchor else 2)  # an anchor is the second click, on the page's own contents
    assert not anchor or anchor in anchors(DOCS / path)


def test_a_page_that_the_index_does_not_link_is_not_reached():
    assert DOCS / "reference" / "cli.md" in reachable(1)
    assert reachable(0) == {DOCS / "index.md"}
    assert set(GUIDES) - reachable(2) <= {ROOT / "README.md"}


def test_the_version_is_one():
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"[{__version__}]" in TEXTS[DOCS / "CHANGELOG.md"]


def test_the_workflow_calls_parts_that_ci_has():
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    called = {part for line in re.findall(r"run: \.ci/run (.+)", workflow) for part in line.split()}
    assert called == {"quick", "lint", "docs"}
    script = (ROOT / ".ci" / "run").read_text()
    assert all(f"\n{part}() {{" in script for part in (*called, "slow"))
    done = subprocess.run([ROOT / ".ci" / "run", "nonsense"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "no part nonsense: quick, lint, docs or slow\n")
