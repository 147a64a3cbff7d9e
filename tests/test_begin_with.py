"""A new run with the networks of an earlier one."""

import pytest
import torch
from short_runs import CPU, assert_same_bits, config, final_tensors, start

from t2i.errors import UserError
from t2i.models import get_architecture
from t2i.training.loop import train
from t2i.training.setup import check_source


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
    shapes_data.text["sha256"], there = "f" * 64, shapes_data.text["sha256"]
    try:
        with pytest.raises(UserError, match="another text encoder"):
            check_source(config("stylegan2", **begin), shapes_data)
    finally:
        shapes_data.text["sha256"] = there
