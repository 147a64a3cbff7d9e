"""Runs a t2i command in a process that may take so many MiB more than it has after importing torch.

python memory_driver.py MIB ARGUMENT ...

What is imported on the way is imported before: an interpreter that is starved within an import may end in any way.
"""

import resource
import sys
from pathlib import Path

import matplotlib.backends.backend_agg  # noqa: F401
import torch

import t2i.training.loop  # noqa: F401
from t2i.cli import run

torch.set_num_threads(1)
torch.optim.Adam([torch.zeros(1, requires_grad=True)])
has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = has + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(run(sys.argv[2:]))
