"""A hook of mkdocs: the built-in model in the site, as a page that draws in the browser.

    T2I_SITE_MODEL=emoji mkdocs build

T2I_SITE_MODEL: what `t2i export --format web` takes. Without it the site is built as it is, 83 MB smaller.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = "draw"


def model() -> str:
    return os.environ.get("T2I_SITE_MODEL", "")


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """The first page leads to it. In HTML, as the folder is none of mkdocs' pages."""
    if not model() or page.file.src_uri != "index.md":
        return html
    link = f'<p><a href="{FOLDER}/"><b>Try it here</b></a>: the model in your browser, with nothing to install.</p>'
    return html.replace("</p>", f"</p>\n{link}", 1)


def on_post_build(config: Any, **_: Any) -> None:
    if model():
        target = Path(config["site_dir"]) / FOLDER
        subprocess.run(
            [sys.executable, "-m", "t2i", "export", model(), "--format", "web", "-o", str(target)], check=True
        )
