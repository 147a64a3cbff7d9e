"""The commands of the manual, one by one: those that a test runs, and those that it only reads, with the reason."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from manual_pages import GUIDES, TEXTS, code_blocks, name

# What a test reads and does not run. A command that is in neither list is run (tests/docs/test_commands.py).
ONLY_READ = {
    r"^(pip|git|cd|python -m venv|\. \.venv|pre-commit|pytest|ruff|mypy|mkdocs|\.ci/run)\b": "set-up and .ci/run",
    r"^python (benchmarks|scripts)/": "a measurement; its own options are looked up",
    r"^torchrun|^srun|^head\b|^#SBATCH|^#!": "several machines; tests/faults/test_many_processes.py",
    r"--gpus": "several processes; tests/faults/test_many_processes.py",
    r"^t2i push|--model someone/|hf://": "the hub; tests/cli/test_hub.py",
    r"^t2i ui|^python -m http.server": "it serves until it is stopped; tests/ui",
    r"--inception-weights|--clip": "a file of the user's; tests/evaluation/test_feature_networks.py",
    r"\[|\.\.\.|RUN_OR_MODEL|\bDATA\b|ORG/": "a form with places to fill in",
    r"^OMP_NUM_THREADS": "a measurement",
    r"^(c|loss) = ": "a formula",
    r"^wc\b": "of the system",
}  # fmt: skip
LISTINGS = ("text", "toml", "python")  # tested elsewhere, or an image of a folder
DRAWN = ("architecture.md",)  # its block is the tree of t2i/


class Line(NamedTuple):
    page: Path
    text: str  # of one command, without its comment
    reason: str | None  # why it is only read; None: it is run


def commands(text: str) -> list[str]:
    """The commands of a block: lines joined at backslashes, cut at && and |, without comments."""
    found = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("t2i train ["):  # a form: "[--minutes 20 | --kimg 200]"
            found.append(line)
            continue
        line = line if line.startswith("#") else re.sub(r"\s+#.*", "", line)
        quoted = re.split(r"""("[^"]*"|'[^']*')""", line)
        # Only outside of quotes do && and | part commands.
        marked = "".join(part if part[:1] in "\"'" else re.sub(r"\s(?:&&|\|)\s", "\0", part) for part in quoted)
        found += [part.strip() for part in marked.split("\0") if part.strip()]
    return found


def reason(text: str) -> str | None:
    return next((why for pattern, why in ONLY_READ.items() if re.search(pattern, text)), None)


def lines_of(page: Path) -> list[Line]:
    if name(page) in DRAWN:
        return []
    blocks = [text for language, text in code_blocks(page) if language not in LISTINGS]
    return [Line(page, text, reason(text)) for block in blocks for text in commands(block)]


LINES = [line for page in GUIDES for line in lines_of(page)]


def inline(page: Path) -> list[str]:
    """Whole commands in `code` of a line: "t2i train --resume RUN"."""
    text = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.M | re.S)
    return [found for found in re.findall(r"`(t2i [a-z-]+ [^`]+)`", text)]


def arguments(text: str) -> list[str]:
    """What stands behind `t2i`, or behind `-m t2i`."""
    words = shlex.split(text, comments=True)
    return words[words.index("t2i") + 1 :]
