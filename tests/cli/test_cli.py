"""The command line as a user meets it: three lines in an empty folder, files, signals, help."""

import errno
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import reduce
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

from t2i.cli import app, console, launch, run
from t2i.config import FIELDS, option
from t2i.data.prepared import PreparedDataset, find_validation
from t2i.device import mixed_precision
from t2i.signals import stop_signals
from t2i.training import loop
from t2i.version import __version__

PYTHON = [sys.executable, "-m", "t2i"]
TINY = """arch = "dfgan"
preset = "small"
optim.batch = 8
run = { snapshot_kimg = 0.016, log_kimg = 0.008 }
model = { generator.nf = 4, discriminator.nf = 4 }
"""

# The options are a promise: research knobs go into --config, not into new flags.
OPTIONS = {
    "prepare": "--annotations --aspect --background --caption-from --caption-template --captions --channels --coco "
    "--fit --follow-links --fraction --imagefolder --images --json --limit --max-skipped --metadata --min-size --out "
    "--overwrite --parquet --resolution --shapes --shard --shards --split --strict --text-encoder --val-fraction "
    "--workers",
    "train": "--accumulate --amp --arch --batch --begin-with --best-by --checkpoint-minutes --conditioning --config "
    "--device --dry-run --eval-every --gpus --growing --kimg --loss --lr-d --lr-g --minutes --on-nan --out "
    "--patience --penalty --penalty-every --precision --preset --resume --sample-prompts --seed --text-encoder "
    "--threads --weights",
    "generate": "--background --batch --device --json --model --num --out --prompts --seed --seeds --text-encoder "
    "--truncation -o",
    "push": "--half --licence --private",
    "ui": "--allow-training --device --host --open --password --port --share",
    "compare": "--json --out -o",
    "sample-grid": "--cols --device --interpolate --model --models --out --over-time --prompts --rows --seeds "
    "--style-mixing --text-encoder --truncation --truncation-sweep -o",
    "evaluate": "--captions --clip --device --images --inception-weights --json --metrics --out --samples --seed "
    "--text-encoder --train-data --truncation",
    "export": "--format --half --json --out --runtime --text-encoder -o",
    "info": "--json",
    "demo": "--images --minutes --out",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_encoder")


# ---- help, names, start-up -------------------------------------------------------------------------------------


def test_commands_and_options_are_frozen():
    commands = typer.main.get_command(app).commands
    found = {
        name: " ".join(sorted(option for parameter in command.params for option in parameter.opts if option[0] == "-"))
        for name, command in commands.items()
    }
    assert found == OPTIONS


def test_a_setting_is_called_by_its_option_where_it_has_one():
    others = {"--amp", "--config", "--device", "--dry-run", "--gpus", "--out", "--resume", "--weights"}
    assert {name for name in map(option, FIELDS) if name.startswith("--")} == set(OPTIONS["train"].split()) - others


def test_every_option_and_command_has_help():
    for command in typer.main.get_command(app).commands.values():
        assert command.help
        assert all(parameter.help for parameter in command.params)


def test_help_completion_and_version_import_no_heavy_library():
    code = """
import os, sys
from t2i.cli import run
heavy = {"torch", "torchvision", "transformers", "tokenizers", "matplotlib", "numpy", "PIL", "pycocotools"}
assert run(["--help"]) == 0 and run(["train", "--help"]) == 0 and run(["--version"]) == 0 and run([]) == 2
os.environ.update(_T2I_COMPLETE="complete_bash", COMP_WORDS="t2i sam", COMP_CWORD="1")
print("completion:")
try:
    run([])
except SystemExit:
    print("exits")
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("completion:")[1].split() == ["sample-grid", "exits"]


def test_python_m_t2i_is_the_command():
    done = subprocess.run([*PYTHON, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"t2i {__version__}\n", "")


def in_terminal(arguments: list[str], **environment: str) -> str:
    """What a command writes to a terminal."""
    leader, follower = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    process = subprocess.Popen(arguments, stdout=follower, stderr=follower, env={**env, "TERM": "xterm", **environment})
    os.close(follower)
    shown = b""
    try:
        while data := os.read(leader, 4096):
            shown += data
    except OSError:  # the last writer left
        pass
    os.close(leader)
    assert process.wait() == 0
    return shown.decode()


def test_no_color_is_respected():
    colour = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7]|38)[0-9;]*m")
    assert colour.search(in_terminal([*PYTHON, "--help"]))
    assert not colour.search(in_terminal([*PYTHON, "--help"], NO_COLOR="1"))


def test_a_reader_that_leaves_and_a_full_stdout_make_no_traceback(minilm_data):
    shell = f"{shlex.join([*PYTHON, 'info', str(minilm_data)])} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert done.returncode in (0, 1) and done.stderr == ""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PYTHON, "info", minilm_data], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "t2i: output: No space left on device\n")


def test_prepare_whose_reader_has_left_blames_no_file(here):
    ours, theirs = os.pipe()
    os.close(ours)
    command = [*PYTHON, "prepare", "--shapes", "4", "--resolution", "16", "--val-fraction", "0", "--workers", "1"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, "")


# ---- the three lines -------------------------------------------------------------------------------------------


def coco_tree(root: Path, count: int = 24) -> Path:
    """COCO as users have it, with two captions an image."""
    (root / "train2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for number in range(count):
        name = f"{number:012d}.jpg"
        Image.new("RGB", (70, 50), (number * 10 % 256, 80, 255 - number * 10 % 256)).save(root / "train2017" / name)
        images.append({"id": number, "file_name": name, "width": 70, "height": 50})
        for caption in (f"a table with {number} apples", f"image {number} of a table"):
            annotations.append({"id": len(annotations), "image_id": number, "caption": caption})
    document = {"images": images, "annotations": annotations}
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(document))
    return root


def test_the_three_lines_in_an_empty_folder_pick_their_defaults_and_say_what_they_picked(here, t2i):
    coco_tree(here / "path" / "to" / "coco")
    (here / "tiny.toml").write_text(TINY)
    said = t2i("prepare", "--coco", "path/to/coco")
    assert "prepared t2i-data/coco-train-64" in said and "t2i train t2i-data/coco-train-64" in said
    said = t2i("train", "--arch", "dfgan", "--amp", "--config", "tiny.toml", "--kimg", "0.016")
    assert "t2i-data/coco-train-64 (24 images, 64 px)" in said
    assert "run: runs/00000-dfgan-coco-train-64" in said
    assert "t2i generate" in said
    said = t2i("generate", "a table", "-o", "out.png")
    assert said.splitlines()[0].startswith("model: runs/00000-dfgan-coco-train-64 (the newest run")
    assert Image.open("out.png").size == (64, 64)
    assert "wrote grid.png" in t2i("sample-grid", "--cols", "2", "--rows", "1")
    config = json.loads((here / "runs" / "00000-dfgan-coco-train-64" / "config.json").read_text())
    assert config["settings"]["optim"]["precision"] == mixed_precision(torch.device("cpu"))


# ---- train -----------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_all_that_it_promises(tiny_run):
    promised = ["config.json", "log.txt", "metrics.jsonl", "metrics.csv", "samples/reals.png"]
    model = ["README.md", "generator/config.json", "generator/model.safetensors", "model_index.json"]
    promised += [f"checkpoints/{count:09d}/model/{name}" for count in (0, 16, 32, 48) for name in model]
    promised += [f"checkpoints/{count:09d}/state.json" for count in (32, 48)]
    assert [name for name in promised if not (tiny_run / name).is_file()] == []
    snapshots = sorted(path.name for path in (tiny_run / "checkpoints").iterdir())
    assert snapshots == [f"{count:09d}" for count in (0, 16, 32, 48)]
    for count in (0, 16):  # of older ones the model stays
        assert [path.name for path in (tiny_run / "checkpoints" / f"{count:09d}").iterdir()] == ["model"]
    samples = sorted(path.name for path in (tiny_run / "samples").iterdir())
    assert samples == [*(f"{count:09d}.png" for count in (0, 16, 32, 48)), "reals.png"]
    settings = json.loads((tiny_run / "config.json").read_text())["settings"]
    assert (settings["optim"]["batch"], settings["schedule"]["kimg"]) == (8, 0.048)
    assert settings["model"]["generator"]["nf"] == settings["model"]["discriminator"]["nf"] == 4
    assert len((tiny_run / "metrics.jsonl").read_text().splitlines()) == 6
    assert "48 images seen" in (tiny_run / "log.txt").read_text()


def test_runs_are_numbered_and_log_plain_lines_without_a_terminal(here, t2i, minilm_data):
    (here / "tiny.toml").write_text(TINY)
    for number in range(2):
        said = t2i("train", minilm_data, "--config", "tiny.toml", "--kimg", "0.008")
        assert said.splitlines().index(f"run: runs/0000{number}-dfgan-shapes-train-16") <= 10
        assert "\x1b" not in said and "\r" not in said
        assert re.search(
            r"^0\.0 kimg  16 px  \d+ img/s  [\d.]+ GiB  loss G \S+ D \S+  logits real ", said, re.MULTILINE
        )


@pytest.mark.parametrize("flags, words", [
    (["--arch", "dfgan", "--growing"], "dfgan has one size"),
    (["--loss", "wgan-gp", "--penalty", "none"], "needs a penalty"),
    (["--arch", "stylegan", "--preset", "small", "--accumulate", "16"], "groups of 4"),
    (["--gpus", "0"], "--gpus must be at least 1"),
    (["--fade"], "no such option"),
])  # fmt: skip
def test_settings_of_training_that_make_no_sense_together_are_one_line(here, minilm_data, capfd, flags, words):
    assert run(["train", str(minilm_data), *flags, "--kimg", "0.008", "--device", "cpu"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and words in err.lower()
    assert not (here / "runs").exists()


def test_resume_alone_goes_on_with_the_newest_run(here, t2i, minilm_data):
    (here / "tiny.toml").write_text(TINY)
    assert run(["train", "--resume"]) == 1  # nothing yet
    for _ in range(2):
        t2i("train", minilm_data, "--config", "tiny.toml", "--kimg", "0.008")
    said = t2i("train", "--resume", "--kimg", "0.016")
    assert "resumed at 8 images from runs/00001-" in said and "16 images seen" in said


def test_signs_that_the_text_encoder_does_not_know_are_said(here, t2i, tiny_run, capfd):
    for folder in ("images", "captions"):
        (here / folder).mkdir()
    for name, caption in (("a", "a red dog"), ("b", "\U0001f34e"), ("c", "\U0001f697 on a table")):
        Image.new("RGB", (16, 16), "red").save(here / "images" / f"{name}.png")
        (here / "captions" / f"{name}.txt").write_text(caption)
    source = ("prepare", "--images", "images", "--captions", "captions", "--resolution", "16")
    said = t2i(*source, "--split", "val")
    assert "captions half read" in said and "2 have words or signs" in said
    assert "score a model on it: t2i evaluate MODEL t2i-data/" in said
    assert json.loads(t2i(*source, "--out", "other", "--json"))["unknown"] == 2
    assert run(["generate", "\U0001f34e", "--model", str(tiny_run), "-o", "a.png"]) == 0
    what = "the prompt has words or signs that the text encoder does not know: it cannot tell them apart"
    assert capfd.readouterr().err == f"t2i: warning: {what}\n"


def test_one_caption_for_all_is_said(here, minilm_data, t2i, capfd):
    (here / "images").mkdir()
    for name in "abcdefgh":
        Image.new("RGB", (16, 16), "red").save(here / "images" / f"{name}.png")
        (here / "images" / f"{name}.txt").write_text("a cat")
    t2i("prepare", "--images", "images", "--captions", "images", "--resolution", "16")
    (here / "tiny.toml").write_text(TINY)
    assert run(["train", "--config", "tiny.toml", "--kimg", "0.008"]) == 0
    out, err = capfd.readouterr()
    assert "all captions are the same" in err and err.count("\n") == 1 and "mismatch - fake" in out


def test_a_reader_that_leaves_before_the_first_step_leaves_a_run_to_go_on_with(here, t2i, minilm_data, monkeypatch):
    (here / "tiny.toml").write_text(TINY)
    say = console.say

    def leave(line, *rest, **how):
        if line.startswith("run: "):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        say(line, *rest, **how)

    with monkeypatch.context() as patch:
        patch.setattr(console, "say", leave)
        command = ["train", str(minilm_data), "--config", "tiny.toml", "--kimg", "0.016"]
        assert run(command) == 128 + signal.SIGPIPE
    assert "16 images seen" in t2i("train", "--resume")


def test_a_data_set_that_is_not_finished_is_said_to_be(refused, here, minilm_data):
    shutil.copytree(minilm_data, here / "data.partial")
    (here / "data.partial" / "dataset.json").unlink()
    (here / "data.partial" / "plan.json").write_text("{}")
    refused(1, "data.partial: not finished yet; the same t2i prepare goes on with it", "train", "data.partial")


def test_a_run_of_another_version_is_not_resumed_without_a_setting_that_it_had(here, t2i, minilm_data, capfd):
    (here / "tiny.toml").write_text(TINY)
    t2i("train", minilm_data, "--config", "tiny.toml", "--kimg", "0.008")
    (path,) = (here / "runs").glob("*/config.json")
    whole = path.read_text()
    for name in ("warmth", "optim.warmth", "loss.warmth.weight", "loss.contrastive.warmth", "model.generator.warmth"):
        facts = json.loads(whole)
        *tables, key = name.split(".")
        reduce(lambda table, part: table.setdefault(part, {}), tables, facts["settings"])[key] = 5
        path.write_text(json.dumps(facts))
        assert run(["train", "--resume", "--kimg", "0.016"]) == 1
        err = capfd.readouterr().err
        assert err.count("\n") == 1 and f"was begun with {name}, which this t2i does not know" in err


@pytest.mark.parametrize("resumed", [False, True])
def test_a_job_that_starts_again_has_the_rest_of_its_minutes(here, t2i, minilm_data, monkeypatch, resumed):
    (here / "tiny.toml").write_text(f"schedule.minutes = 60\n{TINY}")
    t2i("train", minilm_data, "--config", "tiny.toml", "--kimg", "0.008")
    (folder,) = (here / "runs").iterdir()
    given, train = [], loop.train
    monkeypatch.setattr(loop, "train", lambda config, *rest, **how: given.append(config) or train(config, *rest, **how))
    command = ["train", "--resume", "--minutes", "60"] if resumed else ["train", minilm_data, "--config", "tiny.toml"]
    # As a process of `train --gpus` that has died after 40 minutes.
    for name, value in (("PIPE", "-"), ("BEGUN", str(folder)), ("SINCE", str(time.monotonic() - 2400))):
        monkeypatch.setenv(getattr(launch, name), value)
    t2i(*command)
    monkeypatch.setenv(launch.SINCE, str(time.monotonic() - 4000))
    t2i(*command)
    first, second = (config.schedule for config in given)
    assert 10 < first.minutes <= 20 and 0 < second.minutes < 1e-6
    assert first.kimg == second.kimg == 0.008


def test_what_a_resumed_run_was_given_holds_for_the_next_resume_too(here, t2i, minilm_data, monkeypatch):
    """Stopped again, it goes on by the command that it names, to the goal that it had then."""
    (here / "tiny.toml").write_text(TINY)
    first, moved = shutil.copytree(minilm_data, here / "first"), here / "moved"
    t2i("train", first, "--config", "tiny.toml", "--kimg", "0.008")
    first.rename(moved)
    t2i("train", "--resume", "--kimg", "0.032", "--accumulate", "2", "--minutes", "1e-9", moved)
    settings = json.loads((here / "runs" / "00000-dfgan-shapes-train-16" / "config.json").read_text())["settings"]
    assert (settings["optim"]["accumulate"], settings["schedule"]["minutes"]) == (2, None)
    said = t2i("train", "--resume")
    assert "32 images seen" in said and "nothing was left to do" not in said
    assert "nothing was left to do: the goal of 0.032 kimg" in t2i("train", "--resume")
    assert run(["train", "--resume", "--kimg", "1", "--eval-every", "8"]) == 1  # no validation split
    assert "nothing was left to do" in t2i("train", "--resume")
    monkeypatch.chdir(moved)
    t2i("train", "--resume", "../runs/00000-dfgan-shapes-train-16", "--kimg", "0.04", ".")
    monkeypatch.chdir(here)
    weights = here / "runs" / "00000-dfgan-shapes-train-16" / "checkpoints" / "000000040" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    said = t2i("train", "--resume")
    assert "passed over a damaged checkpoint" in said and "nothing was left to do" not in said


def test_the_number_of_threads_is_the_run_s_own(here, t2i, minilm_data):
    (here / "tiny.toml").write_text(TINY)
    try:
        t2i("train", minilm_data, "--config", "tiny.toml", "--kimg", "0.008", "--threads", "2")
        torch.set_num_threads(1)
        said = t2i("train", "--resume", "--kimg", "0.016")
        assert "2 threads, as the run began (1 here); --threads changes it" in said
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        for options in (("--threads", "1"), ()):
            assert "as the run began" not in t2i("train", "--resume", "--kimg", "0.024", *options)
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)


def test_a_second_training_in_the_same_run_is_refused(here, t2i, minilm_data, capfd):
    from t2i.locks import lock

    (here / "tiny.toml").write_text(TINY)
    t2i("train", minilm_data, "--config", "tiny.toml", "--kimg", "0.008")
    capfd.readouterr()
    with lock("runs/00000-dfgan-shapes-train-16", "training"):
        assert run(["train", "--resume", "--kimg", "0.016"]) == 1
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "another training is at work there" in err
    t2i("train", "--resume", "--kimg", "0.016")


def check_stopped_and_resume(folder: Path, err: str, name: str, capfd) -> None:
    """A run that a signal stopped has said how to go on, and goes on; its model draws."""
    lines = err.splitlines()
    assert lines[:-1] == ["t2i: stopping at the next step; once more to leave at once"] * (name != "SIGPIPE")
    assert lines[-1].startswith(f"t2i: stopped by {name}; go on with: t2i train --resume ")
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    assert run(["generate", "a table", "-o", "out.png"]) == 0
    command = shlex.split(lines[-1].split("go on with: t2i ")[1])
    capfd.readouterr()
    assert run([*command, "--kimg", str((int(newest.name) + 16) / 1000)]) == 0
    out, err = capfd.readouterr()
    assert f"resumed at {int(newest.name):,} images" in out and err == ""
    seen = [json.loads(line)["images_seen"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert seen == sorted(set(seen))


ENDLESS = ["--config", "tiny.toml", "--kimg", "1000", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_leaves_a_checkpoint_a_model_and_the_command_that_resumes(here, minilm_data, capfd, number):
    """And so does a terminal that is closed."""
    (here / "tiny.toml").write_text(TINY)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*PYTHON, "train", minilm_data, *ENDLESS], text=True, **pipes)
    try:
        assert process.stdout and any(" img/s " in line for line in process.stdout)
        for _ in range(1 + (number == signal.SIGHUP)):  # a shell sends it, and the kernel does
            process.send_signal(number)
        err = process.communicate(timeout=600)[1]
    finally:
        process.kill()
    assert process.returncode == 128 + number
    check_stopped_and_resume(here / "runs" / "00000-dfgan-shapes-train-16", err, number.name, capfd)


def test_under_nohup_a_terminal_may_be_closed():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert stop_signals() == [signal.SIGINT, signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)
    assert stop_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.slow
def test_training_whose_reader_leaves_stops_with_a_checkpoint(here, minilm_data, capfd):
    (here / "tiny.toml").write_text(TINY)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*PYTHON, "train", minilm_data, *ENDLESS], text=True, **pipes)
    try:
        assert any(" img/s " in line for line in process.stdout)
        process.stdout.close()
        assert process.wait(600) == 128 + signal.SIGPIPE
        err = process.stderr.read()
    finally:
        process.kill()
    check_stopped_and_resume(here / "runs" / "00000-dfgan-shapes-train-16", err, "SIGPIPE", capfd)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_closed_streams_are_nobody_s_business(closed, minilm_data):
    shell = f"{shlex.join([*PYTHON, 'info', str(minilm_data)])} {closed}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_sigterm_does_the_same_with_143(here, minilm_data, capfd):
    (here / "tiny.toml").write_text(TINY)
    folder = here / "runs" / "00000-dfgan-shapes-train-16"

    def terminate() -> None:  # this very process, once it trains
        while not (folder / "metrics.csv").is_file() or (folder / "metrics.csv").read_text().count("\n") < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate, daemon=True)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    thread.start()
    assert run(["train", str(minilm_data), *ENDLESS]) == 143
    thread.join()
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    check_stopped_and_resume(folder, capfd.readouterr().err, "SIGTERM", capfd)


def test_prepare_stopped_by_a_signal_goes_on_where_it_was(here, capfd):
    arguments = ["prepare", "--shapes", "8192", "--resolution", "64", "--val-fraction", "0", "--workers", "1"]
    arguments += ["--out", "data"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*PYTHON, *arguments], text=True, **pipes)
    assert process.stdout and "0 of 8,192" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=600)[1] == "t2i: stopped by SIGINT; the same command goes on where it was\n"
    assert process.returncode == 130
    assert [path.name for path in here.iterdir()] == ["data.partial"]


def test_a_data_set_that_cannot_be_read_is_in_nobodys_way(here, t2i, minilm_data, capfd):
    (here / "tiny.toml").write_text(TINY)
    (here / "t2i-data").mkdir()
    shutil.copytree(minilm_data, here / "t2i-data" / "good")
    shutil.copytree(minilm_data, here / "t2i-data" / "later")
    (here / "t2i-data" / "later" / "dataset.json").write_text('{"format": 99}')
    assert run(["train", "--config", "tiny.toml", "--kimg", "0.008"]) == 0
    out, err = capfd.readouterr()
    assert "8 images seen" in out and err.count("\n") == 1 and "passed over t2i-data/later: " in err
    assert find_validation(PreparedDataset(here / "t2i-data" / "good")) is None


def test_what_is_held_out_is_trained_on_only_where_it_is_named(here, t2i, refused, minilm_data):
    facts = json.loads((minilm_data / "dataset.json").read_text())
    for split in ("train", "validation"):
        data = shutil.copytree(minilm_data, here / "t2i-data" / split)
        (data / "dataset.json").write_text(json.dumps({**facts, "split": split}))
    assert "t2i-data/train " in t2i("train", "--dry-run")
    assert "t2i-data/validation " in t2i("train", "t2i-data/validation", "--dry-run")
    shutil.rmtree(here / "t2i-data" / "train")
    refused(1, "only held-out data in t2i-data/ (validation)", "train")


# ---- demo ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_goes_the_whole_way(here, t2i):
    said = t2i("demo", "--minutes", "0.05", "--images", "64")
    assert [line[:2] for line in said.splitlines() if re.match(r"\d\. ", line)] == ["1.", "2.", "3.", "4."]
    for name in ("colour", "size", "background", "shape"):
        assert re.search(rf"{name} +(│ +\d+% +){{3}}", said)
    assert (here / "t2i-demo" / "demo.png").is_file()
    assert [path.name for path in here.iterdir()] == ["t2i-demo"]
    command = shlex.split(re.search(r"next: t2i (.*)", said)[1])
    assert "wrote heart.png" in t2i(*command)
