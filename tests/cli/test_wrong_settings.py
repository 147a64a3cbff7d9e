"""Options, settings, data and runs that `train` refuses: one line, the right exit code, nothing written."""

import json
import shutil
import sys
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
        (["--amp", "--precision", "fp32"], "--amp chooses the precision"),
        (["--device", "abacus"], "--device abacus"),
        (["--eval-every", "0"], "--eval-every must be above 0"),
        (["--eval-every", "8", "--best-by", "fid"], "--best-by: input should be"),
        (["--best-by", "fd"], "--best-by has no effect: it needs --eval-every"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--threads", "1025"], "--threads must be at most 1,024"),
        (["--growing"], "--growing has no effect: 16 px would be the only stage"),
        (["--arch", "dfgan", "--penalty", "none", "--penalty-every", "4"], "--penalty-every has no effect"),
        (["--penalty-every", "4"], "--penalty-every has no effect: --penalty is none (preset fast)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_train_options_that_make_no_sense(refused, minilm_data, options, words):
    refused(2, words, "train", minilm_data, *options)


DFGAN = 'arch = "dfgan"\npreset = "small"\n[model]\n'


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("optim.batch = ", 1, "not valid TOML"),
        ("\x00", 1, "not valid TOML"),
        ("batches = 8", 2, "run.toml: batches: there is no such setting; t2i train --dry-run prints all"),
        ("[optim]\nbatches = 8", 2, "run.toml: optim.batches: there is no such setting"),
        ('optim.batch = "many"', 2, "run.toml: optim.batch: "),
        ('optim.lr_g = "5"', 2, "run.toml: optim.lr_g: input should be a number, not '5'"),
        ("optim.batch = 1", 2, "run.toml: optim.batch must be at least 2"),
        ("optim.ema_kimg = 0", 2, "run.toml: optim.ema_kimg must be above 0"),
        ("batch = 1", 2, "run.toml: optim.batch must be at least 2"),  # a name of 0.1
        ("[loss]\nenergy.weight = -1", 2, "run.toml: loss.energy.weight must be at least 0"),
        ("[loss]\nenergy.repulsion = 2", 2, "run.toml: loss.energy.repulsion must be at most 1"),
        ('preset = "small"\n[loss.energy]\nfeatures = 1\nweight = 1', 2, "loss.energy.features compares features"),
        ("[loss]\nadversarial.shared_fakes = true", 2, "it excludes loss.adversarial.shared_fakes"),
        ("likeness = 20", 2, "likeness"),
        ("[loss.darkness]\nweight = 1", 2, "run.toml: loss.darkness.weight: there is no loss 'darkness'; there is adv"),
        ("[loss]\npenalty.strength = 1", 2, "run.toml: loss.penalty.strength: penalty has kind, weight, every"),
        ("loss.contrastive = 1", 2, "run.toml: loss.contrastive: there is no such setting"),
        ("loss.contrastive.weight.d = 1", 2, "run.toml: loss.contrastive.weight.d: there is no such setting"),
        ("schedule.warm_up_kimg = -1", 2, "run.toml: schedule.warm_up_kimg must be at least 0"),
        ("schedule.warm_up_kimg = true", 2, "schedule.warm_up_kimg: input should not be true or false"),
        ("schedule.warm_up_lr = 0", 2, "run.toml: schedule.warm_up_lr must be above 0"),
        ("[loss]\ncontrastive.weight = 0\nword_region.weight = 1", 2, "loss.word_region needs the contrastive loss"),
        ("contrastive = 0\nplaces = true", 2, "loss.word_region needs the contrastive loss"),
        ("text.layers = -1", 2, "run.toml: text.layers must be at least 0"),
        ("text.lr_multiplier = 0.0", 2, "run.toml: text.lr_multiplier must be above 0"),
        ("text.lr_multiplier = -1", 2, "run.toml: text.lr_multiplier must be above 0"),
        ('[text]\nconditioning = "sentence"\nlayers = 1', 2, "text.layers mixes tokens"),
        ("optim.beta1 = nan", 2, "run.toml: optim.beta1 must be a number"),
        ("loss.penalty.weight = -1", 2, "run.toml: loss.penalty.weight must be at least 0"),
        ('loss.adversarial.augment = ["blur"]', 2, "run.toml: loss.adversarial.augment: "),
        ("arch = [1]", 2, "no architecture '[1]'"),
        ("preset = [1]", 2, "run.toml: preset [1]"),
        ("model = 3", 2, "run.toml: model: there is no such setting"),
        ("[model]\ndepth = 3", 2, "there is no [model] setting 'depth'; it has z_dim, "),
        ('[model]\ndiscriminator.kind = "vqgan"', 2, "no discriminator 'vqgan'; there is dfgan, "),
        (f'{DFGAN}generator.nf = "wide"', 2, "run.toml: model.generator.nf must be of type int"),
        (f"{DFGAN}discriminator.nf = true", 2, "run.toml: model.discriminator.nf must be of type int"),
        (f'{DFGAN}nf = "wide"', 2, "[model] nf must be of type int"),  # of both, as in 0.1
        (f"{DFGAN}generator.nf = -4", 2, "cannot be built"),
        (f"{DFGAN}generator.nf = 1000000000000", 2, "cannot be built"),
    ],
    ids=lambda value: value if isinstance(value, str) and ("=" in value or value == "\x00") else None,
)
def test_a_config_file_that_is_wrong(refused, here, minilm_data, text, code, words):
    (here / "run.toml").write_text(text)
    refused(code, words, "train", minilm_data, "--config", "run.toml", "--kimg", "0.008")


