"""The command line: parse, call, print. One file a command; torch is imported inside the commands only."""

import os
import signal
import sys
from typing import Any, NoReturn

import typer

from t2i.cli import demo, generate, info, prepare, sample_grid, train
from t2i.errors import UserError
from t2i.version import __version__

app = typer.Typer(
    name="t2i",
    help="Train small, fast text-to-image GANs on your own captioned pictures, and draw with them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("prepare")(prepare.prepare)
app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("sample-grid")(sample_grid.sample_grid)
app.command("info")(info.info)
app.command("demo")(demo.demo)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True)) -> None:
    if version:
        print(f"t2i {__version__}")
        raise typer.Exit


class Terminated(BaseException):
    """SIGTERM, where no command handles it itself."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """The console script: run a command and exit. What a user can cause ends in one line on stderr.

    Exit codes: 0; 1 where something outside is wrong; 2 for usage; 130 after Ctrl-C; 143 after SIGTERM.
    """
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """`main` without the exit: returns the code."""
    import click

    signal.signal(signal.SIGTERM, _terminate)
    command = typer.main.get_command(app)
    try:
        code: Any = command.main(args=arguments, prog_name="t2i", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 2
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing to say
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", 130)
    except Terminated:
        return _fail("terminated", 143)


def _terminate(signal_number: int, frame: Any) -> NoReturn:
    raise Terminated


def _fail(message: str, code: int) -> int:
    print(f"t2i: {' '.join(message.split())}", file=sys.stderr)
    return code
