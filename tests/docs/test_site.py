"""The manual as a site: it builds without a warning, and a reader's browser asks nobody else for anything."""

import os
import re
import subprocess
import sys

import pytest
from manual_pages import LOG, PAGES, ROOT

pytestmark = pytest.mark.slow
LOADED = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="?([^" >]+)|<link\b[^>]*\bhref="?([^" >]+)[^>]*>')


def test_the_site_builds_and_loads_nothing_from_the_network(tmp_path):
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(PAGES) - 1 and any(LOG)
    outside = set()
    for page in pages:
        for found in LOADED.finditer(page.read_text(encoding="utf-8")):
            target = found[1] or found[2]
            if re.match(r"(https?:)?//", target) and 'rel="canonical"' not in found[0]:
                outside.add(target)
    assert outside == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.css"))
    assert re.findall(r"url\([\"']?https?:[^)]*\)", styles) == []
