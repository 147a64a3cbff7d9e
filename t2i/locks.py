"""One process at a time in a folder.

The kernel locks an open file and releases the lock when the process ends in any way, so no lock is ever stale, neither
after a crash nor after a reboot. Over NFS the server does the same between machines.
"""

import contextlib
import errno
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from t2i.errors import UserError
from t2i.files import describe_os_error, make_folder

if sys.platform == "win32":
    import msvcrt

    fcntl = None
else:
    import fcntl

_TAKEN = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
_UNABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# Windows: an exclusive lock takes all of these bytes, a shared one any of them. They lie far behind the text, which
# nobody else could read there if it were locked.
_WINDOWS_START, _WINDOWS_BYTES = 1 << 20, 1024
_PATIENCE = 2.0  # seconds; the last holder of a shared lock removes its file much sooner


@contextlib.contextmanager
def lock(folder: Path | str, what: str, shared: bool = False) -> Iterator[None]:
    """Lock `folder` against other processes, and other calls in this one, while the block runs.

    The lock file, `.<name>.lock`, lies beside the folder, so that the folder may be made, replaced or removed under
    the lock; it is removed at the end of the block. A killed process leaves it there, unlocked, which is harmless.
    what: the kind of process, for the message. shared: other shared locks are allowed at the same time.
    Raises UserError, one line, where another process has the lock. A file system without locks is not locked.
    """
    place = Path(os.path.abspath(folder))
    make_folder(place.parent)
    path = place.with_name(f".{place.name}.lock")
    try:
        handle = _acquire(path, shared)
    except OSError as error:
        raise describe_os_error(error, folder) from error
    if handle is None:
        raise UserError(f"{folder}: another {what} is at work there{_holder(path)}; wait for its end, or stop it")
    try:
        with contextlib.suppress(OSError):  # for the message above
            os.truncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, f"{os.getpid()} {platform.node()}\n".encode())
        yield
    finally:
        # The last holder of a shared lock removes the file: until then no new lock may take its name.
        with contextlib.suppress(OSError):
            if fcntl and _try(handle, shared=False):
                os.unlink(path)
        os.close(handle)
        if not fcntl:
            with contextlib.suppress(OSError):
                os.unlink(path)  # Windows: refused while another process has the file open


def _acquire(path: Path, shared: bool) -> int | None:
    """An open file that holds the lock; None where another process has it.

    A shared request waits a moment: another holder may be ending, and locks exclusively while it removes the file.
    """
    patient_until = time.monotonic() + (_PATIENCE if shared else 0)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _try(handle, shared):
                os.close(handle)
                if time.monotonic() >= patient_until:
                    return None
                time.sleep(0.01)
                continue
            # A file removed between opening and locking has no name, and its lock excludes nobody.
            with contextlib.suppress(FileNotFoundError):
                if not fcntl or os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(handle)
            raise
        os.close(handle)


def _try(handle: int, shared: bool) -> bool:
    """Lock an open file without waiting; False where another process has the lock."""
    try:
        if sys.platform != "win32":
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        else:
            os.lseek(handle, _WINDOWS_START + (os.getpid() % _WINDOWS_BYTES if shared else 0), os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1 if shared else _WINDOWS_BYTES)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno not in _UNABLE:
            raise
    return True


class Holder(NamedTuple):
    """A process of this machine, and since when it has its lock: seconds since 1970, for people to read."""

    pid: int
    since: float


def holder(folder: Path | str) -> Holder | None:
    """The process on this machine that has the lock on `folder`; None where none is at work there."""
    place = Path(os.path.abspath(folder))
    file = place.with_name(f".{place.name}.lock")
    with contextlib.suppress(OSError, ValueError):
        process, host = file.read_text(encoding="utf-8", errors="replace").split()
        if host == platform.node():
            if sys.platform == "win32":  # os.kill would end the process there
                with open(file, "r+b") as probe:
                    if _try(probe.fileno(), shared=False):  # a killed one leaves its file, unlocked
                        return None
            else:
                os.kill(int(process), 0)  # a killed one leaves its file
            return Holder(int(process), file.stat().st_mtime)
    return None


def _holder(path: Path) -> str:
    """ " (process 4711 on host)" as read from the lock file, else ""."""
    with contextlib.suppress(OSError, ValueError):
        process, host = path.read_text(encoding="utf-8", errors="replace").split()
        return f" (process {int(process)} on {host})"
    return ""
