"""t2i compare: runs side by side, in a table and in one plot."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from t2i.cli import console
from t2i.cli.options import Json
from t2i.errors import UsageError


def compare(
    runs: Annotated[list[Path], Argument(help="Run folders, two or more.", show_default=False)],
    out: Annotated[Path, Option("--out", "-o", help="Image file of the plot.")] = Path("compare.png"),
    json: Json = False,
) -> None:
    """Compare runs: the settings that differ, their scores, and their curves in one plot."""
    if len(runs) < 2:
        raise UsageError("compare takes two runs or more; t2i info describes one")
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the plot is a .png")

    from t2i.files import check_writable
    from t2i.training.comparison import different_settings, draw_comparison, open_runs, scores, short_names

    opened, names = open_runs(runs), short_names(runs)
    settings, found = different_settings(opened), scores(opened)
    check_writable(out.parent)
    drawn = draw_comparison({name: run.folder for name, run in zip(names, opened)}, out)
    if json:
        tables = {kind: {name: dict(zip(names, row)) for name, row in table.items()}
                  for kind, table in (("settings", settings), ("scores", found))}  # fmt: skip
        console.print_json({"runs": [str(path) for path in runs], **tables, "plot": str(out) if drawn else None})
        return
    _show("settings that differ", names, {name: [_setting(v) for v in row] for name, row in settings.items()})
    _show("scores", names, {name: [_score(v) for v in row] for name, row in found.items()})
    console.say(f"wrote {out}" if drawn else "no plot: none of them has logged anything yet")


def _show(title: str, names: list[str], table: dict[str, list[str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not table:
        console.say(f"{title}: none")
        return
    shown = Table()
    shown.add_column(title, no_wrap=True)
    for name in names:
        shown.add_column(escape(name), overflow="fold")
    for name, values in table.items():
        shown.add_row(escape(name), *map(escape, values))
    console.out.print(shown)


def _setting(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if type(value) is float else str(value)


def _score(value: Any) -> str:
    from t2i.evaluation.report import readable

    return readable(value) if value is None or isinstance(value, float) else f"{value:,}"
