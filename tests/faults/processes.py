"""Looking at processes, and starting many of them soon."""

import contextlib
import os
import sys
import time
from pathlib import Path

import pytest


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that prepare hundreds of data sets: no waiting for the disk (only a power cut could tell), and
    workers that do not import pytest first."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)


def alive(group: int) -> list[str]:
    """Processes of a process group that are not merely waiting to be buried."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(stat.parent.name)
    return found


def left_after(group: int, seconds: float = 600) -> list[str]:
    """The processes of a group that are still there after a while; as soon as there are none, none."""
    end = time.monotonic() + seconds
    while (left := alive(group)) and time.monotonic() < end:
        time.sleep(0.02)
    return left
