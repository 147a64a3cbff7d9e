"""Parts of a data set that several machines prepare: which were begun, and which are done.

share-00002-of-00004.json in `<out>.partial` says that the second of four was begun, and whether it is done.
"""

import json
import re
from pathlib import Path
from typing import Any

from t2i.errors import UserError
from t2i.files import read_json


def list_shares(partial: Path) -> dict[tuple[int, int], Path]:
    """The parts that were begun: (2, 4) -> share-00002-of-00004.json."""
    found = ((re.fullmatch(r"share-(\d+)-of-(\d+)\.json", path.name), path) for path in partial.iterdir())
    return {(int(match[1]), int(match[2])): path for match, path in found if match}


def shares_missing(partial: Path, of: int) -> list[int]:
    """The parts that are not done."""
    done = {number for (number, _), path in list_shares(partial).items() if read_json(path).get("done")}
    return [number for number in range(1, of + 1) if number not in done]


def check_shares(partial: Path, plan: dict[str, Any]) -> bool:
    """Whether `partial` holds the parts of several machines. Raises UserError where one is missing."""
    begun = list_shares(partial)
    if not begun:
        return False
    check_plan(partial, plan)
    of = max(of for _, of in begun)
    if undone := shares_missing(partial, of):
        names = [f"{number}/{of}" for number in undone]
        shown = " and ".join([", ".join(names[:-1]), names[-1]] if names[:-1] else names) if len(names) < 9 else ""
        shown = shown or f"{', '.join(names[:8])} and {len(names) - 8} more"
        raise UserError(
            f"{partial}: not done yet: --shard {shown}; run the same command with that, and then without --shard "
            "(or remove the folder to start over)"
        )
    return True


def check_plan(partial: Path, plan: dict[str, Any]) -> None:
    """The work of several machines is not thrown away for an option that differs. Raises UserError."""
    begun = read_json(partial / "plan.json")
    differ = [name for name in plan if begun.get(name) != plan[name]]
    if differ:
        there, here = (json.dumps(facts.get(differ[0]), ensure_ascii=False) for facts in (begun, plan))
        raise UserError(
            f"{partial} was begun with another {differ[0]} ({there:.80}, not {here:.80}); give the same "
            "options, or remove the folder to start over"
        )
