"""Writing files so that they are whole or absent, and hashing them."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from t2i.errors import UserError


def describe_os_error(error: OSError, path: Path | str) -> UserError:
    """One line for what the operating system refused, with the free space where the disk is full."""
    path = Path(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = next(p for p in (path, *path.absolute().parents) if p.is_dir())
        free = shutil.disk_usage(folder).free / 2**20
        return UserError(f"{path}: no space left on the disk ({free:.1f} MiB free); free some and run it again")
    return UserError(f"{path}: {error.strerror or error}")


@contextlib.contextmanager
def atomic_write(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on a clean exit it is synced to disk and takes the name `path`.

    On an error nothing is left behind and a file that was there before is untouched. File mode follows the umask.
    Raises UserError, one line, where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.fchmod(handle, 0o666 & ~_umask())
        with os.fdopen(handle, mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": "\n"})) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise describe_os_error(error, path) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON, atomically. Raises UserError."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with atomic_write(path, "w") as stream:
        stream.write(text)


def read_json(path: Path | str, what: str = "file") -> dict[str, Any]:
    """Read a JSON object. Raises UserError, one line, where the file is absent or is no JSON object."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise describe_os_error(error, path) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: this {what} is not valid JSON ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: this {what} holds no JSON object")
    return value


def make_folder(path: Path | str) -> Path:
    """mkdir -p. Raises UserError, one line."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise describe_os_error(error, path) from error
    return path


def sha256(path: Path | str) -> str:
    """The file's SHA-256, as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_folder(path: Path | str) -> None:
    """fsync a folder, so that renames inside it survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def first_line(error: BaseException) -> str:
    """An error's text on one line, cut at 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_writable(folder: Path | str) -> None:
    """Make `folder` and try a file in it, so that a long job does not fail at its end. Raises UserError, one line."""
    folder = make_folder(folder)
    try:
        handle, path = tempfile.mkstemp(prefix=".t2i-", dir=folder)
        os.close(handle)
        os.unlink(path)
    except OSError as error:
        raise describe_os_error(error, folder) from error
