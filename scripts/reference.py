"""The reference of the manual, docs/reference/*.md, written from the code.

    python scripts/reference.py            # write the pages
    python scripts/reference.py --check    # exit 1 where one is stale

What a setting does is said in the code alone: the help of its field (t2i/setting_groups.py, the Settings of a loss),
OPTION_HELP of t2i/models/registry.py, and the comments at the top of each preset file.
"""

import argparse
import dataclasses
import importlib
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import typer

from t2i.cli import app
from t2i.config import FIELDS, TrainConfig, type_of
from t2i.errors import EXIT_CODES
from t2i.losses.registry import TERMS
from t2i.models import get_architecture, list_architectures
from t2i.models.registry import get_discriminator, list_discriminators, options_of
from t2i.presets import about, facts, list_presets, preset_file, read_preset
from t2i.setting_groups import GROUPS
from t2i.training.loop import COLUMNS
from t2i.training.tables import help_for

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "reference"
SIDES = (32, 64, 128, 256)
ARCHITECTURES = sorted(list_architectures(), key=lambda arch: (arch != TrainConfig.arch, arch))  # the default first
NOTE = "<!-- Written by scripts/reference.py from the code. Do not edit. -->\n"


def cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(cell, row))} |\n" for row in lines)


# ---- the command line ------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Every command with its arguments and options; the exit codes."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    parts = [
        "# Command line\n",
        "`t2i COMMAND --help` says the same. `t2i --version` prints the version.\n",
        table(
            ["command", "does"],
            [(f"[t2i {name}](#t2i-{name})", summary(command)) for name, command in commands.items()],
        ),
    ]
    for name, command in commands.items():
        parts.append(f"## t2i {name}\n")
        parts.append(command.help.strip() + "\n")
        arguments = [p for p in command.params if p.opts[0] == p.name]
        options = [p for p in command.params if p.opts[0] != p.name and p.name != "help"]
        if arguments:
            rows = [(f"`{p.metavar or p.name.upper()}`", p.help or "") for p in arguments]
            parts.append(table(["argument", "what it is"], rows))
        if options:
            rows = [(option_name(p), default_of(p), p.help or "") for p in options]
            parts.append(table(["option", "default", "what it does"], rows))
    parts += [
        "## Exit codes\n",
        "An error that a user can cause is one line on stderr.\n",
        table(["code", "means"], EXIT_CODES.items()),
    ]
    return "\n".join(parts)


def summary(command: Any) -> str:
    return command.help.strip().partition("\n")[0]


def option_name(parameter: Any) -> str:
    if parameter.is_flag:
        return "`" + "`, `".join([*parameter.opts, *parameter.secondary_opts]) + "`"
    return f"`{parameter.opts[0]} {parameter.metavar or kind_of(parameter)}`"


def kind_of(parameter: Any) -> str:
    kind = parameter.type_descriptor.annotation if hasattr(parameter, "type_descriptor") else str
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def default_of(parameter: Any) -> str:
    if parameter.default is None or parameter.show_default is False or callable(parameter.default):
        return ""
    if parameter.is_flag:
        return "on" if parameter.default else "off"
    return f"`{parameter.default}`"


# ---- settings --------------------------------------------------------------------------------------------------


