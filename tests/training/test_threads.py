"""The number of threads is chosen once and kept in the run: rounding depends on it."""

import os
import subprocess
import sys

import pytest
import torch
from short_runs import assert_same_bits, final_tensors

from t2i.cli import run
from t2i.training.run import Run
from t2i.training.trainer import Trainer


@pytest.fixture
def threads(monkeypatch):
    """Those of each step; the process has two."""
    found, step = [], Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda *given: found.append(torch.get_num_threads()) or step(*given))
    torch.set_num_threads(2)
    yield found
    torch.set_num_threads(1)


def train(data, folder, *arguments, kimg=0.016):
    command = ["train", str(data), "--kimg", str(kimg), "--device", "cpu"]
    if "--resume" not in arguments:
        (folder / "run.toml").write_text("[model.generator]\nnf = 4\n[model.discriminator]\nnf = 4\n")
        command += [
            "--arch",
            "dfgan",
            "--preset",
            "small",
            "--batch",
            "8",
            "--config",
            str(folder / "run.toml"),
            "--out",
            str(folder),
        ]
    assert run([*command, *map(str, arguments)]) == 0
    return Run(next(folder.glob("0*")))


def test_a_run_that_is_resumed_keeps_its_threads_and_says_so(threads, minilm_data, tmp_path, capfd):
    began = train(minilm_data, tmp_path, "--threads", 1)
    assert began.read_config()[0].run.threads == 1 and set(threads) == {1}
    torch.set_num_threads(2)
    capfd.readouterr()
    train(minilm_data, tmp_path, "--resume", began.folder, kimg=0.032)
    assert "\n1 threads, as the run began (2 here); --threads changes it\n" in f"\n{capfd.readouterr().out}"
    assert threads == [1] * 4
    (tmp_path / "whole").mkdir()
    assert_same_bits(final_tensors(train(minilm_data, tmp_path / "whole", "--threads", 1, kimg=0.032)),
                     final_tensors(began))  # fmt: skip

    torch.set_num_threads(2)
    train(minilm_data, tmp_path, "--resume", began.folder, "--threads", 2, kimg=0.04)
    assert threads[-1] == 2 and began.read_config()[0].run.threads == 2
    assert "as the run began" not in capfd.readouterr().out


def test_the_threads_of_the_machine_are_kept_where_none_are_named(threads, minilm_data, tmp_path):
    assert train(minilm_data, tmp_path).read_config()[0].run.threads == 2
    assert set(threads) == {2}


@pytest.mark.slow
def test_another_process_with_more_threads_ends_with_the_same_bits(minilm_data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    expected = final_tensors(train(minilm_data, whole, "--threads", 1, kimg=0.032))
    began = train(minilm_data, parts, "--threads", 1)
    done = subprocess.run(
        [sys.executable, "-m", "t2i", "train", "--resume", str(began.folder), "--kimg", "0.032", "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "2"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "1 threads, as the run began (2 here)" in done.stdout
    assert_same_bits(final_tensors(began), expected)
