"""Shared fixtures: a text encoder that costs nothing, small prepared data sets, one small trained run."""

import functools
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from folders import listing, not_root
from hash_encoder import HashEncoder

from t2i.cli import run
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import PreparedDataset
from t2i.data.sources.shapes import ShapesSource
from t2i.models.find import find_model
from t2i.text import frozen
from t2i.text.encoders import load_encoder
from t2i.training import previews, snapshots
from t2i.training.plots import draw_losses

# How long an example takes is the machine's business. CI's examples are the same each time: it judges a change.
patient = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("t2i", **patient)
hypothesis.settings.register_profile("ci", **patient, derandomize=True)
hypothesis.settings.load_profile("t2i")


# Colours and widths are the tests' own business, whatever CI's terminal says.
for name in ("FORCE_COLOR", "NO_COLOR", "PY_COLORS", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
    os.environ.pop(name, None)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    """Every fixture draws the same numbers, whichever were made before it in its process."""
    seed_all()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """So does every test."""
    seed_all()


def seed_all() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for other threads, the longer the busier the machine is.

    A number that is set here stays: two runs that must end with the same bits need the same one.
    """
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for the processes that tests start
        yield


@pytest.fixture(scope="session", autouse=True)
def small_pictures() -> Iterator[None]:
    """Short runs draw no losses.png, and four cells of a sample grid: the whole would take most of their time. `curves`
    and `whole_grids` have it drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "draw_losses", lambda metrics, out: False)
        patch.setattr(previews, "PROMPTS", 2)
        patch.setattr(previews, "COLUMNS", 2)
        yield


@pytest.fixture
def curves(monkeypatch) -> None:
    monkeypatch.setattr(snapshots, "draw_losses", draw_losses)


@pytest.fixture
def whole_grids(monkeypatch) -> None:
    monkeypatch.setattr(previews, "PROMPTS", 8)
    monkeypatch.setattr(previews, "COLUMNS", 6)


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory) -> Iterator[None]:
    """One folder for the temporary files of all processes that tests start: one that is killed leaves its own."""
    tmp_path_factory.getbasetemp()  # this process's are where they were, and what a failed test leaves is kept there
    files = tempfile.TemporaryDirectory(prefix="t2i-tests-", ignore_cleanup_errors=True)
    with files as folder, pytest.MonkeyPatch.context() as patch:
        os.chmod(folder, 0o1777)  # as /tmp: some tests give up root's rights
        patch.setenv("TMPDIR", folder)
        yield


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder that may not be written, not even by root."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        try:
            with not_root():
                yield Path(folder)
        finally:
            os.chmod(folder, 0o755)


@pytest.fixture(scope="session")
def hash_encoder():
    return HashEncoder()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    """A Hugging Face encoder in a local folder: three layers of nothing, a vocabulary of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "circle", "table", "two", "dogs", "on"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shapes_data(tmp_path_factory) -> PreparedDataset:
    """96 drawn images at 16 px, captions encoded by HashEncoder. Read only."""
    out = tmp_path_factory.mktemp("data") / "shapes-train-16"
    prepare(ShapesSource(96), out, HashEncoder(), PrepareOptions(resolution=16, workers=1))
    return PreparedDataset(out)


@pytest.fixture(scope="session")
def minilm_data(tmp_path_factory) -> Path:
    """48 drawn images at 16 px, captions encoded by the bundled MiniLM: what the command line makes. Read only.

    In fp32 on every processor, as prompts are encoded: where bf16 is quick, prepare would take that.
    """
    from t2i.cli import run

    out = tmp_path_factory.mktemp("data") / "t2i-data" / "shapes-train-16"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "has_quick_bf16", lambda device: False)
        assert run(["prepare", "--shapes", "48", "--resolution", "16", "--val-fraction", "0", "--workers", "1",
                    "--out", str(out)]) == 0  # fmt: skip
    return out


@pytest.fixture(scope="session")
def tiny_run(minilm_data, tmp_path_factory) -> Path:
    """A run folder of dfgan at 16 px after a few steps. Read only."""
    from t2i.cli import run

    root = tmp_path_factory.mktemp("runs")
    settings = root / "tiny.toml"
    times, widths = "snapshot_kimg = 0.016\nlog_kimg = 0.008", "generator.nf = 4\ndiscriminator.nf = 4"
    settings.write_text(f'arch = "dfgan"\npreset = "small"\n[run]\n{times}\n[model]\n{widths}\n')
    assert run(["train", str(minilm_data), "--kimg", "0.048", "--batch", "8", "--config", str(settings),
                "--out", str(root), "--device", "cpu"]) == 0  # fmt: skip
    return root / "00000-dfgan-shapes-train-16"


@pytest.fixture(scope="session")
def tiny_model(tiny_run) -> Path:
    """The newest model of tiny_run. Read only."""
    return find_model(tiny_run)


@pytest.fixture
def double_precision():
    """Steps amplify the last bits of fp32, which processors, thread counts and runs on a GPU do not share."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(here, capfd):
    """Runs a command that must fail with `code`, say one line that holds `words`, and write nothing but `leaves`."""

    def check(code: int, words: str, *arguments: object, leaves: str | None = None) -> str:
        before = listing(here)
        capfd.readouterr()
        assert run([str(argument) for argument in arguments]) == code
        lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
        assert len(lines) == 1 and lines[0].startswith("t2i: "), lines
        assert words in lines[0]
        assert {name: size for name, size in listing(here).items() if name.split("/")[0] != leaves} == before
        return lines[0]

    return check


@pytest.fixture(scope="module")
def one_encoder():
    """The real text encoder, but read from disk once; one thread: small networks only wait for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr("t2i.text.encoders.load_encoder", functools.cache(load_encoder))
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def t2i(here, capfd):
    """Runs a command in process that must end well and say nothing on stderr; returns its stdout."""

    def call(*arguments: object) -> str:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert (code, err) == (0, ""), err
        return out

    return call
