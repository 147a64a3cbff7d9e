"""The memory that a run says it took."""

import subprocess
import sys

import pytest

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
