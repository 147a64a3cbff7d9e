"""kill -9 anywhere in training: resume works, loses at most one interval, and ends bit-identical.

Each run happens in a forked child that kills itself at the n-th of the places below: between the passes, inside
checkpoint writes, between write and rename, in the sample grid, at a log line.
"""

import os
import random
import signal
import sys

import pytest
import torch
from t2i.training.state import TrainingState

from t2i.config import validate
from t2i.models import get_architecture, list_architectures
from t2i.tensors import load_tensors
from t2i.training import loop
from t2i.training.checkpoint import list_checkpoints
from t2i.training.loop import train
from t2i.training.run import Run

CPU = torch.device("cpu")
ENCODER = {"vocabulary": 300, "width": 16, "layers": 1, "heads": 2, "feed_forward": 32}
PLACES = (
    (TrainingState, "accumulate"), (TrainingState, "update"), (TrainingState, "average"), (os, "fsync"),
    (os, "rename"), (os, "replace"), (loop.Preview, "save"), (loop.MetricsLog, "append"), (loop, "draw_losses"),
)  # fmt: skip
INTERVAL = 16  # pictures between checkpoints


def settings(arch, trained_text):
    architecture = get_architecture(arch)
    stages = [{"resolution": 8, "share": 0.4}, {"resolution": 16, "share": 0.6}] if architecture.grows else []
    changes = {"text_encoder": "transformer", "encoder": ENCODER} if trained_text else {}
    return validate(
        {**architecture.defaults, "arch": arch, "batch": 8, "accumulate": 2, "penalty_every": 2, "kimg": 0.048,
         "log_kimg": 0.008, "snapshot_kimg": INTERVAL / 1000, "growing": architecture.grows, "stages": stages,
         "model": architecture.smallest, **changes}
    ).check()  # fmt: skip


def new_run(config, data, root):
    facts = {"name": data.name, "split": data.split, "resolution": data.resolution, "fingerprint": data.fingerprint}
    return Run.create(root, config, facts, "cpu")


def in_a_child(work):
    """Run `work` in a forked process: its exit code, or minus the signal that ended it."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed_at(number, work):
    """`work`, with this process killed at the `number`-th place; without a number, counts the places."""
    count = 0

    def watch(owner, name):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(owner, name, counted)
        return owner, name, original

    watched = [watch(owner, name) for owner, name in PLACES]
    try:
        work()
    finally:
        for owner, name, original in watched:
            setattr(owner, name, original)
    return count


def state_of(run):
    folder = list_checkpoints(run.checkpoints)[-1]
    assert folder.name == "000000048"
    files = {**{f.name: f for f in folder.glob("*.safetensors")}, "model": run.model / "generator/model.safetensors"}
    return {name: load_tensors(file) for name, file in files.items()}


def same_bits(first, second):
    return first.keys() == second.keys() and all(
        first[file].keys() == second[file].keys()
        and all(torch.equal(first[file][name], second[file][name]) for name in first[file])
        for file in first
    )


def check(arch, trained_text, points, data, tmp_path):
    config = settings(arch, trained_text)
    whole = new_run(config, data, tmp_path / "whole")
    places = killed_at(None, lambda: train(config, data, whole, CPU))
    expected = state_of(whole)
    assert places > 50
    chosen = random.Random(f"{arch} {trained_text}").sample(range(1, places + 1), min(points, places))
    for point in chosen:
        run = new_run(config, data, tmp_path / "killed")
        status = in_a_child(lambda: killed_at(point, lambda: train(config, data, run, CPU)))  # noqa: B023
        assert status == -signal.SIGKILL, point
        begun = bool(list_checkpoints(run.checkpoints))  # killed in the very first snapshot: nothing to lose yet
        resumed = in_a_child(lambda: train(config, data, run, CPU, resume=begun, say=quiet))  # noqa: B023
        assert resumed == 0, point
        assert same_bits(state_of(run), expected), point
        strays = [path for path in run.folder.rglob("*") if path.name.endswith((".tmp", ".new"))]
        assert not strays, (point, strays)


def quiet(line):
    assert "damaged" not in line, line


@pytest.mark.parametrize("arch, trained_text", [*((name, False) for name in list_architectures()), ("dfgan", True)])
def test_killed_anywhere_in_training_resumes_bit_identical(arch, trained_text, shapes_data, tmp_path):
    check(arch, trained_text, 3, shapes_data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("arch", list_architectures())
@pytest.mark.parametrize("trained_text", [False, True], ids=["frozen-text", "trained-text"])
def test_killed_at_fifty_places_in_training_resumes_bit_identical(arch, trained_text, shapes_data, tmp_path):
    check(arch, trained_text, 50, shapes_data, tmp_path)


def test_a_killed_run_loses_at_most_one_interval(shapes_data, tmp_path):
    config = settings("dfgan", False)
    run = new_run(config, shapes_data, tmp_path)
    seen = []

    def die_at_40(owner, images_seen, batch):
        if images_seen == 40:
            os.kill(os.getpid(), signal.SIGKILL)

    def work():
        TrainingState.average = die_at_40
        train(config, shapes_data, run, CPU)

    assert in_a_child(work) == -signal.SIGKILL
    train(config, shapes_data, run, CPU, resume=True, say=seen.append)
    assert seen[0].startswith("resumed at 32 images")
