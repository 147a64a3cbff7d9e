"""What a user can get wrong ends in one line on stderr, the right exit code, and nothing written."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import not_root
from PIL import Image
from safetensors.numpy import load_file, save_file

from t2i.cli import run
from t2i.files import sha256
from t2i.text.minilm import bundled_minilm


def listing(folder: Path) -> dict[str, int]:
    """Every file and folder below, with its size."""
    return {str(p.relative_to(folder)): p.stat().st_size if p.is_file() else -1 for p in sorted(folder.rglob("*"))}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(here, capfd):
    """Runs a command that must fail with `code`, say one line that holds `words`, and write nothing."""

    def check(code: int, words: str, *arguments: object) -> str:
        before = listing(here)
        capfd.readouterr()
        assert run([str(argument) for argument in arguments]) == code
        lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
        assert len(lines) == 1 and lines[0].startswith("t2i: "), lines
        assert words in lines[0]
        assert listing(here) == before
        return lines[0]

    return check


def pictures(folder: Path, count: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (20, 20), (number * 7 % 256, 90, 200)).save(folder / f"{number:03d}.png")
    return folder


def texts(folder: Path, count: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:03d}.txt").write_text(f"picture {number}\n")
    return folder


def coco(root: Path, document: bytes) -> Path:
    pictures(root / "train2017")
    (root / "annotations").mkdir()
    (root / "annotations" / "captions_train2017.json").write_bytes(document)
    return root


# ---- prepare: sources ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("--coco", "missing"),
        ("--imagefolder", "missing"),
        ("--images", "missing", "--captions", "missing"),
        ("--shards", "missing/*.tar"),
    ],
    ids=lambda options: options[0],
)
def test_a_source_that_is_missing(refused, options):
    refused(1, "missing", "prepare", *options)


@pytest.mark.parametrize("kind", ["--coco", "--imagefolder", "--shards", "--images"])
def test_an_empty_folder_as_source(refused, here, kind):
    (here / "empty").mkdir()
    source = {"--shards": ["empty/*.tar"], "--images": ["empty", "--captions", "empty"]}.get(kind, ["empty"])
    refused(1, "empty", "prepare", kind, *source)


@pytest.mark.parametrize(
    "document",
    [b"\x00\xff{", b"[1, 2]", b'{"images": [{"id": 1, "fi', b"", b"{}", b"3", b"[" * 100_000],
    ids=["garbage", "a list", "truncated", "empty", "an empty object", "a number", "deep"],
)
def test_coco_annotations_that_are_none(refused, here, document):
    refused(1, "captions_train2017.json", "prepare", "--coco", coco(here / "coco", document))


def test_captions_without_pictures(refused, here):
    texts(here / "captions")
    (here / "images").mkdir()
    refused(1, "no pictures here", "prepare", "--images", "images", "--captions", "captions")


def test_pictures_without_captions(refused, here):
    pictures(here / "images")
    (here / "captions").mkdir()
    refused(1, "no caption files here", "prepare", "--images", "images", "--captions", "captions")
    (here / "captions" / "other.txt").write_text("another one")
    refused(1, "000.txt", "prepare", "--images", "images", "--captions", "captions")


@pytest.mark.parametrize("data", [b"this is a text\n", b""], ids=["a text file named .jpg", "0 bytes"])
def test_above_5_percent_unusable_pictures_are_refused_with_the_reason(refused, here, data):
    pictures(here / "images", 4)
    texts(here / "captions", 5)
    (here / "images" / "004.jpg").write_bytes(data)
    source = ("--images", "images", "--captions", "captions", "--workers", "1")
    line = refused(1, "1 of 5", "prepare", *source, "--out", "data")
    assert "--max-skipped" in line and "004.jpg" in line
    assert run(["prepare", *source, "--out", "data", "--strict", "--max-skipped", "1"]) == 1
    assert not (here / "data").exists()


def test_a_few_unusable_pictures_are_counted_and_listed(here, capfd):
    pictures(here / "images", 38)
    texts(here / "captions", 40)
    (here / "images" / "038.jpg").write_bytes(b"this is a text\n")
    (here / "images" / "039.png").write_bytes(b"")
    source = ("--images", "images", "--captions", "captions", "--resolution", "16", "--workers", "1")
    assert run(["prepare", *source, "--out", "data", "--json"]) == 0
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert (err, report["pictures"], sum(report["skipped"].values())) == ("", 38, 2)
    skipped = [json.loads(line) for line in (here / "data" / "skipped.jsonl").read_text().splitlines()]
    assert [skip["file"] for skip in skipped] == ["038.jpg", "039.png"]
    assert all(skip["reason"] for skip in skipped)


def test_a_data_set_that_is_replaced_stays_until_the_new_one_is_whole(refused, here, capfd):
    pictures(here / "images", 4)
    texts(here / "captions", 4)
    source = ("--images", "images", "--captions", "captions", "--resolution", "16", "--workers", "1", "--out", "data")
    assert run(["prepare", *source]) == 0
    refused(1, "--overwrite", "prepare", *source)
    kept = listing(here / "data")
    (here / "images" / "000.png").write_bytes(b"")
    refused(1, "--max-skipped", "prepare", *source, "--overwrite")
    assert listing(here / "data") == kept
    assert run(["prepare", *source, "--overwrite", "--max-skipped", "1"]) == 0
    assert json.loads((here / "data" / "dataset.json").read_text())["pictures"] == 3
    assert sorted(p.name for p in here.iterdir()) == ["captions", "data", "images"]
    texts(here / "mine")
    refused(1, "not replaced", "prepare", *source[:-1], "mine", "--overwrite")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no source was named"),
        (["--shapes", "9", "--coco", "x"], "--coco and --shapes exclude each other"),
        (["--images", "x", "--imagefolder", "y"], "exclude each other"),
        (["--images", "x"], "--captions DIR or --annotations FILE"),
        (["--images", "x", "--captions", "y", "--annotations", "z"], "one of them"),
        (["--shapes", "9", "--captions", "x"], "--captions goes with --images"),
        (["--shapes", "9", "--resolution", "50"], "--resolution 50"),
        (["--shapes", "9", "--resolution", "big"], "--resolution"),
        (["--shapes", "9", "--fraction", "0"], "--fraction 0"),
        (["--shapes", "9", "--fraction", "2"], "--fraction 2"),
        (["--shapes", "9", "--fraction", "nan"], "--fraction nan"),
        (["--shapes", "9", "--val-fraction", "1"], "--val-fraction 1"),
        (["--shapes", "9", "--limit", "0"], "--limit 0"),
        (["--shapes", "0"], "--shapes 0"),
        (["--shapes", "9", "--workers", "-1"], "--workers -1"),
        (["--shapes", "9", "--max-skipped", "5"], "--max-skipped 5"),
        (["--shapes", "9", "--split", "test"], "--split test"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_prepare_options_that_make_no_sense(refused, options, words):
    refused(2, words, "prepare", *options)


def test_a_text_encoder_that_is_none(here, capfd):
    (here / "encoder").mkdir()
    source = ("--shapes", "4", "--resolution", "16", "--val-fraction", "0", "--workers", "1")
    assert run(["prepare", *source, "--text-encoder", "encoder", "--out", "data"]) == 1
    line = capfd.readouterr().err
    assert line.startswith("t2i: cannot load the text encoder 'encoder'") and line.count("\n") == 1
    assert not (here / "data").exists()


# ---- the command line ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["paint"], "paint"),
        (["generate", "a table", "--colour", "red"], "--colour"),
        (["train", "--batch"], "--batch"),
        (["train", "--batch", "many"], "--batch"),
        (["sample-grid", "--interpolate", "a"], "--interpolate"),
        (["info"], "path"),
        (["info", "a", "b"], "argument"),
        (["demo", "--pictures", "1"], "--pictures 1"),
        (["demo", "--minutes", "nan"], "--minutes nan"),
    ],
    ids=" ".join,
)
def test_unknown_commands_and_options(refused, arguments, words):
    assert "--help" in refused(2, words, *arguments) or arguments[0] == "demo"


def test_nothing_to_pick_names_the_command_to_run_first(refused):
    refused(1, "t2i prepare", "train")
    refused(1, "t2i train", "generate", "a table")
    refused(1, "t2i train", "sample-grid")


@pytest.mark.parametrize("name", ["missing", "folder", "note.txt", "black.png", "note.png"])
def test_info_on_what_is_not_ours(refused, here, name):
    (here / "folder").mkdir()
    (here / "note.txt").write_text("hello")
    (here / "note.png").write_text("hello")
    Image.new("RGB", (4, 4)).save(here / "black.png")
    refused(1, name, "info", name)


@pytest.mark.parametrize("marker", ["dataset.json", "state.json", "model_index.json", "config.json"])
@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"format": 1, "settings": 3}', '{"format": 1, "files": {"a": 1}}'])
def test_info_on_a_damaged_description(refused, here, marker, text):
    (here / "x").mkdir()
    (here / "x" / marker).write_text(text)
    refused(1, "x", "info", "x")


# ---- generate and sample-grid ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "say what to draw"),
        ([""], "empty"),
        ([" \t "], "empty"),
        (["a table", ""], "empty"),
        (["a table", "--num", "0"], "--num"),
        (["a table", "--seed", "-1"], "--seed"),
        (["a table", "--seed", "9" * 30], "--seed"),
        (["a table", "--batch", "0"], "--batch"),
        (["a table", "--truncation", "nan"], "--truncation nan"),
        (["a table", "--seeds", "1", "--num", "2"], "--seeds excludes"),
        (["a table", "-o", "out.gif"], ".gif"),
        (["a table", "-o", "out.mp4"], ".mp4"),
        (["a table", "--device", "abacus"], "--device abacus"),
        (["a table", "--device", "cuda:99"], "--device cuda:99"),
        *((["a table", "--seeds", seeds], "--seeds") for seeds in ("a", "7-3", "", "0-", "-1", "1,,2", "9" * 5000)),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else None,
)
def test_generate_options_that_make_no_sense(refused, tiny_run, options, words):
    refused(2, words, "generate", *options, "--model", tiny_run)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([""], "empty"),
        (["--cols", "0"], "--cols"),
        (["--cols", "99999999"], "--cols"),
        (["--cols", "9000", "--rows", "2", "a", "b"], "too many"),
        (["--seeds", ""], "--seeds"),
        (["--truncation", "inf"], "--truncation inf"),
        (["a", "--interpolate", "a", "b"], "--interpolate"),
        (["--interpolate", "a", ""], "empty"),
        (["--interpolate", "a", "b", "--cols", "1"], "--cols"),
        (["-o", "grid.gif"], ".gif"),
        (["-o", "grid"], "suffix"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else None,
)
def test_sample_grid_options_that_make_no_sense(refused, tiny_run, options, words):
    refused(2, words, "sample-grid", *options, "--model", tiny_run)


@pytest.mark.parametrize(
    "content", [None, b"", b"\n \n", b"\xff\xfe\x00\x80"], ids=["missing", "empty", "blank", "binary"]
)
def test_a_prompts_file_that_is_none(refused, here, tiny_run, content):
    if content is not None:
        (here / "prompts.txt").write_bytes(content)
    for command in ("generate", "sample-grid"):
        refused(1, "prompts.txt", command, "--prompts", "prompts.txt", "--model", tiny_run)


def test_a_prompt_of_10000_characters_is_drawn_with_one_warning(here, capfd, tiny_run):
    assert run(["generate", "a red table " * 833 + "yes", "--model", str(tiny_run), "-o", "out.png"]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("t2i: warning: the prompt was cut to 128 tokens")
    assert Image.open("out.png").size == (16, 16)


def test_a_prompt_of_bytes_that_are_no_text_is_drawn(here, capfd, tiny_run):
    assert run(["generate", "a \udcff table", "--model", str(tiny_run), "-o", "out.png"]) == 0
    assert capfd.readouterr().err == ""


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _write_weights(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """As another tool would: with their hash."""
    save_file(tensors, folder / "generator" / "model.safetensors")
    _edit(folder / "model_index.json", weights_sha256=sha256(folder / "generator" / "model.safetensors"))


def _drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "generator" / "model.safetensors")
    tensors.pop(sorted(tensors)[0])
    _write_weights(folder, tensors)


def _reshape_tensor(folder: Path) -> None:
    tensors = load_file(folder / "generator" / "model.safetensors")
    _write_weights(folder, {**tensors, sorted(tensors)[0]: np.zeros(3, np.float32)})


def _truncate(folder: Path) -> None:
    path = folder / "generator" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "truncated weights": (_truncate, "model.safetensors"),
    "no weights": (lambda f: (f / "generator" / "model.safetensors").unlink(), "model.safetensors"),
    "weights of 0 bytes": (lambda f: (f / "generator" / "model.safetensors").write_bytes(b""), "model.safetensors"),
    "a tensor missing": (_drop_tensor, "does not fit"),
    "a tensor of another shape": (_reshape_tensor, "does not fit"),
    "another architecture": (lambda f: _edit(f / "generator" / "config.json", architecture="vqgan"), "vqgan"),
    "another class": (lambda f: _edit(f / "model_index.json", _class_name="StableDiffusionPipeline"), "Stable"),
    "a later format": (lambda f: _edit(f / "model_index.json", format=99), "format 99"),
    "no text encoder": (lambda f: _edit(f / "model_index.json", text_encoder=None), "text_encoder"),
    "an index that is no JSON": (lambda f: (f / "model_index.json").write_text("{"), "model_index.json"),
    "an index that is a list": (lambda f: (f / "model_index.json").write_text("[]"), "model_index.json"),
    "no config": (lambda f: (f / "generator" / "config.json").unlink(), "config.json"),
    "a garbage config": (lambda f: (f / "generator" / "config.json").write_bytes(b"\x00\xff"), "config.json"),
    "an empty config": (lambda f: (f / "generator" / "config.json").write_text("{}"), "does not fit"),
    "a foreign config": (lambda f: (f / "generator" / "config.json").write_text('{"sample_size": 64}'), "does not fit"),
    "resolution a text": (lambda f: _edit(f / "generator" / "config.json", resolution="64"), "resolution"),
    "resolution 0": (lambda f: _edit(f / "generator" / "config.json", resolution=0), "resolution"),
    "resolution 2^40": (lambda f: _edit(f / "generator" / "config.json", resolution=2**40), "resolution"),
    "unknown conditioning": (lambda f: _edit(f / "generator" / "config.json", conditioning="magic"), "magic"),
    "unknown option": (lambda f: _edit(f / "generator" / "config.json", options={"depth": 3}), "depth"),
    "options a list": (lambda f: _edit(f / "generator" / "config.json", options=[]), "options"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_model(refused, here, tiny_run, damage):
    shutil.copytree(tiny_run / "model", here / "model")
    spoil, words = DAMAGES[damage]
    spoil(here / "model")
    refused(1, words, "generate", "a table", "--model", "model")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no such model"),
        ("note.txt", "this is a file"),
        ("weights.pt", "never loaded"),
        ("weights.ckpt", "never loaded"),
        ("data set", "prepared data set"),
        ("checkpoint", "checkpoint"),
        ("empty", "model_index.json"),
    ],
)
def test_a_model_that_is_something_else(refused, here, minilm_data, tiny_run, kind, words):
    (here / "note.txt").write_text("hello")
    (here / "weights.pt").write_bytes(b"\x80\x04")
    (here / "weights.ckpt").write_bytes(b"\x80\x04")
    (here / "empty").mkdir()
    checkpoint = next((tiny_run / "checkpoints").iterdir())
    model = {"data set": minilm_data, "checkpoint": checkpoint}.get(kind, kind)
    refused(1, words, "generate", "a table", "--model", model)
    refused(1, words, "sample-grid", "a table", "--model", model)


# ---- train -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "1"], "--batch must be at least 2"),
        (["--batch", "7", "--accumulate", "2"], "--batch 7 is not a multiple of --accumulate 2"),
        (["--accumulate", "0"], "--accumulate"),
        (["--kimg", "0"], "--kimg must be above 0"),
        (["--kimg", "inf"], "--kimg must be a number"),
        (["--minutes", "-1"], "--minutes must be above 0"),
        (["--minutes", "nan"], "--minutes must be a number"),
        (["--lr-g", "nan"], "--lr-g must be a number"),
        (["--lr-d", "-1"], "--lr-d must be above 0"),
        (["--seed", "-1"], "--seed"),
        (["--arch", "vqgan"], "no architecture 'vqgan'; there is"),
        (["--preset", "huge"], "--preset huge"),
        (["--loss", "mse"], "--loss: input should be"),
        (["--penalty", "gp"], "--penalty: input should be"),
        (["--precision", "int8"], "--precision: input should be"),
        (["--conditioning", "magic"], "--conditioning: input should be"),
        (["--amp", "--precision", "fp32"], "--amp means --precision bf16"),
        (["--device", "abacus"], "--device abacus"),
        (["--eval-every", "0"], "--eval-every must be above 0"),
        (["--eval-every", "8", "--best-by", "fid"], "--best-by: input should be"),
        (["--best-by", "fd"], "--best-by needs --eval-every"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_train_options_that_make_no_sense(refused, minilm_data, options, words):
    refused(2, words, "train", minilm_data, *options)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("batch = ", 1, "not valid TOML"),
        ("\x00", 1, "not valid TOML"),
        ("batches = 8", 2, "no setting is called 'batches'"),
        ('batch = "many"', 2, "run.toml: batch: "),
        ("batch = 1", 2, "run.toml: batch must be at least 2"),
        ("ema_kimg = 0", 2, "run.toml: ema_kimg must be above 0"),
        ("beta1 = nan", 2, "run.toml: beta1 must be a number"),
        ("penalty_weight = -1", 2, "run.toml: penalty_weight"),
        ('augment = ["blur"]', 2, "run.toml: augment: "),
        ("arch = [1]", 2, "no architecture '[1]'"),
        ("preset = [1]", 2, "--preset [1]"),
        ("model = 3", 2, "[model] must be a table"),
        ("[model]\ndepth = 3", 2, "no model setting 'depth'"),
        ('[model]\nnf = "wide"', 2, "[model] nf must be of type int"),
        ("[model]\nnf = true", 2, "[model] nf must be of type int"),
        ("[model]\nnf = -4", 2, "cannot be built"),
        ("[model]\nnf = 1000000000000", 2, "cannot be built"),
    ],
    ids=lambda value: value if isinstance(value, str) and ("=" in value or value == "\x00") else None,
)
def test_a_config_file_that_is_wrong(refused, here, minilm_data, text, code, words):
    (here / "run.toml").write_text(text)
    refused(code, words, "train", minilm_data, "--config", "run.toml")


def test_a_config_file_that_is_none(refused, here, minilm_data):
    refused(1, "run.toml", "train", minilm_data, "--config", "run.toml")
    (here / "run.toml").mkdir()
    refused(1, "run.toml", "train", minilm_data, "--config", "run.toml")


def test_data_that_is_none(refused, here, tiny_run):
    (here / "empty").mkdir()
    for data in ("missing", "empty", tiny_run):
        refused(1, "no prepared data set here", "train", data)


@pytest.mark.parametrize("name", ["images-00000.npy", "caption-offsets.npy", "text-statistics.npy"])
def test_a_damaged_data_set(refused, here, minilm_data, name):
    shutil.copytree(minilm_data, here / "data")
    (here / "data" / name).write_bytes((here / "data" / name).read_bytes()[:-40])
    refused(1, name, "train", "data")
    (here / "data" / name).unlink()
    refused(1, name, "train", "data")


def test_resuming_what_cannot_be_resumed(refused, here, minilm_data, shapes_data, tiny_run):
    refused(1, "no run here", "train", "--resume", "missing")
    refused(1, "no run here", "train", "--resume", minilm_data)
    refused(1, "not a run's configuration", "train", "--resume", tiny_run / "model" / "generator")
    before = listing(tiny_run)
    refused(2, "--batch 16 differs from the run's 8", "train", "--resume", tiny_run, "--batch", "16")
    refused(2, "--precision bf16 differs", "train", "--resume", tiny_run, "--amp")
    refused(2, "--config", "train", "--resume", tiny_run, "--config", "run.toml")
    refused(2, "--out", "train", "--resume", tiny_run, "--out", "elsewhere")
    refused(2, "--kimg must be above 0", "train", "--resume", tiny_run, "--kimg", "-1")
    refused(1, "its fingerprint differs", "train", shapes_data.path, "--resume", tiny_run)
    assert listing(tiny_run) == before
    run_folder = here / "run"
    shutil.copytree(tiny_run, run_folder)
    shutil.rmtree(run_folder / "checkpoints")
    assert run(["train", "--resume", str(run_folder)]) == 1


# ---- folders and disks that cannot be written ------------------------------------------------------------------


def installation_is_readable() -> bool:
    """A virtual environment that root made may be closed to others."""
    try:
        return bundled_minilm() is not None
    except OSError:
        return False


@pytest.fixture
def readable(tiny_run, minilm_data):
    """A folder with a model, a data set and the read-only folder `locked`; root is somebody else for the while."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o755)
        shutil.copytree(tiny_run / "model", folder / "model")
        shutil.copytree(minilm_data, folder / "data")
        (folder / "locked").mkdir()
        os.chmod(folder / "locked", 0o555)
        try:
            with not_root():
                if not installation_is_readable():
                    pytest.skip("only root can read this installation")
                yield folder
        finally:
            os.chmod(folder / "locked", 0o755)


