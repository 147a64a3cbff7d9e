"""The manual as the tests of this folder read it: its pages, their prose, sentences, code blocks and links."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LOG = [*sorted((DOCS / "research-log").glob("*.md"))]
REFERENCE = [*sorted((DOCS / "reference").glob("*.md"))]
GUIDES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
PAGES = [*GUIDES, *REFERENCE, *LOG]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}


def name(page: Path) -> str:
    """As a test's id: docs/reference/cli.md is reference/cli.md."""
    return str(page.relative_to(DOCS)) if page.is_relative_to(DOCS) else page.name


def prose(page: Path) -> str:
    """A page without its indented and fenced code."""
    text = re.sub(r"^ *```.*?^ *```", "", TEXTS[page], flags=re.M | re.S)
    return re.sub(r"(?<=\n\n)(?:(?:    |\t).*\n?)+", "", text)


def code_blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced and indented block; "" for none named, "indented" for indented ones."""
    text = TEXTS[page]
    fenced = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, flags=re.M | re.S)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    indented = re.findall(r"(?<=\n\n)(?:    .*\n?)+", rest)
    return [*fenced, *(("indented", re.sub(r"^    ", "", block, flags=re.M)) for block in indented)]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings; mkdocs makes the same of ours."""
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    """What a page links to and shows, but for the web: "training.md#nan"."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def sentences(page: Path) -> list[str]:
    """The sentences of a page's paragraphs, list items, headings and table cells; code and a link's target are left
    out, code within a line is a word."""
    text = re.sub(r"<!--.*?-->", "", prose(page), flags=re.S)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "Code", text)
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*|#]|\d+\.) )|\n(?=\|)", text)
    parts = []
    for block in blocks:
        cells = block.strip().strip("|").split("|") if block.lstrip().startswith("|") else [block]
        parts += [" ".join(cell.split()) for cell in cells]
    # Names that begin a sentence in lower case, too.
    end = r"(?<=[.!?])\W*\s+(?=\W*(?:[A-Z]|t2i|stylegan|dfgan|torchrun|nccl|bf16))"
    return [sentence for part in parts for sentence in re.split(end, part)]


def words(sentence: str) -> int:
    return len(re.findall(r"\w[\w'’./%-]*", sentence))
