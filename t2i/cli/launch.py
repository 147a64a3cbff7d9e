"""`t2i train --gpus N`: the launcher of a run's processes on this machine.

It does what torchrun does for one machine, as one process for the user. An error in any process is one line with its
exit code; Ctrl-C stops all at the same step, a second Ctrl-C kills them. Each process has a pipe for messages: the run
that it began, and why it ends. If one dies without a message (a signal, a traceback), all start again from the newest
checkpoint.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2i.cli import console
from t2i.cli.console import Stopped
from t2i.errors import LostContact, UsageError, UserError
from t2i.files import shell_word
from t2i.signals import comes_twice, stop_signals

RESTARTS = 3
PATIENCE = 30.0  # seconds that the others have to end after one died
# Environment variables: the file descriptor for messages, the run that an earlier start began, and the time of the
# first start (time.monotonic(), which the processes of a machine share).
PIPE, BEGUN, SINCE = "T2I_LAUNCHER_PIPE", "T2I_BEGUN", "T2I_SINCE"


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run t2i with `arguments` in `processes` processes. Returns the exit code.

    Raises Stopped after a signal, and UserError, one line, where they die after every restart.
    """
    if os.name == "nt":
        raise UsageError("--gpus does not work on Windows; start the processes with torchrun")

    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # of their process group
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    share = str(max(1, (os.cpu_count() or 1) // processes))
    environment = {"OMP_NUM_THREADS": share, **os.environ, **place, "WORLD_SIZE": str(processes)}
    environment[SINCE] = str(time.monotonic())
    sys.stdout.flush()
    for start in range(1 + RESTARTS):
        group = _Group(processes, arguments, {**environment, "TORCHELASTIC_RESTART_COUNT": str(start)})
        died = group.wait()
        messages = group.messages()
        if died is None:
            return 0
        if final := next((note for note in messages if note.get("final")), None):
            if final["line"]:
                print(final["line"], file=sys.stderr)
            return final["code"]
        run = next((note["run"] for note in messages if "run" in note), environment.get(BEGUN))
        goes_on = f"t2i train --resume {shell_word(run)}" if run else ""
        if group.caught:
            raise Stopped(group.caught[0], goes_on and f"go on with: {goes_on}")
        if stopped := next((note for note in messages if note.get("hint")), None):  # one process got a signal
            raise Stopped(stopped["code"] - 128, stopped["hint"])
        if start < RESTARTS:
            if run:
                environment[BEGUN] = run
            console.warn(f"{died}; all start again from the newest checkpoint ({start + 1} of {RESTARTS})")
    raise UserError(f"{died}, for the {1 + RESTARTS}th time" + (goes_on and f"; go on with: {goes_on}"))


class _Group:
    """The processes of one start, each in its own session: a terminal's Ctrl-C is forwarded once, from here."""

    def __init__(self, processes: int, arguments: Sequence[str], environment: dict[str, str]):
        self.caught: list[int] = []
        self.processes: list[subprocess.Popen] = []
        self.pipes: list[int] = []
        self.before = {number: signal.signal(number, self._stop) for number in stop_signals()}
        for rank in range(processes):
            pipe, end = os.pipe()
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), PIPE: str(end)}
            command = [sys.executable, "-m", "t2i", *arguments]
            self.processes.append(
                subprocess.Popen(
                    command, env={**environment, **own}, stdin=subprocess.PIPE, pass_fds=[end], start_new_session=True
                )
            )
            os.close(end)
            os.set_blocking(pipe, False)
            self.pipes.append(pipe)
        if self.caught:  # while the processes were started
            self._send(signal.SIGTERM)

    def _stop(self, number: int, frame: Any) -> None:
        """Forward the first signal as SIGTERM, which ends a process that is just starting without a traceback."""
        self.caught.append(number)
        first = len(self.caught) == 1
        if first or not comes_twice(number):
            self._send(signal.SIGTERM if first else signal.SIGKILL)

    def _send(self, number: int) -> None:
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def wait(self) -> str | None:
        """Wait for all to end. Returns how the first dead process ended; None where none failed."""
        died, announced, until = None, False, float("inf")
        while any(process.poll() is None for process in self.processes):
            if self.caught and not announced:
                announced = True
                with contextlib.suppress(OSError):
                    print("t2i: stopping at the next step; once more to leave at once", file=sys.stderr)
            if not died and (died := self._dead()):
                self._send(signal.SIGTERM)
                until = time.monotonic() + PATIENCE
            if time.monotonic() > until and not self.caught:
                self._send(signal.SIGKILL)
            time.sleep(0.05)
        for number, handler in self.before.items():
            signal.signal(number, handler)
        return died or self._dead()

    def _dead(self) -> str | None:
        """How a failed process ended; one that a signal ended comes before one that exited with an error."""
        codes = {rank: code for rank, process in enumerate(self.processes) if (code := process.poll())}
        for rank, code in sorted(codes.items(), key=lambda item: (item[1] > 0, item[0])):
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else "failed"
            return f"process {rank} of the run {how}"
        return None

    def messages(self) -> list[dict[str, Any]]:
        """The messages of the processes, by rank."""
        found: list[dict[str, Any]] = []
        for process, pipe in zip(self.processes, self.pipes):
            assert process.stdin is not None
            process.stdin.close()
            lines = b""
            with contextlib.suppress(BlockingIOError):  # no message, and a child of the process holds the pipe
                lines = os.read(pipe, 2**20)
            os.close(pipe)
            for line in lines.splitlines():
                with contextlib.suppress(ValueError):  # killed while it wrote
                    found.append(json.loads(line))
        return found


# ---- in a process of a launched run ----------------------------------------------------------------------------


def tell(note: dict[str, Any]) -> bool:
    """Send a message to the launcher; False where none started this process."""
    if PIPE not in os.environ or "RANK" not in os.environ:
        return False
    with contextlib.suppress(OSError):  # the launcher is gone
        os.write(int(os.environ[PIPE]), json.dumps(note).encode() + b"\n")
    return True


def tell_exit(error: BaseException, line: str, code: int) -> bool:
    """Send the launcher the reason why this process ends; False where none started it."""
    if isinstance(error, LostContact):  # another process knows the reason, or all start again
        return tell({})
    if isinstance(error, Stopped | KeyboardInterrupt):
        return tell({"hint": getattr(error, "hint", ""), "code": code})
    return tell({"line": line, "code": code, "final": True})


def begun_before() -> Path | None:
    """The run that an earlier start of this job began."""
    return Path(os.environ[BEGUN]) if PIPE in os.environ and BEGUN in os.environ else None


def seconds_gone() -> float:
    """Seconds since the launcher's first start; 0 at that start, and without a launcher."""
    return max(0.0, time.monotonic() - float(os.environ[SINCE])) if begun_before() and SINCE in os.environ else 0.0


def end_with_launcher() -> None:
    """Send SIGTERM to this process when the launcher dies, which closes the pipe to stdin."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    if PIPE in os.environ and "RANK" in os.environ:
        threading.Thread(target=watch, daemon=True).start()
