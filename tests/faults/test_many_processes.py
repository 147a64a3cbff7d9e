"""torchrun with real processes over gloo: two ranks equal one, and a killed rank is as if nothing had happened."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from short_runs import final_tensors

from t2i.training.checkpoint import list_checkpoints
from t2i.training.distributed import RestartNote
from t2i.training.run import Run

SETTINGS = """
arch = "dfgan"
preset = "small"
run.snapshot_kimg = 0.016
run.log_kimg = 0.008
model.generator.nf = 4
model.discriminator.nf = 4
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


def finish(process, timeout=600):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-3000:]
    return out


def tensors(folder):
    (run,) = (folder / "runs").glob("*-*-*")
    parts = final_tensors(Run(run))
    return {f"{file}: {name}": value for file in parts for name, value in parts[file].items()}


@pytest.fixture(scope="module")
def alone(minilm_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    finish(start(folder, minilm_data, kimg="0.016"))
    return folder


@pytest.mark.slow
def test_two_ranks_equal_one(alone, minilm_data, tmp_path):
    out = finish(start(tmp_path, minilm_data, "--gpus", "2", kimg="0.016"))
    assert out.count("16 images seen") == 1  # one process speaks
    one, two = tensors(alone), tensors(tmp_path)
    assert one.keys() == two.keys()
    # A softmax does not see what is added to all keys: that gradient is rounding, which Adam makes a whole step of.
    rounding = [name for name in one if name.endswith("pooler.key.bias")]
    for name in one.keys() - rounding:
        if not name.startswith("optimizer"):
            # Adam divides by tiny second moments in its first steps, which blows rounding up.
            torch.testing.assert_close(two[name], one[name], rtol=0, atol=5e-4, msg=name)


@pytest.mark.slow
def test_an_error_of_the_processes_is_one_line_of_the_command(minilm_data, tmp_path):
    process = start(tmp_path, minilm_data, "--gpus", "3")
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (2, "")
    divided = "t2i: a batch of 8 cannot be divided among 3 processes and --accumulate 1; choose another --batch\n"
    assert err == divided
    assert not (tmp_path / "runs").exists()

    process = start(tmp_path, minilm_data, "--gpus", "3", "--dry-run")
    assert process.communicate(timeout=600)[1] == divided


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_processes_with_a_checkpoint(minilm_data, tmp_path, number):
    process = start(tmp_path, minilm_data, "--gpus", "2", kimg="1000")
    wait_for_rank(process, tmp_path, rank=1)
    process.send_signal(number)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 128 + number
    assert err.splitlines() == [
        "t2i: stopping at the next step; once more to leave at once",
        f"t2i: stopped by {number.name}; go on with: t2i train --resume runs/00000-dfgan-shapes-train-16",
    ]
    (run,) = (tmp_path / "runs").iterdir()  # nothing that the launcher had to remember
    seen = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["images_seen"]
    assert int(list_checkpoints(run / "checkpoints")[-1].name) >= seen > 0


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once(minilm_data, tmp_path):
    """Where a process hangs: the first waits for it."""
    process = start(tmp_path, minilm_data, "--gpus", "2", kimg="1000")
    hung = wait_for_rank(process, tmp_path, rank=1)
    os.kill(hung, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "t2i: stopping at the next step; once more to leave at once\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    stopped = "t2i: stopped by SIGINT; go on with: t2i train --resume runs/00000-dfgan-shapes-train-16\n"
    assert (process.returncode, err) == (130, stopped)
    assert not Path(f"/proc/{hung}").exists()


@pytest.mark.slow
@pytest.mark.parametrize("twice", [False, True], ids=["to the launcher", "to all, as a batch system does"])
def test_a_signal_to_all_is_one(minilm_data, tmp_path, twice):
    process = start(tmp_path, minilm_data, "--gpus", "2", kimg="1000")
    wait_for_rank(process, tmp_path, rank=1)
    ranks = ranks_of(process, tmp_path).values()
    for pid in [*ranks, process.pid] if twice else [process.pid]:
        os.kill(pid, signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 143
    assert err.endswith("t2i: stopped by SIGTERM; go on with: t2i train --resume runs/00000-dfgan-shapes-train-16\n")
    (run,) = (tmp_path / "runs").iterdir()
    seen = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["images_seen"]
    assert int(list_checkpoints(run / "checkpoints")[-1].name) >= seen > 0


@pytest.mark.slow
def test_a_launcher_that_is_killed_stops_its_processes_with_a_checkpoint(minilm_data, tmp_path):
    process = start(tmp_path, minilm_data, "--gpus", "2", kimg="1000")
    wait_for_rank(process, tmp_path, rank=1)
    ranks = ranks_of(process, tmp_path).values()
    process.kill()
    process.wait(600)
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        time.sleep(0.05)
    (run,) = (tmp_path / "runs").iterdir()
    assert "stopped by SIGTERM" in (run / "log.txt").read_text().splitlines()[-1]


@pytest.mark.slow
def test_who_reads_the_output_may_leave(minilm_data, tmp_path):
    process = start(tmp_path, minilm_data, "--gpus", "2", kimg="1000")
    assert any(" img/s " in line for line in process.stdout)
    process.stdout.close()
    assert process.wait(600) == 128 + signal.SIGPIPE
    stopped = "t2i: stopped by SIGPIPE; go on with: t2i train --resume runs/00000-dfgan-shapes-train-16\n"
    assert process.stderr.read() == stopped


def job(nodes: int, ranks: int) -> list[str]:
    """torchrun's options for so many machines, each with so many ranks: the same on all of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ["-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc-per-node", str(ranks),
            "--max-restarts", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}",
            "--rdzv-id", "job"]  # fmt: skip


def check_same(one, other):
    """Two folders' runs ended with the same bits, and nothing of torchrun is left."""
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not list((other / "runs").glob(".torchrun-*"))


def test_a_job_goes_on_with_its_own_run_only(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "coco 64")
    command = ["train", "data"]
    assert RestartNote(tmp_path, command).begun() is None
    RestartNote(tmp_path, command).write(tmp_path / "00000")
    assert RestartNote(tmp_path, command).begun() == tmp_path / "00000"
    assert RestartNote(tmp_path, [*command, "--batch", "8"]).begun() is None
    (note,) = tmp_path.iterdir()
    for damaged in ("", "[]", "00000", '{"run": 1}'):
        note.write_text(damaged)
        assert RestartNote(tmp_path, command).begun() is None
    RestartNote(tmp_path, command).remove()
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # what a job without --rdzv-id is called
    RestartNote(tmp_path, command).write(tmp_path / "00000")
    assert RestartNote(tmp_path, command).begun() is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert RestartNote(tmp_path, command).begun() == tmp_path / "00000"


@pytest.fixture(scope="module")
def undisturbed(minilm_data, tmp_path_factory) -> Path:
    """The run of two ranks that nobody killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(folder, minilm_data, torchrun=job(1, 2), kimg="0.8"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "--gpus"])
def test_a_killed_rank_is_started_again_and_ends_as_if_nothing_had_happened(
    undisturbed, minilm_data, tmp_path, launcher
):
    if launcher == "torchrun":
        process = start(tmp_path, minilm_data, torchrun=job(1, 2), kimg="0.8")
    else:
        process = start(tmp_path, minilm_data, "--gpus", "2", kimg="0.8")
    os.kill(wait_for_rank(process, tmp_path, rank=1), signal.SIGKILL)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]
    assert "resumed at" in out
    if launcher == "--gpus":
        killed = "process 1 of the run was ended by SIGKILL"
        assert err == f"t2i: warning: {killed}; all start again from the newest checkpoint (1 of 3)\n"
    check_same(undisturbed, tmp_path)


@pytest.mark.slow
def test_processes_that_die_again_and_again_end_in_one_line(minilm_data, tmp_path):
    process = start(tmp_path, minilm_data, "--gpus", "2", kimg="1000")
    for _ in range(4):
        rank = wait_for_rank(process, tmp_path, rank=0)
        os.kill(rank, signal.SIGKILL)
        while Path(f"/proc/{rank}").exists():
            time.sleep(0.05)
    _, err = process.communicate(timeout=600)
    died = "t2i: process 0 of the run was ended by SIGKILL, for the 4th time; go on with: "
    died += "t2i train --resume runs/00000-dfgan-shapes-train-16"
    assert (process.returncode, err.splitlines()[-1]) == (1, died)
    assert err.count("t2i: ") == 4 and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("dies", [False, True], ids=["undisturbed", "one dies"])
def test_two_machines_end_as_one_does(undisturbed, minilm_data, tmp_path, dies):
    """Two torchruns, each with one rank, that find each other by an address; a folder that both see.

    A machine that dies ends the job; the same command on both goes on from the newest checkpoint.
    """
    torchrun = job(2, 1)
    both = [start(tmp_path, minilm_data, torchrun=torchrun, kimg="0.8") for _ in range(2)]
    if dies:
        both.sort(key=lambda launcher: min(ranks_of(launcher, tmp_path)))
        rank = wait_for_rank(both[1], tmp_path, rank=1)
        os.killpg(both[1].pid, signal.SIGKILL)
        os.kill(rank, signal.SIGKILL)
        both[0].terminate()
        assert [launcher.wait(600) != 0 for launcher in both] == [True, True]
        both = [start(tmp_path, minilm_data, torchrun=torchrun, kimg="0.8") for _ in range(2)]
    out = "".join(map(finish, both))
    assert out.count("800 images seen") == 1
    assert ("resumed at" in out) == dies
    check_same(undisturbed, tmp_path)


def wait_for_rank(launcher, folder, rank):
    """The process id of a rank, once the run has a checkpoint past its start."""
    return ranks_of(launcher, folder, rank)[rank]


def ranks_of(launcher, folder, wanted=None) -> dict[int, int]:
    """The ranks that a torchrun started, and their process ids, once the run has a checkpoint past its start."""
    for _ in range(1200):
        assert launcher.poll() is None, launcher.communicate()[1][-2000:]
        with contextlib.suppress(OSError):
            if any(int(c.name) >= 32 for c in (folder / "runs").glob("*/checkpoints/*") if c.name.isdigit()):
                found = {}
                for process in Path("/proc").glob("[0-9]*"):
                    with contextlib.suppress(OSError):
                        variables = (process / "environ").read_bytes().split(b"\0")
                        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                        ranks = [int(v[5:]) for v in variables if v.startswith(b"RANK=")]
                        if parent == launcher.pid and ranks:
                            found[ranks[0]] = int(process.name)
                if found and (wanted is None or wanted in found):
                    return found
        time.sleep(0.05)
    raise AssertionError("no checkpoint came")
