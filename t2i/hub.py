"""Models on the Hugging Face hub: ORG/NAME or ORG/NAME@REVISION. JSON and safetensors alone are ever fetched."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from t2i.errors import UsageError, UserError
from t2i.files import brief, first_line

NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
FETCHED = ("*.json", "*.safetensors", "README.md")


def is_hub_name(name: Path | str) -> bool:
    """Whether it has the form of a name on the hub: ORG/NAME, with @REVISION or without."""
    return re.fullmatch(NAME, str(name)) is not None and ".." not in str(name)


def fetch(name: Path | str) -> Path:
    """The folder of a model on the hub, in the hub's cache; what is there already is not fetched again.

    name: ORG/NAME, or ORG/NAME@REVISION, a branch, a tag or a commit. Without a network, or with HF_HUB_OFFLINE=1, what
    is in the cache is taken. Raises UserError, one line.
    """
    match = re.fullmatch(NAME, str(name))
    if match is None:
        raise UsageError(f"{name}: a name on the hub is ORG/NAME, or ORG/NAME@REVISION")
    with _one_line(f"{name}: no such folder here, and not fetched from the Hugging Face hub") as hub:
        from huggingface_hub.errors import LocalEntryNotFoundError

        wanted: dict[str, Any] = {"revision": match["revision"], "allow_patterns": list(FETCHED)}
        try:
            folder = Path(hub.snapshot_download(match["repo"], **wanted))
        except LocalEntryNotFoundError as error:
            why = "HF_HUB_OFFLINE is set" if hub.constants.is_offline_mode() else "it cannot be reached"
            raise UserError(
                f"{name}: no such folder here, and not in the Hugging Face hub's cache either ({why})"
            ) from error
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{name}: this is on the Hugging Face hub, and no model of t2i (it has no model_index.json)")
    return folder


def upload(folder: Path, name: str, private: bool) -> str:
    """Put a folder's files onto the hub as the model ORG/NAME, which is made if it is not there; its address.

    Raises UserError, one line.
    """
    if not is_hub_name(name) or "@" in name:
        raise UsageError(f"{name}: a name on the hub is ORG/NAME")
    with _one_line(f"{name}: not put onto the Hugging Face hub") as hub:
        api = hub.HfApi()
        if not (os.environ.get("HF_TOKEN") or hub.get_token()):
            raise UserError("you are not logged in to the Hugging Face hub: run hf auth login, or set HF_TOKEN")
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model made with t2i")
    return str(address)


@contextmanager
def _one_line(what: str) -> Iterator[Any]:
    """huggingface_hub, whose errors become one line that begins with `what`."""
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars
    except ImportError as error:
        raise UserError("the Hugging Face hub needs huggingface_hub: pip install huggingface_hub") from error
    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield huggingface_hub
    except UserError:
        raise
    except Exception as error:  # its own, httpx's, OSError, ValueError
        raise UserError(f"{what} ({brief(first_line(error), 200)})") from error
