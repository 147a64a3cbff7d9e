"""A new run with the networks of an earlier one."""

from types import SimpleNamespace

import pytest
import torch
from short_runs import CPU, assert_same_bits, config, final_tensors, start

from t2i.errors import UserError
from t2i.models import get_architecture
from t2i.training.loop import train
from t2i.training.run import Run
from t2i.training.setup import check_source, new_settings


def test_a_run_begins_with_the_networks_of_another(shapes_data, tmp_path):
    """Grown there, at full size here: what the source has besides is left; after that it is a run like any other."""
    source, _ = start(config("stylegan2"), shapes_data, tmp_path)
    settings = config("stylegan2", growing=False, kimg=0.016, seed=1, begin_with=str(source.folder))
    check_source(settings, shapes_data)
    before = final_tensors(source)
    run, _ = start(settings, shapes_data, tmp_path, stop=lambda: True)  # its first snapshot, before any step
    after = final_tensors(run)
    for name in ("generator", "discriminator", "ema"):
        assert after[f"{name}.safetensors"], name
        for key, value in after[f"{name}.safetensors"].items():
            assert torch.equal(value, before[f"{name}.safetensors"][key]), f"{name}: {key}"
    assert len(after["discriminator.safetensors"]) < len(before["discriminator.safetensors"])
    assert not after["optimizer_g.safetensors"]
    assert train(settings, shapes_data, run, CPU, resume=True).images_seen == 16
    whole, _ = start(settings, shapes_data, tmp_path)
    assert_same_bits(final_tensors(whole), final_tensors(run))
    assert_same_bits(final_tensors(source), before)


def test_the_average_goes_on_from_the_average_of_the_run_before(shapes_data, tmp_path):
    """And over a third run: it half forgets in a twentieth of all pictures that the networks saw."""
    run, _ = start(config(kimg=0.064), shapes_data, tmp_path)
    for seen in (64 + 8, 64 + 8 + 8):
        before = final_tensors(run)["ema.safetensors"]
        run, _ = start(config(kimg=0.008, begin_with=str(run.folder)), shapes_data, tmp_path)
        after, generator = (final_tensors(run)[f"{name}.safetensors"] for name in ("ema", "generator"))
        kept = 0.5 ** (8 / (0.05 * seen))
        for name, value in before.items():
            torch.testing.assert_close(after[name], kept * value + (1 - kept) * generator[name], msg=name)


def test_a_run_begins_with_networks_that_fit_only(shapes_data, tmp_path):
    source, _ = start(config("stylegan2", kimg=0.008), shapes_data, tmp_path)
    begin = {"begin_with": str(source.folder), "kimg": 0.008}
    for settings, words in [
        (config("dfgan", **begin), "its arch is stylegan2, here it is dfgan"),
        (config("stylegan2", conditioning="sentence", **begin), "its conditioning is attention, here it is sentence"),
        (config("stylegan2", text_encoder="transformer", **begin), "the vocabulary of a trained one"),
        (config("stylegan2", begin_with=str(tmp_path)), "no run here"),
    ]:
        with pytest.raises(UserError, match=words):
            check_source(settings, shapes_data)
    wider = config("stylegan2", model={**get_architecture("stylegan2").smallest, "fmap_base": 32}, **begin)
    with pytest.raises(UserError, match="its fmap_base is 16, here it is 32"):
        check_source(wider, shapes_data)
    with pytest.raises(UserError, match="does not fit: convs"):
        start(wider, shapes_data, tmp_path)
    smaller = SimpleNamespace(path="smaller", resolution=8, text=shapes_data.text)
    with pytest.raises(UserError, match="its resolution is 16, here it is 8"):
        check_source(config("dfgan", **begin), smaller)
    shapes_data.text["sha256"], there = "f" * 64, shapes_data.text["sha256"]
    try:
        with pytest.raises(UserError, match="another text encoder"):
            check_source(config("stylegan2", **begin), shapes_data)
    finally:
        shapes_data.text["sha256"] = there


def settings_beside(source, config=None, **flags):
    return new_settings(SimpleNamespace(resolution=64), {"begin_with": str(source.folder), **flags}, config, "cpu")


def run_of(tmp_path, seen, **changes):
    """A run that has come so far, as far as settings know."""
    settings, _ = new_settings(SimpleNamespace(resolution=64), changes, None, "cuda")
    facts = {"name": "a", "split": "train", "resolution": 64, "fingerprint": "", "path": "a"}
    run = Run.create(tmp_path, settings, facts, "cuda")
    (run.checkpoints / f"{seen:09d}").mkdir()
    return run, settings


def test_a_run_takes_over_the_shape_of_the_networks_and_does_not_start_from_likeness_again(tmp_path):
    source, theirs = run_of(tmp_path, 900_000)
    assert theirs.preset == "wide" and theirs.growing and theirs.pretrain_kimg == 256.0
    settings, origin = settings_beside(source)
    assert (settings.preset, settings.model) == ("wide", theirs.model)
    assert (settings.pretrain_kimg, settings.growing) == (0.0, False)
    assert origin["growing"] == f"goes on from {source.folder}"
    own, _ = settings_beside(source, pretrain_kimg=8.0, growing=True, preset="fast")
    assert (own.pretrain_kimg, own.growing, own.preset, own.model["fmap_base"]) == (
        8.0, True, "fast", theirs.model["fmap_base"],
    )  # fmt: skip


def test_a_run_begun_with_one_that_was_stopped_early_learns_what_that_had_yet_to(tmp_path):
    source, theirs = run_of(tmp_path, 100_000)
    settings, _ = settings_beside(source)
    assert (settings.pretrain_kimg, settings.growing) == (theirs.pretrain_kimg, True)
    fading, _ = run_of(tmp_path, 260_000)  # at 64 px, but hardly yet
    assert settings_beside(fading)[0].growing
    blurred, theirs = run_of(tmp_path, 100_000, preset="projected")
    assert theirs.blur_kimg > 0 and settings_beside(blurred)[0].blur_kimg == 0.0
    other, _ = run_of(tmp_path, 100_000, arch="dfgan")
    assert settings_beside(other)[0].arch == "dfgan"
    assert settings_beside(other, arch="stylegan")[0].arch == "stylegan"  # check_source refuses it
