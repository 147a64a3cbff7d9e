"""Decoding pictures in worker processes, in order, with memory that stays flat."""

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from t2i.data.records import PictureError, Record, Skip
from t2i.errors import UserError

TASK = 16  # pictures a worker decodes per task


def decoders(workers: int) -> AbstractContextManager[ProcessPoolExecutor]:
    """A pool of decoding processes; 0 workers: one a core."""
    workers = workers or os.cpu_count() or 1
    # A server that has imported only NumPy and Pillow forks the workers: they start fast and inherit no threads.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["t2i.data.images"])
    return ProcessPoolExecutor(workers, context, initializer=_start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker waits for tasks from a pipe that its siblings hold open too: a killed parent would leave it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def decode(
    pool: ProcessPoolExecutor, entries: Iterable[Record | Skip], resolution: int, workers: int
) -> Iterator[tuple[Record | Skip, np.ndarray | None]]:
    """Entries with their pictures, in order; a bounded number of tasks is under way, so memory stays flat."""
    pending: collections.deque[tuple[list[Record | Skip], Future]] = collections.deque()
    tasks = iter(lambda: list(itertools.islice(iterator, TASK)), [])
    iterator = iter(entries)
    ahead = 4 * (workers or os.cpu_count() or 1)
    try:
        while True:
            while len(pending) < ahead and (task := next(tasks, None)):
                pictures = [entry.picture for entry in task if isinstance(entry, Record)]
                pending.append((task, pool.submit(_load, pictures, resolution)))
            if not pending:
                return
            task, future = pending.popleft()
            loaded = iter(future.result())
            for entry in task:
                if isinstance(entry, Skip):
                    yield entry, None
                elif isinstance(result := next(loaded), PictureError):
                    yield Skip(entry.key, result.reason, result.detail), None
                else:
                    yield entry, result
    except BrokenProcessPool as error:
        raise UserError(
            "a decoding process died (out of memory, or killed); run it again to go on, with fewer --workers"
        ) from error


def _load(pictures: list[Any], resolution: int) -> list[np.ndarray | PictureError]:
    out: list[np.ndarray | PictureError] = []
    for picture in pictures:
        try:
            out.append(picture.load(resolution))
        except PictureError as error:
            out.append(error)
    return out
