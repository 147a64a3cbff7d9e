"""torchrun with real processes over gloo: two ranks equal one, and a killed rank is as if nothing had happened."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from t2i.tensors import load_tensors
from t2i.training.checkpoint import list_checkpoints

SETTINGS = """
snapshot_kimg = 0.016
log_kimg = 0.008
[model]
nf = 4
"""


def environment():
    hidden = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID")
    return {**{k: v for k, v in os.environ.items() if k not in hidden}, "OMP_NUM_THREADS": "1"}


def start(folder, data, *flags, torchrun=(), kimg="0.048"):
    """A training process, or those of torchrun, in `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "run.toml").write_text(SETTINGS)
    command = [*torchrun, "-m", "t2i", "train", str(data), "--batch", "8", "--kimg", kimg, "--seed", "1",
               "--config", "run.toml", "--device", "cpu", *flags]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=environment(), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process, timeout=240):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-3000:]
    return out


def tensors(folder):
    (run,) = (folder / "runs").glob("*-*-*")
    checkpoint = list_checkpoints(run / "checkpoints")[-1]
    return {f"{file.name}: {name}": value for file in sorted(checkpoint.glob("*.safetensors"))
            for name, value in load_tensors(file).items()}  # fmt: skip


@pytest.fixture(scope="module")
def alone(minilm_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    finish(start(folder, minilm_data, kimg="0.016"))
    return folder


def test_two_ranks_equal_one(alone, minilm_data, tmp_path):
    out = finish(start(tmp_path, minilm_data, "--gpus", "2", kimg="0.016"))
    assert out.count("16 images seen") == 1  # one process speaks
    one, two = tensors(alone), tensors(tmp_path)
    assert one.keys() == two.keys()
    for name, value in one.items():
        if not name.startswith("optimizer"):
            # Adam divides by tiny second moments in its first steps, which blows rounding up.
            torch.testing.assert_close(two[name], value, rtol=0, atol=5e-4, msg=name)


def test_a_batch_that_cannot_be_divided_is_one_line(minilm_data, tmp_path):
    process = start(tmp_path, minilm_data, "--gpus", "3")
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "a batch of 8 cannot be divided among 3 processes" in err


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_ends_as_if_nothing_had_happened(minilm_data, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ["-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "2", "--max-restarts", "2",
                "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "job"]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(whole, minilm_data, torchrun=torchrun, kimg="0.8"))
    process = start(killed, minilm_data, torchrun=torchrun, kimg="0.8")
    victim = wait_for_rank(process, killed, rank=1)
    os.kill(victim, signal.SIGKILL)
    out = finish(process)
    assert "resumed at" in out
    first, second = tensors(whole), tensors(killed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not list((killed / "runs").glob(".torchrun-*"))


def wait_for_rank(launcher, folder, rank):
    """The process id of a rank, once the run has a checkpoint past its start."""
    for _ in range(1200):
        assert launcher.poll() is None, launcher.communicate()[1][-2000:]
        with contextlib.suppress(OSError):
            if any(int(c.name) >= 32 for c in (folder / "runs").glob("*/checkpoints/*") if c.name.isdigit()):
                for process in Path("/proc").glob("[0-9]*"):
                    with contextlib.suppress(OSError):
                        variables = (process / "environ").read_bytes().split(b"\0")
                        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                        if parent == launcher.pid and f"RANK={rank}".encode() in variables:
                            return int(process.name)
        time.sleep(0.05)
    raise AssertionError("no checkpoint came")
