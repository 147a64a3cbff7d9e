"""Memory that a training step frees is there for the next one."""

import platform
import subprocess
import sys

import pytest

# A step of 4 x 20 MiB, freed at its end: pages that the system had to find, in ten of them after the first two.
STEPS = """
import resource, torch
from t2i.training.memory import keep_freed_memory
torch.set_num_threads(1)
{first}
for step in range(12):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(5 * 2**20) for _ in range(4)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_a_step_takes_what_the_one_before_it_freed():
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", STEPS.format(first=first)], check=True, capture_output=True).stdout)
        for first in ("", "keep_freed_memory()")
    )
    assert kept < 1000 < plain
