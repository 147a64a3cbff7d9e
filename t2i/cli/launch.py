"""`t2i train --gpus N`: starts the processes of a run on this machine, and speaks for them.

What torchrun does for one machine, so that the user has one process before them: an error of the others is one line
with its exit code, Ctrl-C stops all at the same step, a second one ends them at once. Each process has a pipe to tell
what it began and why it ends. One that ends without a word (a signal, a traceback) is why all are started again, from
the newest checkpoint.
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
PATIENCE = 30.0  # seconds for the others to end where one is dead
# In the environment: where a process tells, the run that an earlier start began, and when the first was
# (time.monotonic(), which a machine's processes share).
PIPE, BEGUN, SINCE = "T2I_LAUNCHER_PIPE", "T2I_BEGUN", "T2I_SINCE"


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run t2i with `arguments` in so many processes. Returns the exit code.

    Raises Stopped after a signal, and UserError, one line, where they die again and again.
    """
    if os.name == "nt":
        raise UsageError("--gpus does not work on Windows; start the processes with torchrun")

    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # where they meet
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    share = str(max(1, (os.cpu_count() or 1) // processes))
    environment = {"OMP_NUM_THREADS": share, **os.environ, **place, "WORLD_SIZE": str(processes)}
    environment[SINCE] = str(time.monotonic())
    sys.stdout.flush()
    for start in range(1 + RESTARTS):
        group = _Group(processes, arguments, {**environment, "TORCHELASTIC_RESTART_COUNT": str(start)})
        died = group.wait()
        told = group.told()
        if died is None:
            return 0
        if final := next((note for note in told if note.get("final")), None):
            if final["line"]:
                print(final["line"], file=sys.stderr)
            return final["code"]
        run = next((note["run"] for note in told if "run" in note), environment.get(BEGUN))
        goes_on = f"t2i train --resume {shell_word(run)}" if run else ""
        if group.caught:
            raise Stopped(group.caught[0], goes_on and f"go on with: {goes_on}")
        if stopped := next((note for note in told if note.get("hint")), None):  # one of them had a signal of its own
            raise Stopped(stopped["code"] - 128, stopped["hint"])
        if start < RESTARTS:
            if run:
                environment[BEGUN] = run
            console.warn(f"{died}; all start again from the newest checkpoint ({start + 1} of {RESTARTS})")
    raise UserError(f"{died}, for the {1 + RESTARTS}th time" + (goes_on and f"; go on with: {goes_on}"))


class _Group:
    """The processes of one start, each in a session of its own: a terminal's Ctrl-C is sent on once, from here."""

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
        if self.caught:  # while they were started
            self._send(signal.SIGTERM)

    def _stop(self, number: int, frame: Any) -> None:
        """The first signal is sent on, as SIGTERM: a process that is just starting ends by it without a word."""
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
        """Until all have ended; what became of the one that died first, None where all have done what they should."""
        died, said, until = None, False, float("inf")
        while any(process.poll() is None for process in self.processes):
            if self.caught and not said:
                said = True
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
        """What became of a process that has ended as it should not: of one that a signal ended, where there is one."""
        codes = {rank: code for rank, process in enumerate(self.processes) if (code := process.poll())}
        for rank, code in sorted(codes.items(), key=lambda item: (item[1] > 0, item[0])):
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else "failed"
            return f"process {rank} of the run {how}"
        return None

    def told(self) -> list[dict[str, Any]]:
        """What the processes told, by rank."""
        notes: list[dict[str, Any]] = []
        for process, pipe in zip(self.processes, self.pipes):
            assert process.stdin is not None
            process.stdin.close()
            lines = b""
            with contextlib.suppress(BlockingIOError):  # it told nothing, and something that it started still could
                lines = os.read(pipe, 2**20)
            os.close(pipe)
            for line in lines.splitlines():
                with contextlib.suppress(ValueError):  # killed in the middle of it
                    notes.append(json.loads(line))
        return notes


# ---- in a process of a launched run ----------------------------------------------------------------------------


def tell(note: dict[str, Any]) -> bool:
    """Tell the launcher; False where nobody launched this process."""
    if PIPE not in os.environ or "RANK" not in os.environ:
        return False
    with contextlib.suppress(OSError):  # it is gone
        os.write(int(os.environ[PIPE]), json.dumps(note).encode() + b"\n")
    return True


def tell_the_end(error: BaseException, line: str, code: int) -> bool:
    """Let the launcher say why this process ends; False where nobody launched it."""
    if isinstance(error, LostContact):  # another one tells more, or they start again
        return tell({})
    if isinstance(error, Stopped | KeyboardInterrupt):
        return tell({"hint": getattr(error, "hint", ""), "code": code})
    return tell({"line": line, "code": code, "final": True})


def begun_before() -> Path | None:
    """The run that this job began at an earlier start."""
    return Path(os.environ[BEGUN]) if PIPE in os.environ and BEGUN in os.environ else None


def seconds_gone() -> float:
    """Since the launcher's first start, where it began a run; 0 at that start, and without a launcher."""
    return max(0.0, time.monotonic() - float(os.environ[SINCE])) if begun_before() and SINCE in os.environ else 0.0


def end_with_launcher() -> None:
    """Have a launcher that is killed stop this process as SIGTERM does: its end of stdin closes."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    if PIPE in os.environ and "RANK" in os.environ:
        threading.Thread(target=watch, daemon=True).start()
