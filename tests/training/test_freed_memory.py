"""Memory that a training step frees is there for the next one."""

import os
import platform
import subprocess
import sys

import pytest

# Steps of 4 x 20 MiB, freed at their end: pages that the system had to find, once the heap has settled. They are
# small ones (PR_SET_THP_DISABLE), and glibc's thresholds are those that it begins with and else moves by itself.
PLAIN = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
STEPS = """
import ctypes
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
import resource, torch
from t2i.training.memory import keep_freed_memory
torch.set_num_threads(1)
{first}
for step in range(16):
    if step == 6:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(5 * 2**20) for _ in range(4)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_a_step_takes_what_the_one_before_it_freed():
    plain, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", STEPS.format(first=first)], check=True, capture_output=True,
                env={**os.environ, **PLAIN},
            ).stdout
        )
        for first in ("", "keep_freed_memory()")
    )  # fmt: skip
    assert kept < 1000 < plain


PEAK = """
import torch
from t2i.training.memory import memory_gib
large = torch.ones(100 * 2**20)
del large
print(memory_gib(torch.device("cpu")))
"""


@pytest.mark.slow
def test_memory_that_is_said_is_the_most_that_there_was():
    """Between two steps most of it is free."""
    said = subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True).stdout
    assert float(said) > 100 * 4 / 1024 + 0.1
