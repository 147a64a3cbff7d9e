"""Atomic writes, JSON with and without a hash, and one-line errors."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from t2i.errors import UserError


def describe_os_error(error: OSError, path: Path | str) -> UserError:
    """An error of the operating system as one line, with the free space where the disk is full."""
    path = Path(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = next(p for p in (path, *path.absolute().parents) if p.is_dir())
        free = shutil.disk_usage(folder).free / 2**20
        return UserError(f"{path}: no space left on the disk ({free:.1f} MiB free); free some and run it again")
    return UserError(f"{path}: {error.strerror or error}")


@contextlib.contextmanager
def atomic_write(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on a clean exit it is synced to disk and takes the name `path`.

    On an error the temporary file is removed and an older file stays. The file mode follows the umask.
    Raises UserError, one line, where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        name = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
        # Not mkstemp: its files are private to the owner, and reading the umask changes it for a moment.
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        temporary = name
        # Bytes of a path that are not UTF-8 are lone surrogates in a text; escaped, JSON reads them.
        encoding, errors, newline = (None, None, None) if "b" in mode else ("utf-8", "backslashreplace", "\n")
        with os.fdopen(handle, mode, encoding=encoding, errors=errors, newline=newline) as stream:
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


_SEAL = re.compile(rb'\{\n  "sha256": "([0-9a-f]{64})"')


def write_sealed_json(path: Path | str, value: dict[str, Any]) -> None:
    """Write a JSON object whose first entry, "sha256", is the hash of the file with zeros in place of the hash.

    Raises UserError, one line.
    """
    text = json.dumps({"sha256": "0" * 64, **value}, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")
    digest = hashlib.sha256(text).hexdigest().encode()
    with atomic_write(path) as stream:
        stream.write(text.replace(b"0" * 64, digest, 1))


def read_sealed_json(path: Path | str, what: str = "file") -> dict[str, Any]:
    """Read what write_sealed_json wrote, without "sha256". Raises UserError, one line, if the hash does not match."""
    value = read_json(path, what)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise describe_os_error(error, path) from error
    seal = _SEAL.match(data)
    if not seal:
        raise UserError(f"{path}: damaged, or of another version of t2i (it does not start with its hash)")
    if hashlib.sha256(data.replace(seal[1], b"0" * 64, 1)).hexdigest().encode() != seal[1]:
        raise UserError(f"{path}: damaged (its content does not match its hash)")
    del value["sha256"]
    return value


def sweep(folder: Path | str, pattern: str = ".*.tmp") -> None:
    """Remove the temporary files and folders in `folder` that a killed process left."""
    for path in Path(folder).glob(pattern):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


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
    """fsync a folder, so that renames inside it survive a power cut; no-op on Windows."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def encodable(text: str) -> str:
    """The text without lone surrogates, which undecodable bytes of an argument or a file become: "?" for each."""
    return text.encode("utf-8", "replace").decode()


def first_line(error: BaseException) -> str:
    """An error's text on one line, at most 200 characters; a longer one is cut and ends in "..."."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def brief(name: str, limit: int = 100) -> str:
    """An untrusted text, such as a file name, for printing: controls escaped, at most `limit` characters."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def shell_word(text: Path | str) -> str:
    """A text quoted as one word of a shell, in double quotes where they are safe."""
    text = str(text)
    if sys.platform == "win32":  # whose shells know double quotes alone
        return subprocess.list2cmdline([text])
    if re.fullmatch(r"[\w ,.;:'()/+-]*", text) and " " in text:
        return f'"{text}"'
    return shlex.quote(text)


def check_writable(folder: Path | str) -> None:
    """Make `folder` and write a test file, so that a long job does not fail at its end. Raises UserError, one line."""
    folder = make_folder(folder).absolute()  # "." says nothing to who reads that it is read-only
    try:
        handle, path = tempfile.mkstemp(prefix=".t2i-", dir=folder)
        os.close(handle)
        os.unlink(path)
    except OSError as error:
        raise describe_os_error(error, folder) from error
