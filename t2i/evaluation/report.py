"""The result of an evaluation: scores with their bounds, as rows, as JSON and as a line of a run's history."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from t2i.data.arrays import json_line
from t2i.files import describe_os_error, make_folder
from t2i.version import __version__

HISTORY = "metrics-eval.jsonl"


@dataclass(frozen=True)
class Score:
    """One score and what is needed to interpret it.

    better: "lower" or "higher"; error: standard deviation over subsets (kernel distances) or of a share.
    network: name and first digits of its hash. reference: the real images compared with, or the retrieval task.
    samples: number of generated images. ceiling: the score of real images, which ceiling_of names. floor: the score of
    the same samples with shuffled captions. Bounds are None where the score has none.
    """

    name: str
    value: float
    better: str
    network: str
    reference: str
    samples: int
    ceiling: float | None = None
    ceiling_of: str = ""
    floor: float | None = None
    error: float | None = None
    note: str = ""


@dataclass
class Report:
    """scores in reading order; facts: what was evaluated on what, JSON-able; notes: warnings for the reader.

    margins: of each sample, see Retrieval.margins; they rank the sheet of best and worst samples. None without one.
    """

    scores: list[Score]
    facts: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    margins: np.ndarray | None = None

    def values(self) -> dict[str, float]:
        """Name -> value."""
        return {score.name: score.value for score in self.scores}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; None and empty values are left out of each score."""
        scores = [
            {name: value for name, value in asdict(score).items() if value not in (None, "")} for score in self.scores
        ]
        return {**self.facts, "scores": scores, "notes": self.notes, "t2i_version": __version__}

    def append_to(self, folder: Path) -> Path:
        """Add a line to `folder`/metrics-eval.jsonl: time, facts, scores. Raises UserError, one line."""
        line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **self.to_dict()}
        path = make_folder(folder) / HISTORY
        try:
            with open(path, "ab") as stream:
                torn = stream.tell() and not path.read_bytes().endswith(b"\n")
                stream.write(b"\n" * bool(torn) + json_line(line))
        except OSError as error:
            raise describe_os_error(error, path) from error
        return path


def readable(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits (one more from 1 on), never an exponent: 0.0321, 12.35; a dash for None."""
    if value is None:
        return "-"
    size = int(np.floor(np.log10(abs(value)))) if value else 0
    return f"{value:.{max(0, min(digits - 1 - size + (size >= 0), 5))}f}"
