"""Printing: results go to stdout, bars and warnings to stderr."""

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from t2i.files import brief
from t2i.prompts import still_growing

if TYPE_CHECKING:
    from t2i.pipeline import TextToImagePipeline

# No markup and no emoji codes: prompts and paths are printed as they are.
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(highlight=False, soft_wrap=True, emoji=False, stderr=True)

LISTED = ("--models", "--weights")  # options that take every word up to the next option
NEWEST = "@newest"  # stands for the value of an option that was given without one


class Stopped(BaseException):
    """Raised by SIGINT, SIGTERM or SIGHUP, `number`. hint: what the user may do next."""

    def __init__(self, number: int, hint: str = ""):
        self.number, self.hint = number, hint

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}{self.hint and '; '}{self.hint}"


@contextmanager
def no_stop_is_lost(again: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Send a signal again whose Stopped Python swallowed; `again` is called before, in the main thread.

    An exception that a signal handler raises in a destructor, or in a weak reference's callback (the import system has
    one), is passed to sys.unraisablehook, which may not raise either.
    """

    def send_again(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Stopped):
            return before(unraisable)
        again()
        main, number = threading.main_thread().ident, unraisable.exc_value.number
        if hasattr(signal, "pthread_kill"):
            threading.Timer(0.01, signal.pthread_kill, (main, number)).start()
        else:  # Windows, where any thread's signal is handled in the main one
            threading.Timer(0.01, signal.raise_signal, (number,)).start()

    before, sys.unraisablehook = sys.unraisablehook, send_again
    try:
        yield
    finally:
        sys.unraisablehook = before


def say(line: str) -> None:
    """Print a line without markup."""
    out.print(line, markup=False)


def warn(line: str) -> None:
    """A warning, one line on stderr."""
    err.print(f"t2i: warning: {line}", markup=False)


def print_json(value: Any) -> None:
    """Print JSON on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def table(title: str, rows: dict[str, Any]) -> None:
    """Print names and values, one a row."""
    say(title)
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        for number, line in enumerate(str(value).splitlines() or [""]):  # an image's text may hold anything
            say(brief(f"{'' if number else name:<{width}}  {line}".rstrip(), 10_000))


@contextmanager
def stages(quiet: bool = False) -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress callback (stage, done, total): a bar in a terminal, else a line every tenth of a stage.

    quiet: no lines, as stdout is for a report.
    """
    if not err.is_terminal:
        last: dict[str, int] = {}

        def line(stage: str, done: int, total: int | None) -> None:
            tenth = done * 10 // total if total else 0
            if total and last.get(stage) != tenth and not quiet:
                last[stage] = tenth
                print(f"{stage}: {done:,} of {total:,}", flush=True)

        yield line
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def move(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield move


def silence() -> None:
    """Print nothing on stdout: rank 0 of the run does."""
    out.quiet = True


_given: list[str] = []


def arguments() -> list[str]:
    """The command line, without the name of the program."""
    return list(_given)


def take_arguments(given: list[str] | None) -> list[str]:
    """Remember the command line. Typer has neither optional values nor options of several: `--resume` alone becomes
    `--resume @newest`, and `--models A B` becomes `--models A --models B`, up to the next option."""
    _given[:] = sys.argv[1:] if given is None else given
    whole: list[str] = []
    listed = ""  # the option whose values these are
    for number, argument in enumerate(_given):
        if argument.startswith("-"):
            listed = argument if argument in LISTED else ""
        elif listed and whole[-1] != listed:
            whole.append(listed)
        whole.append(argument)
        if argument == "--resume" and (number + 1 == len(_given) or _given[number + 1].startswith("-")):
            whole.append(NEWEST)
    return whole


def load_pipeline(
    model: Path | None,
    device: str,
    quiet: bool = False,
    choose: str = "choose another with --model",
    text_encoder: Path | None = None,
) -> "TextToImagePipeline":
    """The named model, else the newest run's, else the built-in model; prints which one, and how to `choose`."""
    from t2i.models.find import BUILT_IN
    from t2i.pipeline import TextToImagePipeline
    from t2i.training.run import default_model

    if model is None:
        model = default_model()
        built_in = f"{BUILT_IN.name} (built in; no run here has a model"
        which = built_in if model == BUILT_IN else f"{model} (the newest run"
        if not quiet:
            say(f"model: {which}; {choose})")
    pipe = TextToImagePipeline.from_pretrained(model, device, text_encoder)
    if growing := still_growing(pipe):
        warn(f"{growing}; t2i train --resume continues")
    return pipe