SMALL = 'preset = "small"\n'
SENTENCE = 'text.conditioning = "sentence"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schedule.fade = 0.3", "run.toml: schedule.fade has no effect: it needs --growing (preset fast)"),
        ("schedule.grow_kimg = 9", "run.toml: schedule.grow_kimg has no effect: it needs --growing (preset fast)"),
        ("[[schedule.stages]]\nresolution = 16\nshare = 1", "run.toml: schedule.stages has no effect: it needs --grow"),
        ("schedule.growing = false\nfade = 0.3", "schedule.fade has no effect: it needs --growing (run.toml)"),
        (f"{SMALL}schedule.warm_up_lr = 1", "schedule.warm_up_lr has no effect: it needs schedule.warm_up_kimg ("),
        ("eval.samples = 9", "run.toml: eval.samples has no effect: it needs --eval-every"),
        ('eval.data = "x"', "run.toml: eval.data has no effect: it needs --eval-every"),
        ('eval.best_by = "fd"', "run.toml: eval.best_by has no effect: it needs --eval-every"),
        ("loss.penalty.weight = 2.0", "run.toml: loss.penalty.weight has no effect: --penalty is none (preset fast)"),
        ('[loss.penalty]\nkind = "none"\nevery = 2', "loss.penalty.every has no effect: --penalty is none (run.toml)"),
        ("text.transformer.width = 64", "text.transformer.width has no effect: --text-encoder is prepared"),
        (f"{SENTENCE}text.layers = 0", "text.layers has no effect: --conditioning is sentence (run.toml)"),
        ("[model]\ndiscriminator.match_width = 8",
         "run.toml: model.discriminator.match_width has no effect: the discriminator projected has input_resolution"),
        ('[model.discriminator]\nkind = "stylegan2"\ninput_resolution = 64',
         "model.discriminator.input_resolution has no effect: the discriminator stylegan2 has fmap_base, "),
        ("[model]\ngenerator.nf = 8", "model.generator.nf has no effect: the generator of stylegan2 has z_dim, "),
    ],
)  # fmt: skip
def test_a_setting_without_effect(refused, here, minilm_data, text, words):
    (here / "run.toml").write_text(text)
    refused(2, words, "train", minilm_data, "--config", "run.toml")


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
    (here / "run.toml").write_text(f"[model.generator]\n{setting}\n")
    refused(2, words, "train", minilm_data, "--arch", arch, "--config", "run.toml")


def test_a_config_file_that_is_none(refused, here, minilm_data):
    refused(1, "run.toml", "train", minilm_data, "--config", "run.toml")
    refused(1, "run.toml", "train", minilm_data, "--preset", "run.toml")
    (here / "run.toml").mkdir()
    refused(1, "run.toml", "train", minilm_data, "--config", "run.toml")
    refused(1, "run.toml", "train", minilm_data, "--preset", "run.toml")


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


def test_resuming_what_cannot_be_resumed(refused, here, minilm_data, shapes_data, tiny_run, tiny_model):
    refused(1, "no run here", "train", "--resume", "missing")
    refused(1, "no run here", "train", "--resume", minilm_data)
    refused(1, "not a run's configuration", "train", "--resume", tiny_model / "generator")
    before = listing(tiny_run)
    refused(2, "--batch 16 differs from the run's 8", "train", "--resume", tiny_run, "--batch", "16")
    refused(2, "--precision bf16 differs", "train", "--resume", tiny_run, "--precision", "bf16")
    refused(2, "--config", "train", "--resume", tiny_run, "--config", "run.toml")
    refused(2, "--out", "train", "--resume", tiny_run, "--out", "elsewhere")
    refused(2, "--kimg must be above 0", "train", "--resume", tiny_run, "--kimg", "-1")
    refused(2, "--best-by has no effect: it needs --eval-every", "train", "--resume", tiny_run, "--best-by", "fd")
    refused(1, "its fingerprint differs", "train", shapes_data.path, "--resume", tiny_run)
    assert listing(tiny_run) == before
    run_folder = here / "run"
    shutil.copytree(tiny_run, run_folder)
    shutil.rmtree(run_folder / "checkpoints")
    assert run(["train", "--resume", str(run_folder)]) == 1


def test_a_page_that_trains_for_others_needs_a_password(refused, monkeypatch):
    monkeypatch.delenv("T2I_PASSWORD", raising=False)
    refused(2, "needs a --password", "ui", "--host", "0.0.0.0", "--allow-training")
    refused(2, "needs a --password", "ui", "--share", "--allow-training")
    refused(2, "--port lies between", "ui", "--port", "0")


def test_without_the_extra_a_page_says_what_to_install(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    refused(1, "pip install 't2i[ui]'", "ui")
