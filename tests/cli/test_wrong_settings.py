"""Options, settings, data and runs that `train` refuses: one line, the right exit code, nothing written."""

import json
import shutil
from pathlib import Path

import pytest
from folders import listing

from t2i.cli import run


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
        (["--growing"], "--growing has no effect: 16 px would be the only stage"),
        (["--arch", "dfgan", "--penalty", "none", "--penalty-every", "4"], "--penalty-every has no effect"),
        (["--penalty-every", "4"], "there is no penalty here, --penalty is none (preset fast)"),
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
        ('lr_g = "5"', 2, "run.toml: lr_g: input should be a number, not '5'"),
        ("batch = 1", 2, "run.toml: batch must be at least 2"),
        ("ema_kimg = 0", 2, "run.toml: ema_kimg must be above 0"),
        ("likeness = -1", 2, "run.toml: likeness"),
        ("perceptual = -1", 2, "run.toml: perceptual"),
        ('preset = "small"\nperceptual = 1', 2, "perceptual looks through a frozen network"),
        ("nearest_of = 0", 2, "run.toml: nearest_of"),
        ("noise_kl = -1", 2, "run.toml: noise_kl"),
        ("likeness = 1\nnoise_kl = 1\nnearest_of = 2", 2, "noise_kl and run.toml: nearest_of do not go together"),
        ("likeness = 0\nnoise_kl = 1", 2, "run.toml: noise_kl needs run.toml: likeness"),
        ('preset = "small"\nnoise_kl = 1', 2, "run.toml: noise_kl needs likeness: "),
        ("pretrain_kimg = -1", 2, "run.toml: pretrain_kimg must not be negative"),
        ("pretrain_kimg = true", 2, "run.toml: pretrain_kimg: input should not be true or false"),
        ("pretrain_lr = 0", 2, "run.toml: pretrain_lr must be above 0"),
        ("contrastive = 0\nplaces = true", 2, "places needs a contrastive term"),
        ("[model]\ntext_layers = -1", 2, "text_layers"),
        ("[model]\ntext_lr = 0.0", 2, "text_lr is above 0"),
        ('conditioning = "sentence"\n[model]\ntext_layers = 1', 2, "text_layers reads tokens"),
        ("beta1 = nan", 2, "run.toml: beta1 must be a number"),
        ("penalty_weight = -1", 2, "run.toml: penalty_weight"),
        ('penalty = "none"\npenalty_weight = 2.0', 2, "run.toml: penalty_weight has no effect"),
        ('augment = ["blur"]', 2, "run.toml: augment: "),
        ("arch = [1]", 2, "no architecture '[1]'"),
        ("preset = [1]", 2, "run.toml: preset [1]"),
        ("model = 3", 2, "[model] must be a table"),
        ("[model]\ndepth = 3", 2, "no model setting 'depth'"),
        ('arch = "dfgan"\n[model]\nnf = "wide"', 2, "[model] nf must be of type int"),
        ('arch = "dfgan"\n[model]\nnf = true', 2, "[model] nf must be of type int"),
        ('arch = "dfgan"\n[model]\nnf = -4', 2, "cannot be built"),
        ('arch = "dfgan"\n[model]\nnf = 1000000000000', 2, "cannot be built"),
    ],
    ids=lambda value: value if isinstance(value, str) and ("=" in value or value == "\x00") else None,
)
def test_a_config_file_that_is_wrong(refused, here, minilm_data, text, code, words):
    (here / "run.toml").write_text(text)
    refused(code, words, "train", minilm_data, "--config", "run.toml", "--kimg", "0.008")


@pytest.mark.parametrize("arch", ["stylegan", "stylegan2"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("mapping_layers = 0", "mapping_layers is 1 or more, not 0"),
        ("w_dim = -1", "cannot be built"),
        ("fmap_max = 1.5", "fmap_max must be of type int"),
    ],
)
def test_a_network_that_cannot_be(refused, here, minilm_data, arch, setting, words):
    (here / "run.toml").write_text(f"[model]\n{setting}\n")
    refused(2, words, "train", minilm_data, "--arch", arch, "--config", "run.toml")


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


@pytest.mark.parametrize(("setting", "value"), [("arch", "dfgam"), ("preset", "tiny")])
def test_a_name_that_there_is_not_is_said_to_be_where_it_stands(refused, here, minilm_data, setting, value):
    (here / "run.toml").write_text(f'{setting} = "{value}"\n')
    refused(2, f"run.toml: {setting}", "train", minilm_data, "--config", "run.toml")
    refused(2, f"--{setting}", "train", minilm_data, f"--{setting}", value)
    refused(2, f"t2i: --{setting}", "train", minilm_data, f"--{setting}", value, "--config", "run.toml")


def test_a_data_set_that_was_moved_is_found_again_or_asked_for(refused, here, minilm_data, tiny_run, t2i):
    shutil.copytree(tiny_run, "runs/00000-dfgan")
    facts = json.loads(Path("runs/00000-dfgan/config.json").read_text())
    facts["data"]["path"] = "t2i-data/gone"
    Path("runs/00000-dfgan/config.json").write_text(json.dumps(facts))
    said = "t2i-data/gone: the data set that runs/00000-dfgan was trained on is not there"
    line = refused(1, said, "train", "--resume")
    assert line.endswith("name it: t2i train DATA --resume runs/00000-dfgan")
    shutil.copytree(minilm_data, "t2i-data/another-name")
    assert "t2i-data/another-name" in t2i("train", "--resume", "--dry-run")


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
    refused(2, "--best-by needs --eval-every", "train", "--resume", tiny_run, "--best-by", "fd")
    refused(1, "its fingerprint differs", "train", shapes_data.path, "--resume", tiny_run)
    assert listing(tiny_run) == before
    run_folder = here / "run"
    shutil.copytree(tiny_run, run_folder)
    shutil.rmtree(run_folder / "checkpoints")
    assert run(["train", "--resume", str(run_folder)]) == 1
