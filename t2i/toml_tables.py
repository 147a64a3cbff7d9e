"""Tables of settings as TOML, and as flat dictionaries with dotted names: {"optim.lr_g": 0.001} is [optim] lr_g."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from t2i.errors import UserError
from t2i.files import describe_os_error, first_line


def flatten(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables -> {dotted name: value}; a table without keys is left out."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted name: value} -> tables."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        set_dotted(found, name, value)
    return found


def set_dotted(tables: dict[str, Any], name: str, value: Any) -> None:
    *groups, last = name.split(".")
    for group in groups:
        tables = tables.setdefault(group, {})
    tables[last] = value


def read_tables(path: Path | str) -> dict[str, Any]:
    """A TOML file. Raises UserError, one line."""
    try:
        with open(path, "rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise describe_os_error(error, path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid TOML ({first_line(error)})") from error


def to_toml(tables: Mapping[str, Any], comment: Callable[[str], str] = lambda name: "", prefix: str = "") -> str:
    """Tables as TOML. A value of None, which TOML has not, is left out. comment: dotted name -> what stands behind the
    value, "" for nothing."""
    lines, below = [], []
    for key, value in tables.items():
        if isinstance(value, Mapping):
            if text := to_toml(value, comment, f"{prefix}{key}."):
                below.append(text)
        elif value is not None:
            said = comment(prefix + key)
            lines.append(f"{key} = {_toml(value)}" + (f"  # {said}\n" if said else "\n"))
    head = f"[{prefix[:-1]}]\n" if prefix and lines else ""
    return "\n".join(part for part in [head + "".join(lines), *below] if part)


def _toml(value: Any) -> str:
    """A plain value as TOML."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
        case list() | tuple():
            return f"[{', '.join(_toml(item) for item in value)}]"
        case Mapping():
            items = ", ".join(f"{key} = {_toml(item)}" for key, item in value.items() if item is not None)
            return f"{{ {items} }}"
    raise TypeError(f"TOML has no {type(value).__name__}")
