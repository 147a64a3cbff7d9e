"""How many threads a CPU trains with: fewer than it has cores where other programs keep some of these busy.

torch cuts each operation into as many equal parts as there are threads, and waits for the last one. A core that another
program shares then holds all of them up, thousands of times a step: two threads beside one busy core train at half to a
fiftieth of the speed of one thread. So a run measures now and then what each number of threads would give.
"""

import os
import time
from collections import deque
from collections.abc import Callable

import torch
import torch.nn.functional as F

CALM, DOUBT = 10.0, 1.0  # seconds between looks: where the threads are right, and where they may not be
SHARE = 0.02  # of the time may go into looks where the threads are right
LOOKS, FEWER = 6, 3  # all of the last 6 looks must say so for more threads, 3 of the last 4 for fewer
GAIN = 1.1  # times as fast as now, to be worth a change
TURNS, LONG = 5, 0.004  # of each number of threads in a look, and the seconds of a turn at least


class ThreadWatch:
    """Sets torch's threads of the calling thread to what trains fastest; `tick` once a step.

    A number of threads that the user chose stands: by OMP_NUM_THREADS, or by torch.set_num_threads(1). Rounding depends
    on it, so nothing changes without evidence of some seconds: on a machine with nothing else to do never.

    say: takes a line for the user.
    """

    def __init__(self, say: Callable[[str], None]):
        self.say = say
        self.most = torch.get_num_threads()
        self.threads = self.most
        chosen = any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
        self.counts = [self.most] if chosen else counts_to_try(self.most)
        self.looks: deque[int] = deque(maxlen=LOOKS)  # the number of threads that the last looks found best
        self.next = time.monotonic() + 2 * DOUBT

    def tick(self) -> None:
        """Look, where it is time to, and change the number of threads where the last looks say so."""
        if len(self.counts) > 1 and time.monotonic() >= self.next:
            started = time.monotonic()
            self.take_in(measure(self.counts))
            torch.set_num_threads(self.threads)
            now = time.monotonic()
            doubt = any(best != self.threads for best in self.looks)
            self.next = now + (DOUBT if doubt else max(CALM, (now - started) / SHARE))

    def take_in(self, seconds: dict[int, float]) -> None:
        """seconds: what a piece of work took with each number of threads."""
        best = min(seconds, key=seconds.__getitem__)
        self.looks.append(best if seconds[self.threads] >= GAIN * seconds[best] else self.threads)
        fewer = sorted(best for best in list(self.looks)[-4:] if best < self.threads)
        if len(fewer) >= FEWER:
            self.change(fewer[len(fewer) // 2])
        elif len(self.looks) == LOOKS and min(self.looks) > self.threads:
            self.change(min(self.looks))

    def change(self, threads: int) -> None:
        self.threads = threads
        self.looks.clear()
        why = "cores are free again" if threads == self.most else "more would wait for busy cores"
        self.say(f"training with {threads} of {self.most} threads: {why}")

    def close(self) -> None:
        """Back to the number of threads there was."""
        torch.set_num_threads(self.most)


def counts_to_try(most: int) -> list[int]:
    """All threads, all but one, and halves of them down to 1."""
    counts = {most, max(1, most - 1)}
    while most > 1:
        most //= 2
        counts.add(most)
    return sorted(counts, reverse=True)


@torch.inference_mode()
def measure(counts: list[int]) -> dict[int, float]:
    """Mean seconds of two small operations, a tenth of a millisecond for each of the most threads, by each count."""
    maps, weight = torch.ones(4 * max(counts), 32, 16, 16), torch.ones(32, 32, 3, 3)

    def work() -> None:
        F.leaky_relu(F.conv2d(maps, weight, padding=1), 0.2)

    times, works = dict.fromkeys(counts, 0.0), dict.fromkeys(counts, 0)
    for _ in range(TURNS):  # of all in turn: where a thread waits it may do so for a while
        for count in counts:
            torch.set_num_threads(count)
            work()  # threads start, and oneDNN makes its plan
            until = times[count] + LONG
            while times[count] < until:
                started = time.perf_counter()
                work()
                times[count] += time.perf_counter() - started
                works[count] += 1
    return {count: times[count] / works[count] for count in counts}
