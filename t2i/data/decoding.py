"""Decoding images in worker processes, in order, with memory that stays flat.

Not by concurrent.futures: its workers share their pipes and locks, and one that is killed in the middle of an answer,
or while another one starts, leaves the rest waiting for ever. Here each worker has a pipe and a thread of its own.
"""

import collections
import contextlib
import itertools
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from t2i.data.records import PLAIN, Framing, ImageError, ImageLocator, Record, Skip
from t2i.errors import UserError
from t2i.signals import stop_signals

TASK = 16  # images a worker decodes per task


@dataclass(frozen=True, slots=True)
class Decoded:
    """pixels: uint8 [R, R, C]. size: the image's own (width, height) in px; None for what is drawn."""

    pixels: np.ndarray
    size: tuple[int, int] | None = None


_Task = tuple[Future, list[Any], int, Framing]


class Decoders:
    """Processes that decode, started as tasks come in; 0 workers: one a core. A context manager.

    After an exception in the block no process is left, at once, whatever it was doing.
    """

    def __init__(self, workers: int):
        self.workers = workers or os.cpu_count() or 1
        # A server that has imported only NumPy and Pillow forks the workers: they start fast and inherit no threads.
        method = "forkserver" if _can_serve() else "spawn"
        self._context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload(["t2i.data.located", "t2i.data.decoding"])
        self._processes: list[Any] = []
        self._threads: list[threading.Thread] = []
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()

    def __enter__(self) -> "Decoders":
        return self

    def submit(self, images: list[Any], resolution: int, framing: Framing = PLAIN) -> Future:
        """The images decoded: a Decoded or a ImageError for each. Tasks are begun in the order they come in."""
        future: Future = Future()
        self._tasks.put((future, images, resolution, framing))
        if len(self._processes) < self.workers:
            with signals_wait():  # a process that is left half started ends in a traceback
                self._start()
        return future

    def _start(self) -> None:
        if self._context.get_start_method() == "forkserver":
            _start_server()
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()  # with the worker's death its end is closed for good: that is how it is noticed
        self._processes.append(process)
        self._threads.append(threading.Thread(target=_serve, args=(ours, self._tasks), daemon=True))
        self._threads[-1].start()

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            for process in self._processes:
                process.kill()
        for _ in self._threads:
            self._tasks.put(None)
        for each in (*self._threads, *self._processes):
            each.join()


def _serve(connection: Connection, tasks: "queue.SimpleQueue[_Task | None]") -> None:
    """A thread for each worker: hands it one task after the other."""
    with connection:
        while task := tasks.get():
            future, *work = task
            try:
                connection.send(work)
                answer = connection.recv()
            except (EOFError, OSError) as error:
                future.set_exception(error)
                return
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _work(connection: Connection) -> None:
    """A worker's life: tasks in, images out, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            images, resolution, framing = connection.recv()
            answer: Any
            try:
                answer = [_load(image, resolution, framing) for image in images]
            except UserError as error:
                answer = error
            except Exception as error:  # no user can cause it, and not every exception can be sent
                answer = RuntimeError(f"{type(error).__name__} in a decoding process: {error}")
            connection.send(answer)


def _load(image: Any, resolution: int, framing: Framing) -> Decoded | ImageError:
    try:
        if isinstance(image, ImageError):  # it could not even be fetched
            return image
        if hasattr(image, "framed"):  # isinstance with a protocol takes 0.1 ms
            return Decoded(*image.framed(resolution, framing))
        return Decoded(image.load(resolution))
    except ImageError as error:
        return error


def _fetched(image: ImageLocator) -> ImageLocator | ImageError:
    """The image of a FetchedLocator with its bytes, any other as it is."""
    return image.fetch() if hasattr(image, "fetch") else image


def _end_with_parent() -> None:
    """In the middle of a task, too: it may be long."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def decode(
    pool: Decoders, entries: Iterable[Record | Skip], resolution: int, framing: Framing = PLAIN
) -> Iterator[tuple[Record | Skip, Decoded | None]]:
    """Entries with their images, in order; a bounded number of tasks is under way, so memory stays flat."""
    pending: collections.deque[tuple[list[Record | Skip], Future]] = collections.deque()
    iterator = iter(entries)
    tasks = iter(lambda: list(itertools.islice(iterator, TASK)), [])
    while True:
        while len(pending) < 4 * pool.workers and (task := next(tasks, None)):
            images = [_fetched(entry.image) for entry in task if isinstance(entry, Record)]
            pending.append((task, pool.submit(images, resolution, framing)))
        if not pending:
            return
        task, future = pending.popleft()
        try:
            loaded = iter(future.result())
        except (EOFError, OSError) as error:
            time.sleep(0.5)  # SIGTERM to the whole group: let the one to this process come first
            raise UserError(
                "a decoding process died (out of memory, or killed); run it again to go on, with fewer --workers"
            ) from error
        for entry in task:
            if isinstance(entry, Skip):
                yield entry, None
            elif isinstance(result := next(loaded), ImageError):
                yield Skip(entry.key, result.reason, result.detail), None
            else:
                yield entry, result


# ---- signals --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP wait for the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread is ever interrupted
        yield
        return
    caught: list[int] = []
    before = {n: signal.signal(n, lambda n, _: caught.append(n)) for n in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in dict.fromkeys(caught):
            signal.raise_signal(number)


def _can_serve() -> bool:
    """Is there a server that forks, and is the path of its socket, below TMPDIR, one that the system takes?"""
    longest = len(os.fsencode(tempfile.gettempdir())) + len("/pymp-12345678/listener-12345678")
    return "forkserver" in multiprocessing.get_all_start_methods() and longest < 100  # 108 on Linux, 104 on macOS


def _start_server() -> None:
    """Start the server that forks the workers, if it does not run yet.

    It and they are deaf to Ctrl-C from their first moment: blocked here for the while, the signal is blocked in them
    for good, and not lost to this process.
    """
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # before, as it unblocks the signal at its end
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
