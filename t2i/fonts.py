"""The fonts of the labels on sheets."""

import contextlib
import functools
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MAX_LABEL = 400  # characters of a label that are used; more never fit into a few lines
# Han, kana, Hangul and full width.
EAST_ASIAN = re.compile("[\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
# File names of such fonts on Linux, macOS and Windows.
EAST_ASIAN_FONTS = (
    "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "Arial Unicode.ttf", "msyh.ttc", "msgothic.ttc", "malgun.ttf",
)  # fmt: skip


def label_fonts(texts: Sequence[str], tile: int) -> tuple[Font, Font]:
    """The fonts of labels and of the title for images of `tile` pixels: one family for the whole sheet.

    Pillow's own font has little more than ASCII, not even "é". Other texts are set in DejaVu Sans, from matplotlib's
    files; Chinese, Japanese and Korean in a font of the system. Missing glyphs (emoji) appear as boxes.
    """
    size = min(22, max(13, tile // 10))
    wide = any(not text[:MAX_LABEL].isascii() for text in texts)
    east = any(EAST_ASIAN.search(text[:MAX_LABEL]) for text in texts)
    return font(size, wide, east), font(size + 3, wide, east)


@functools.lru_cache(maxsize=16)
def font(size: int, wide: bool, east: bool = False) -> Font:
    for name in EAST_ASIAN_FONTS if east else ():
        with contextlib.suppress(ImportError, OSError):  # no font of this name
            return ImageFont.truetype(name, size)
    try:
        file = _dejavu() if wide else None
        if file is not None:
            return ImageFont.truetype(file, size)
        return ImageFont.load_default(size)
    except (ImportError, OSError):  # a Pillow built without FreeType: one bitmap font, one size
        return ImageFont.load_default()


def _dejavu() -> Path | None:
    spec = importlib.util.find_spec("matplotlib")  # finds the folder and imports nothing
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if file.is_file():
            return file
    return None
