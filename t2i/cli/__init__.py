"""The command line: parse, call, print. One file a command; torch is imported inside the commands only."""

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import typer

from t2i.cli import compare, console, demo, evaluate, export, generate, info, prepare, push, sample_grid, train, ui
from t2i.cli.console import Stopped
from t2i.cli.launch import tell_exit
from t2i.errors import UserError, is_out_of_memory
from t2i.files import brief, describe_os_error
from t2i.signals import stop_signals
from t2i.version import __version__

app = typer.Typer(
    name="t2i",
    help="Train small, fast text-to-image GANs on your own captioned images.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("prepare")(prepare.prepare)
app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("sample-grid")(sample_grid.sample_grid)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("export")(export.export)
app.command("info")(info.info)
app.command("demo")(demo.demo)
app.command("ui")(ui.ui)
app.command("push")(push.push)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True)) -> None:
    if version:
        print(f"t2i {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> NoReturn:
    """The console script: run a command and exit. An error that a user can cause is one line on stderr.

    Exit codes: 0; 1 for an error outside t2i; 2 for usage; after a signal 128 plus its number (Ctrl-C: 130).
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process lives
        getattr(sys, name).reconfigure(errors="backslashreplace")  # a file name may be invalid Unicode
    sys.exit(run(arguments))


# Older Typers depend on click, newer ones vendor it: the class is looked up through Typer.
_ClickError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def run(arguments: list[str] | None = None) -> int:
    """`main` without the exit: returns the code."""
    command = typer.main.get_command(app)
    try:
        with _stoppable(), _quiet_libraries():
            code: Any = command.main(args=console.take_arguments(arguments), prog_name="t2i", standalone_mode=False)
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except _ClickError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return 2
        asked = f"{error.ctx.command_path} --help" if getattr(error, "ctx", None) else "t2i --help"
        return _fail(error, f"{error.format_message().rstrip('.')}; see {asked}", error.exit_code)
    except UserError as error:
        return _fail(error, str(error), error.exit_code)
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code != 1:  # 1: how rich reports a broken pipe
            raise  # of a shell's completion
        _abandon_stdout()  # the reader is gone
        return _fail(error, "", 1)
    except OSError as error:
        _abandon_stdout()
        where = error.filename
        message = str(describe_os_error(error, where)) if where else f"output: {error.strerror or error}"
        return _fail(error, message, 1)
    except (MemoryError, RuntimeError, ImportError) as error:
        if not is_out_of_memory(error):
            raise
        message = "out of memory: close other programs, or ask for less at once"
        return _fail(error, message, 1)
    except (KeyboardInterrupt, typer.Abort) as stop:
        return _fail(stop, "stopped by SIGINT", 130)
    except Stopped as stop:
        return _fail(stop, str(stop), 128 + stop.number)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise Stopped, unless a command handles them itself."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
        yield
        return
    before = {number: signal.signal(number, _stop) for number in stop_signals()}
    try:
        with console.no_stop_is_lost():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: Any) -> NoReturn:
    raise Stopped(number)


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Silence the warnings of libraries, unless Python was started with -W: users cannot act on them."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        logging.disable(max(before, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(before)


def _abandon_stdout() -> None:
    """Discard buffered output, which the interpreter would otherwise fail to flush at exit."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: BaseException, message: str, code: int) -> int:
    """Print the message in one line, or have the launcher of this process print it."""
    line = f"t2i: {brief(' '.join(message.split()), 4000)}" if message else ""
    if not tell_exit(error, line, code) and line:
        with contextlib.suppress(OSError):  # a closed terminal
            print(line, file=sys.stderr)
    return code
