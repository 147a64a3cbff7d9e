"""What a folder holds, and who may write into it."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def not_root() -> Iterator[None]:
    """Root, who may write anywhere, is somebody else for the while."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except OSError as error:
        pytest.skip(f"there is nobody else here ({error})")
    try:
        if not os.access(tempfile.gettempdir(), os.X_OK, effective_ids=True):
            pytest.skip("temporary files are root's alone here")
        yield
    finally:
        os.seteuid(0)


def listing(folder: Path) -> dict[str, int]:
    """Every file and folder below, with its size."""
    return {str(p.relative_to(folder)): p.stat().st_size if p.is_file() else -1 for p in sorted(folder.rglob("*"))}