def output_commands(model: Path, data: Path, out: Path) -> dict[str, list[str]]:
    """A call of every command that writes, into `out`."""
    return {
        "generate": ["generate", "a table", "--model", str(model), "-o", str(out / "out.png")],
        "generate a folder": ["generate", "a table", "--model", str(model), "-o", str(out / "pictures")],
        "sample-grid": ["sample-grid", "a table", "--cols", "2", "--model", str(model), "-o", str(out / "grid.png")],
        "train": ["train", str(data), "--batch", "8", "--kimg", "0.016", "--out", str(out / "runs")],
        "prepare": ["prepare", "--shapes", "64", "--resolution", "64", "--val-fraction", "0", "--workers", "1",
                    "--out", str(out / "new")],
    }  # fmt: skip


def test_a_read_only_folder_to_write_to(readable, capfd):
    for arguments in output_commands(readable / "model", readable / "data", readable / "locked").values():
        capfd.readouterr()
        assert run(arguments) == 1
        line = capfd.readouterr().err
        assert line.startswith(f"t2i: {readable / 'locked'}") and line.endswith("Permission denied\n")
        assert line.count("\n") == 1
    assert listing(readable / "locked") == {}


@pytest.fixture
def small_disk(tmp_path):
    """A mounted disk of 512 KiB, 400 of them taken."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (disk / "filler").write_bytes(bytes(400 * 2**10))
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> None:
    """Take all that is left of a disk."""
    with open(disk / "filler", "ab", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError:
            return


@pytest.mark.parametrize("command", output_commands(Path(), Path(), Path()))
def test_a_full_disk_leaves_no_half_written_file(small_disk, tiny_run, minilm_data, command, capfd):
    if command != "prepare":  # it writes 800 KiB, and fails on the way
        fill(small_disk)
    capfd.readouterr()
    assert run(output_commands(tiny_run / "model", minilm_data, small_disk)[command]) == 1
    line = capfd.readouterr().err
    assert line.startswith(f"t2i: {small_disk}") and line.count("\n") == 1
    assert "no space left on the disk (0." in line
    if command == "prepare":
        assert not (small_disk / "new").exists()
        assert sorted(p.name for p in (small_disk / "new.partial").iterdir()) == ["plan.json"]
    else:
        assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["filler"]


def test_a_file_name_cannot_write_to_the_terminal(here, capfd):
    """Names come from documents; control characters in them are shown as what they are."""
    pictures(here / "images", 2)
    texts(here / "images", 2)
    (here / "images" / "\x1b[31mred\r\x07.png").write_bytes(b"no picture")
    (here / "images" / "\x1b[31mred\r\x07.txt").write_text("red")
    source = ["prepare", "--images", "images", "--captions", "images", "--resolution", "16", "--workers", "1"]
    for options, code in (([], 1), (["--strict"], 1), (["--max-skipped", "1"], 0)):
        assert run([*source, "--out", "data", *options]) == code
        said = "".join(capfd.readouterr())
        assert r"\x1b[31mred\r\x07.png" in said and not {"\x1b", "\r", "\x07"} & set(said)
