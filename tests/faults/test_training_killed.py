"""kill -9 anywhere in training: resume works, loses at most one interval, and ends bit-identical.

Each run happens in a forked child that kills itself at the n-th of the places below: between the passes, inside
checkpoint writes, between write and rename, in the sample grid, at a log line.
"""

import os
import random
import signal
import sys

import pytest
from short_runs import CPU, SMALL_ENCODER, assert_same_bits, config, final_tensors

from t2i.models import list_architectures
from t2i.models.find import list_snapshots
from t2i.models.folder import load_model
from t2i.training import loop, previews, snapshots
from t2i.training.checkpoint import list_checkpoints
from t2i.training.ema import EMA
from t2i.training.loop import train
from t2i.training.run import Run
from t2i.training.trainer import Trainer

PLACES = (
    (Trainer, "_backward"), (Trainer, "_update"), (EMA, "update"), (os, "fsync"), (os, "rename"), (os, "replace"),
    (os, "unlink"), (previews.Preview, "save"), (loop.MetricsLog, "append"), (snapshots, "draw_losses"),
)  # fmt: skip
INTERVAL = 16  # images between snapshots


def settings(arch, trained_text):
    text = {"text.encoder": "transformer", "text.transformer": {**SMALL_ENCODER, "layers": 1}} if trained_text else {}
    return config(arch, **{"optim.accumulate": 2, "loss.penalty.every": 2, "run.keep_snapshots": 3}, **text)


def new_run(config, data, root):
    return Run.begin(root, config, data, "cpu")


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


def outcome(run):
    """What is left at the end: each snapshot a model, and the tensors of the last."""
    numbers = [int(folder.name) for folder in list_snapshots(run.checkpoints)]
    for folder in list_snapshots(run.checkpoints):
        assert load_model(folder / "model")[1].training["images_seen"] == int(folder.name)
    assert {*numbers} in ({0, 32, 48}, {0, 16, 32, 48})  # killed while it thins out for the last time, it is done
    return final_tensors(run)


def quiet(line):
    assert "damaged" not in line, line


@pytest.mark.slow
@pytest.mark.parametrize("arch", list_architectures())
@pytest.mark.parametrize("trained_text", [False, True], ids=["frozen-text", "trained-text"])
def test_killed_at_fifty_places_in_training_resumes_bit_identical(arch, trained_text, shapes_data, tmp_path, curves):
    """Fifty of an architecture: half of them with each kind of text encoder."""
    config = settings(arch, trained_text)
    whole = new_run(config, shapes_data, tmp_path / "whole")
    places = killed_at(None, lambda: train(config, shapes_data, whole, CPU))
    expected = outcome(whole)
    assert places > 50
    chosen = random.Random(f"{arch} {trained_text}").sample(range(1, places + 1), 25)
    for point in chosen:
        run = new_run(config, shapes_data, tmp_path / "killed")
        status = in_a_child(lambda: killed_at(point, lambda: train(config, shapes_data, run, CPU)))  # noqa: B023
        assert status == -signal.SIGKILL, point
        begun = bool(list_checkpoints(run.checkpoints))  # killed in the very first snapshot: nothing to lose yet
        resumed = in_a_child(lambda: train(config, shapes_data, run, CPU, resume=begun, say=quiet))  # noqa: B023
        assert resumed == 0, point
        assert_same_bits(outcome(run), expected)
        strays = [path for path in run.folder.rglob("*") if path.name.endswith((".tmp", ".new"))]
        assert not strays, (point, strays)


def test_a_killed_run_loses_at_most_one_interval(shapes_data, tmp_path):
    config = settings("dfgan", False)
    run = new_run(config, shapes_data, tmp_path)
    seen = []

    def die_at_40(ema, model, images_seen, batch):
        if images_seen == 40:
            os.kill(os.getpid(), signal.SIGKILL)

    def work():
        EMA.update = die_at_40
        train(config, shapes_data, run, CPU)

    assert in_a_child(work) == -signal.SIGKILL
    train(config, shapes_data, run, CPU, resume=True, say=seen.append)
    assert seen[0].startswith("resumed at 32 images")
