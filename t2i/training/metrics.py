"""A run's numbers over time: metrics.jsonl, and the same as metrics.csv.

metrics.jsonl is the record; metrics.csv is derived from it, so that the two cannot disagree for long.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from t2i.files import atomic_write, describe_os_error, make_folder


class MetricsLog:
    """Appends lines to metrics.jsonl and metrics.csv in a run's folder.

    folder: made where it is absent; lines of an earlier session are kept and a torn last one is cut away.
    columns: what metrics.csv shows, in this order; metrics.jsonl has everything. Raises UserError, one line, where a
    file cannot be written.
    """

    def __init__(self, folder: Path | str, columns: Sequence[str]) -> None:
        self.folder = make_folder(folder)
        self.columns = tuple(columns)
        self.jsonl = self.folder / "metrics.jsonl"
        self.csv = self.folder / "metrics.csv"
        self._streams: list[IO[bytes]] = []
        _cut_torn_line(self.jsonl)
        # Whatever happened to it: a torn line, other columns, a line that reached the disk in one file only.
        self._write_csv(read_metrics(self.jsonl))
        self._open()

    def append(self, metrics: Mapping[str, Any]) -> None:
        """Add a line; it is in both files when this returns.

        Values: numbers (numpy and torch scalars too), strings, booleans, None. A NaN or an infinity becomes
        null: JSON has neither. Raises UserError, one line, where the disk is full.
        """
        metrics = {key: _plain(value) for key, value in metrics.items()}
        texts = (json.dumps(metrics, allow_nan=False) + "\n", self._csv_text([metrics]))
        for path, stream, text in zip((self.jsonl, self.csv), self._streams, texts):
            _write_all(stream, text, path)

    def rewind(self, images_seen: int) -> int:
        """Drop every line past `images_seen` and return how many there were.

        For a run that goes on from an older checkpoint, so that no line appears twice. A line without a count
        goes with the line before it.
        """
        lines = read_metrics(self.jsonl)
        kept, last = [], -math.inf
        for line in lines:
            last = _number(line.get("images_seen"), last)
            if last <= images_seen:
                kept.append(line)
        if len(kept) < len(lines):
            self._close()
            try:
                with atomic_write(self.jsonl, "w") as stream:
                    stream.writelines(json.dumps(line) + "\n" for line in kept)
                self._write_csv(kept)
            finally:
                self._open()
        return len(lines) - len(kept)

    def close(self) -> None:
        self._close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> None:
        for path in (self.jsonl, self.csv):
            try:
                # Unbuffered: a line is on its way when append() returns, and after a full disk nothing of it
                # waits in a buffer to fail a second time.
                self._streams.append(open(path, "ab", buffering=0))  # noqa: SIM115
            except OSError as error:
                raise describe_os_error(error, path) from error

    def _close(self) -> None:
        while self._streams:
            self._streams.pop().close()

    def _csv_text(self, lines: Iterable[Mapping[str, Any]], header: bool = False) -> str:
        text = io.StringIO()
        table = csv.DictWriter(text, self.columns, restval="", extrasaction="ignore", lineterminator="\n")
        if header:
            table.writeheader()
        table.writerows(lines)
        return text.getvalue()

    def _write_csv(self, lines: Iterable[Mapping[str, Any]]) -> None:
        with atomic_write(self.csv) as stream:
            stream.write(self._csv_text(lines, header=True).encode("utf-8", "replace"))


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where the file is absent.

    What is no JSON object, such as a last line that a crash tore, is passed over. Raises UserError where the
    file cannot be read.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise describe_os_error(error, path) from error
    return [line for line in map(_parse, raw.splitlines()) if line is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _cut_torn_line(path: Path) -> None:
    """Cut away what a crash left after the last whole line, so that the next one does not join it."""
    try:
        if not path.is_file():
            return
        raw = path.read_bytes()
        end = raw.rfind(b"\n") + 1
        if end == len(raw):
            return
        with open(path, "r+b") as stream:
            if _parse(raw[end:]) is None:
                stream.truncate(end)
            else:  # only the line's end is missing
                stream.seek(0, os.SEEK_END)
                stream.write(b"\n")
    except OSError as error:
        raise describe_os_error(error, path) from error


def _write_all(stream: IO[bytes], text: str, path: Path) -> None:
    rest = memoryview(text.encode("utf-8", "replace"))
    try:
        while rest:
            rest = rest[stream.write(rest) :]
    except OSError as error:
        raise describe_os_error(error, path) from error


def _plain(value: Any) -> Any:
    """A value that JSON has; numpy and torch scalars are asked for their number without importing either."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _number(value: Any, otherwise: float) -> float:
    return value if isinstance(value, int | float) else otherwise
