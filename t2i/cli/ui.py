"""t2i ui: a page to draw and to train on."""

import ipaddress
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from t2i.cli import console
from t2i.cli.options import Device, ModelArgument
from t2i.errors import UsageError, UserError
from t2i.files import first_line

if TYPE_CHECKING:
    from gradio import Blocks

USER = "t2i"  # the name beside --password


def ui(
    model: ModelArgument = None,
    host: Annotated[str, Option(help="Address to listen on; 0.0.0.0 for the whole network.")] = "127.0.0.1",
    port: Annotated[
        int | None, Option(help="Port (default: the first free one from 7860 on).", show_default=False)
    ] = None,
    share: Annotated[bool, Option("--share", help="A public address for three days, through gradio.live.")] = False,
    password: Annotated[
        str | None,
        Option(envvar="T2I_PASSWORD", help=f"Ask for it; the user is {USER}.", show_default=False, show_envvar=True),
    ] = None,
    allow_training: Annotated[
        bool, Option("--allow-training", help="Start and stop trainings too where others reach the page.")
    ] = False,
    open_browser: Annotated[bool, Option("--open/--no-open", help="Open it in the browser.")] = True,
    device: Device = "auto",
) -> None:
    """Open a page to draw from prompts, and to watch, start and stop trainings. On this machine only."""
    open_to_others = share or not _is_loopback(host)
    if allow_training and open_to_others and not password:
        raise UsageError("--allow-training needs a --password: others can reach this page and would use your machine")
    if port is not None and not 1 <= port <= 65535:
        raise UsageError("--port lies between 1 and 65,535")
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(f"the page needs Gradio ({first_line(error)}): pip install 't2i[ui]'") from error
    from t2i.device import pick_device
    from t2i.ui import page
    from t2i.ui.drawing import Models
    from t2i.ui.watching import Trainings

    pick_device(device)
    first = None if model is None else str(model)
    with tempfile.TemporaryDirectory(prefix="t2i-ui-", ignore_cleanup_errors=True) as files:
        os.environ["GRADIO_TEMP_DIR"] = os.path.join(files, "served")  # its copies go with ours
        models = Models(device, Path(files), any_folder=not open_to_others, first=first)
        models.load(models.names()[0])  # a wrong one shows now
        app = page.build(models, Trainings(), training_allowed=allow_training or not open_to_others)
        _serve(app, host, port, share, password, open_browser)


def _serve(app: "Blocks", host: str, port: int | None, share: bool, password: str | None, open_browser: bool) -> None:
    """Until a signal ends it. Raises UserError, one line, where the address is taken."""
    from t2i.ui import page

    try:
        _, address, public = app.launch(
            server_name=host, server_port=port, share=share, auth=(USER, password) if password else None,
            inbrowser=open_browser, quiet=True, prevent_thread_lock=True, ssr_mode=False, show_error=True,
            theme=page.THEME, css=page.CSS, footer_links=[],
        )  # fmt: skip
    except OSError as error:
        taken = f"{host}:{port} is taken, or not an address of this machine" if port else first_line(error)
        raise UserError(f"no page: {taken}; choose with --host and --port") from error
    console.say(f"t2i ui: {address}" + (f" and {public}" if public else "") + "; Ctrl-C ends it")
    app.block_thread()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