def type_name(kind: Any) -> str:
    """int, number, true or false, one of a few words, a list of any."""
    if kind in (int, float, bool, str):
        return {int: "integer", float: "number", bool: "true, false", str: "text"}[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return type_name(next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        inner = arguments[0]
        return "list of tables" if dataclasses.is_dataclass(inner) else f"list of {type_name(inner)}"
    raise TypeError(kind)


def limits(metadata: Mapping[str, Any]) -> str:
    words = {"above": "above", "least": "at least", "below": "below", "most": "at most"}
    found = [f"{words[key]} {metadata[key]:,}" for key in words if metadata.get(key) is not None]
    return f" ({', '.join(found)})" if found and metadata.get("below") != 2**63 else ""


def value_of(value: Any) -> str:
    if value is None or value in ((), []):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(value)
    return str(value)


def setting_row(name: str, kind: Any, field: Any) -> tuple[str, ...]:
    metadata = field.metadata
    said = metadata["help"]
    if metadata["needs"]:
        other, _, wanted = metadata["needs"].partition("=")
        said += f" It needs `{other}`" + (f" `{wanted}`." if wanted else ".")
    option = f"`{metadata['option']}`" if metadata["option"] else ""
    default = value_of(field.default)
    return f"`{name.rpartition('.')[2]}`", type_name(kind) + limits(metadata), default, option, said, metadata["paper"]


HEAD = ["setting", "type", "default", "option", "what it does", "from"]


def settings_page() -> str:
    """Every setting of a run, by its table."""
    parts = [
        "# Settings\n",
        "Every setting of a training run. A setting stands in a `run.toml`, in the table named here, or is given by "
        "its option. `t2i train --dry-run` prints all values of a run, as such a file. What each preset sets: "
        "[Presets](presets.md).\n",
        "## Top of the file\n",
        table(HEAD, [setting_row(name, type_of(name), FIELDS[name]) for name in FIELDS if "." not in name]),
    ]
    for group, kind in GROUPS.items():
        parts.append(f"## [{group}]\n")
        said = kind.__doc__.partition(": ")[2]
        parts.append(said[0].upper() + said[1:] + "\n")
        rows = [setting_row(f"{group}.{f.name}", type_of(f"{group}.{f.name}"), f) for f in dataclasses.fields(kind)]
        parts.append(table(HEAD, rows))
        if group == "schedule":
            said = (
                "A `[[schedule.stages]]` table has `resolution` (px), `share` of the run, and, where they differ from"
            )
            parts.append(f"{said} `[optim]`, `batch` and `lr`.\n")
    for name, term in TERMS.items():
        parts.append(f"## [loss.{name}]\n")
        parts.append(sys.modules[term.__module__].__doc__.partition("\n")[0] + "\n")
        rows = [setting_row(f"loss.{name}.{f.name}", type(f.default), f) for f in dataclasses.fields(term.Settings)]
        parts.append(table(HEAD, rows))
    parts += network_tables()
    return "\n".join(parts)


def network_tables() -> list[str]:
    parts = []
    generators = {arch: get_architecture(arch).generator for arch in list_architectures()}
    discriminators = {kind: get_discriminator(kind) for kind in list_discriminators()}
    for which, networks in (("generator", generators), ("discriminator", discriminators)):
        parts.append(f"## [model.{which}]\n")
        rows = []
        if which == "discriminator":
            parts.append("`kind` chooses the discriminator; the other keys are its own.\n")
            kinds = ", ".join(f"`{kind}`" for kind in discriminators)
            rows.append(("`kind`", kinds, "that of `arch`", help_for("model.discriminator.kind")))
        found: dict[str, dict[str, Any]] = {}
        for name, network in networks.items():
            for key, default in options_of(network).items():
                found.setdefault(key, {})[name] = default
        for key, of in found.items():
            defaults = ", ".join(f"{name} {value_of(value)}" for name, value in of.items())
            rows.append(
                (f"`{key}`", type_name(type(next(iter(of.values())))), defaults, help_for(f"model.{which}.{key}"))
            )
        parts.append(table(["setting", "type", "default", "what it does"], rows))
    return parts


# ---- presets ---------------------------------------------------------------------------------------------------


def presets_page() -> str:
    """For whom each preset is, and what it sets."""
    parts = [
        "# Presets\n",
        "A preset is a TOML file of `t2i/presets/`; `--preset mine.toml` takes one of your own. Without `--preset`, a "
        "run takes `fast` on a CPU and `wide` on a GPU. Scores are explained in [Evaluation](../evaluation.md); each "
        "stands with its command and machine in the [research log](../research-log/index.md).\n",
    ]
    rows = []
    for arch in ARCHITECTURES:
        for name in list_presets(arch):
            said = facts(file_of(arch, name))
            rows.append(
                (f"{arch} [{name}](#{arch})", *(said[key] for key in ("for", "hardware", "minutes", "quality")))
            )
    parts.append(table(["preset", "for", "hardware", "minutes", "quality measured"], rows))
    for arch in ARCHITECTURES:
        parts += preset_tables(arch)
    return "\n".join(parts)


def file_of(arch: str, name: str) -> Path:
    path = preset_file(arch, name)
    assert path is not None
    return path


def preset_tables(arch: str) -> list[str]:
    names = list_presets(arch)
    values = {name: [read_preset(file_of(arch, name), side)[0] for side in SIDES] for name in names}
    keys = dict.fromkeys(key for sides in values.values() for side in sides for key in side)
    keys = [key for key in keys if key not in ("arch", "schedule.stages")]
    rows = [[f"`{key}`", *(at_sides([side.get(key) for side in values[name]]) for name in names)] for key in keys]
    parts = [
        f"## {arch}\n",
        "".join(f"- `{name}`: {about(file_of(arch, name))}\n" for name in names),
        "Four values are those at 32, 64, 128 and 256 px. A dash: the default of [Settings](settings.md).\n",
        table(["setting", *names], rows),
    ]
    stages = []
    for name in names:
        for side, settings in zip(SIDES, values[name]):
            if settings.get("schedule.stages"):
                stages.append((name, side, "; ".join(map(stage, settings["schedule.stages"]))))
    if stages:
        parts.append(
            "Stages of a run that grows: resolution, share of the run, batch and learning rate where they differ.\n"
        )
        parts.append(table(["preset", "px", "stages"], stages))
    return parts


def at_sides(values: list[Any]) -> str:
    shown = ["–" if value is None else value_of(value) for value in values]
    return shown[0] if len(set(shown)) == 1 else " / ".join(shown)


def stage(of: Mapping[str, Any]) -> str:
    extra = f", batch {of['batch']}" if "batch" in of else ""
    extra += f", lr {value_of(of['lr'])}" if "lr" in of else ""
    return f"{of['resolution']} px {100 * of['share']:.3g} %{extra}"


# ---- metrics, files, Python ------------------------------------------------------------------------------------


def metrics_page() -> str:
    return "\n".join([
        "# Metrics of a run\n",
        "A run writes a line to `metrics.jsonl` and `metrics.csv` every `run.log_kimg` thousand images. A value is the "
        "mean since the line before. A loss that is not in use has no value.\n",
        table(["column", "what it is"], [(f"`{name}`", what) for name, what in COLUMNS.items()]),
        "What a healthy run looks like: [Training](../training.md#what-to-watch).\n",
    ])  # fmt: skip


FILES = {
    "A prepared data set": "t2i.data.prepared",
    "A run": "t2i.training.run",
    "A snapshot": "t2i.training.checkpoint",
    "A model": "t2i.models.folder",
    "An ONNX export": "t2i.export",
}


def files_page() -> str:
    """The listings in the docstrings of the modules that write the files."""
    parts = ["# Files and formats\n", "Nothing is ever unpickled: arrays, JSON, TOML and safetensors only.\n"]
    for title, name in FILES.items():
        head, _, rest = (importlib.import_module(name).__doc__ or "").strip().partition("\n\n")
        listing, _, after = rest.partition("\n\n")
        listing = textwrap.dedent(listing)
        parts += [f"## {title}\n", f"{head}\n", f"```text\n{listing.rstrip()}\n```\n"]
        if after:
            parts.append(f"{after.strip()}\n")
        parts.append(f"Written by `{name.replace('.', '/')}.py`.\n")
    return "\n".join(parts)


def card_page() -> str:
    """The built-in model's card, which lies in its folder."""
    card = (ROOT / "t2i" / "assets" / "emoji" / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    head, _, rest = card.strip().partition("\n")
    assert head == "# emoji"
    said = "It comes with the package. This is the card in its folder, `t2i/assets/emoji`; `t2i push` and each snapshot"
    said += " write such a one."
    return f"# Card of the built-in model\n\n{said}\n{rest}"


API = ["t2i.TextToImagePipeline", "t2i.PreparedDataset", "t2i.evaluation.protocol.Evaluator",
       "t2i.evaluation.protocol.Options", "t2i.evaluation.sampler.CaptionSampler", "t2i.models.registry.Architecture",
       "t2i.losses.base.Term", "t2i.compat"]  # fmt: skip


def python_page() -> str:
    said = "What `t2i` exports, and the classes that extensions and scripts use. `import t2i` does not import torch."
    return f"# Python\n\n{said}\n" + "".join(f"\n## {name}\n\n::: {name}\n" for name in API)


PAGES = {
    "cli.md": cli_page, "settings.md": settings_page, "presets.md": presets_page, "metrics.md": metrics_page,
    "files.md": files_page, "python.md": python_page, "model-card.md": card_page,
}  # fmt: skip


def pages() -> dict[Path, str]:
    """{path: text} of every page."""
    return {FOLDER / name: NOTE + page().rstrip() + "\n" for name, page in PAGES.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is stale")
    check = parser.parse_args().check
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{'stale' if check else 'wrote'}: {path.relative_to(ROOT)}")
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(pages()[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
