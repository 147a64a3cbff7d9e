"""Captions as documents hold them: a text, a list of texts, or a text that is a list."""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from t2i.data.sources.common import MAX_CAPTION_BYTES, clean_captions

CAPTION_KEYS = ("text", "caption", "captions", "prompt", "description", "sentences", "sentence", "comment")
# a column for each caption: caption_0, caption_1, ...
_NUMBERED = re.compile("(text|caption|prompt|description|sentence|comment)[ _]?[0-9]+")

_STRING = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_LIST = re.compile(rf"\[\s*(?:(?:{_STRING}|None|null|nan)\s*,?\s*)*\]", re.DOTALL)
_ITEM = re.compile(_STRING, re.DOTALL)


def raw_captions(value: Any) -> list[Any]:
    """A cell's captions, which may be no texts (they are counted, not used).

    A text that is a JSON or Python list of texts, as pandas writes one, is that list; a mapping stands for its `raw`
    or for what it has under a caption key.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return _listed(value) if value.lstrip().startswith("[") else [value]
    if isinstance(value, Mapping):
        found = value.get("raw") or first_of(value)[1]
        return [found] if isinstance(found, str) else raw_captions(found) if isinstance(found, list) else [value]
    if isinstance(value, list | tuple):
        return [inner for each in value for inner in (raw_captions(each) if isinstance(each, Mapping) else [each])]
    return [value]


def first_of(row: Mapping[str, Any]) -> tuple[str, Any]:
    """The first caption column of a row that holds something, and what; ("", None) where there is none.

    Column names count in any case; numbered ones (caption_0, caption_1, ...) are one.
    """
    names: dict[str, str] = {}
    numbered = []
    for name in row:
        if isinstance(name, str):
            names.setdefault(key := name.strip().lower(), name)
            if _NUMBERED.fullmatch(key):
                numbered.append(name)
    there = [names[key] for key in CAPTION_KEYS if key in names]
    for name in there:
        if _holds(row[name]):
            return name, row[name]
    if numbered:
        return numbered[0], [text for name in numbered for text in raw_captions(row[name]) if _holds(text)]
    return (there[0], row[there[0]]) if there else ("", None)


def is_caption_column(name: str) -> bool:
    key = name.strip().lower()
    return key in CAPTION_KEYS or _NUMBERED.fullmatch(key) is not None


def _holds(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, list | tuple | dict):
        return len(value) > 0
    return value is not None and value == value  # not NaN, which is pandas' nothing


def _listed(text: str) -> list[Any]:
    stripped = text.strip()
    try:
        value = json.loads(stripped)
        if isinstance(value, list) and all(each is None or isinstance(each, str) for each in value):
            return [each for each in value if each is not None]
    except (ValueError, RecursionError):
        pass
    if len(stripped) <= MAX_CAPTION_BYTES and _LIST.fullmatch(stripped):
        try:
            return [ast.literal_eval(item) for item in _ITEM.findall(stripped.replace("\n", " "))]
        except (ValueError, SyntaxError):
            pass
    return [text]


def text_captions(data: bytes | None) -> tuple[str, ...] | str:
    """The captions in a text file's bytes (None: too many), one a line; or why there are none."""
    if data is None:
        return "caption file is too big"
    try:
        return clean_captions(data.decode("utf-8-sig").splitlines()) or "no caption"
    except UnicodeDecodeError:
        return "caption file is not UTF-8"


def document_captions(data: bytes | None) -> tuple[str, ...] | str:
    """The captions in a JSON file's bytes, under the first caption key that holds something; or why there are none."""
    if data is None:
        return "caption file is too big"
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return "caption file is not valid JSON"
    if isinstance(document, dict):
        # img2dataset writes "caption" first of all; "text" is a caption too where there is none
        value = document["caption"] if _holds(document.get("caption")) else first_of(document)[1]
    elif isinstance(document, list):
        value = document
    else:
        return "caption file is not valid JSON"
    values = value if isinstance(value, list) else [value]
    return clean_captions(each for each in raw_captions(values) if isinstance(each, str)) or "no caption"
