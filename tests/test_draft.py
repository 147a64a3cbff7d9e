"""A first picture by a perceptron, which the convolutions of stylegan2 begin with and add to."""

import json

import pytest
import torch
from short_runs import CPU, assert_same_bits, config, final_tensors, start

from t2i.losses.likeness import coarse_difference
from t2i.models import get_architecture
from t2i.models.folder import load_tensors
from t2i.models.growing import Growth, set_growth
from t2i.models.stylegan2 import StyleGAN2Generator
from t2i.text.pooler import TextBatch, TextStatistics
from t2i.training.checkpoint import list_checkpoints
from t2i.training.loop import train
from t2i.training.state import TrainingState
from t2i.training.text import PreparedText

DRAFTING = {**get_architecture("stylegan2").smallest, "sketch": 0, "draft": 8, "draft_hidden": 32}


def text(batch=2):
    generator = torch.Generator().manual_seed(1)
    return TextBatch(torch.randn(batch, 5, 24, generator=generator), torch.ones(batch, 5, dtype=torch.bool))


def make(side=8, resolution=16):
    torch.manual_seed(0)
    options = {**DRAFTING, "draft": side}
    return StyleGAN2Generator(resolution, "attention", TextStatistics.identity(24), **options)


@pytest.mark.parametrize("side", [4, 8, 16])
@pytest.mark.parametrize("growth", [Growth(8), Growth(16, 0.5), Growth(16)])
def test_at_first_the_picture_is_the_draft(side, growth):
    generator = make(side)
    set_growth(generator, growth)
    z, condition = torch.randn(2, generator.z_dim), generator.pool(text())
    picture, (draft,) = generator.synthesis(z, condition), generator.draft(z[None], text())
    assert draft.shape == (2, 3, side, side)
    assert draft.std((0, 2, 3)).min() > 0.05
    assert picture.shape == (2, 3, growth.resolution, growth.resolution)
    torch.testing.assert_close(picture, generator.drafter.at(growth.resolution, draft))
    if side >= growth.resolution:  # averaged down; a smaller one is interpolated
        torch.testing.assert_close(coarse_difference(picture, draft, [growth.resolution]), torch.zeros(2))


def test_every_pixel_of_the_draft_reaches_features_of_every_size():
    drafter = make(16).drafter
    picture = torch.zeros(1, 3, 16, 16)
    for size in (4, 8, 16):
        plain = drafter.seen_at(size, picture)
        for place in ((0, 3, 5), (2, 15, 0)):
            touched = picture.clone()
            touched[0, *place] = 1
            changed = (drafter.seen_at(size, touched) - plain).abs().sum((0, 1))
            assert changed.nonzero().tolist() == [[place[1] * size // 16, place[2] * size // 16]]


def test_only_the_draft_teaches_the_drafter():
    generator = make()
    for layer in generator.to_rgb:
        torch.nn.init.normal_(layer.conv.weight)
    z = torch.randn(2, generator.z_dim)
    generator(z, text()).square().sum().backward()
    assert all(p.grad is None for p in generator.drafter.sketch.parameters())
    assert all(p.grad is not None and p.grad.any() for p in generator.drafter.looks.parameters())
    generator.zero_grad()
    generator.draft(z[None], text()).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in generator.drafter.sketch.parameters())
    assert all(p.grad is None for p in generator.convs.parameters())
    assert any(p.grad is not None and p.grad.any() for p in generator.mapping.parameters())


def test_without_one_the_draft_is_the_picture():
    torch.manual_seed(0)
    generator = StyleGAN2Generator(
        16, "attention", TextStatistics.identity(24), **get_architecture("stylegan2").smallest
    )
    z, condition = torch.randn(2, generator.z_dim), generator.pool(text())
    assert not generator.drafts
    torch.testing.assert_close(generator.draft(z[None], text())[0], generator.synthesis(z, condition))


@pytest.mark.parametrize("side", [3, 12, 32])
def test_draft_of_no_resolution_of_the_generator_is_refused(side):
    with pytest.raises(ValueError, match=f"draft is one of 0, 4, 8, 16, not {side}"):
        make(side)


def test_several_noises_are_drafted_at_once():
    generator = make()
    noises = torch.randn(3, 2, generator.z_dim)
    drafts = generator.draft(noises, text())
    assert drafts.shape == (3, 2, 3, 8, 8)
    for z, draft in zip(noises, drafts):
        torch.testing.assert_close(draft, generator.draft(z[None], text())[0])


@pytest.mark.parametrize("shared_fakes", [False, True])
def test_stopped_and_resumed_ends_bit_identical(shared_fakes, shapes_data, tmp_path):
    settings = config(
        "stylegan2", model=DRAFTING, likeness=10.0, nearest_of=3, pretrain_kimg=0.024, shared_fakes=shared_fakes
    )
    whole, _ = start(settings, shapes_data, tmp_path / "whole")
    asked = iter([False, False, False, False, True])
    run, outcome = start(settings, shapes_data, tmp_path / "parts", stop=lambda: next(asked))
    assert outcome.reason == "signal"
    train(settings, shapes_data, run, CPU, resume=True)
    assert_same_bits(final_tensors(whole), final_tensors(run))


def test_it_is_pretrained_alone_and_learns_on_beside_the_discriminator(shapes_data, tmp_path):
    settings = config(
        "stylegan2", model=DRAFTING, likeness=10.0, pretrain_kimg=0.4, kimg=0.8, pretrain_lr=3e-3, growing=False,
        log_kimg=0.2, snapshot_kimg=0.4, shared_fakes=True,
    )  # fmt: skip
    run, _ = start(settings, shapes_data, tmp_path)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[1]["unlike"] < 0.95 * lines[0]["unlike"]
    assert ["unlike_draft" in line for line in lines] == [False, False, True, True]
    assert lines[3]["unlike_draft"] < 1.05 * lines[1]["unlike"]
    fresh = TrainingState(settings, shapes_data.resolution, PreparedText(shapes_data), CPU).generator.state_dict()
    files = [folder / "generator.safetensors" for folder in list_checkpoints(run.checkpoints)[-2:]]
    pretrained, trained = (load_tensors(file) for file in files)
    moved = {name for name, value in fresh.items() if not torch.equal(value, pretrained[name])}
    assert any(name.startswith("drafter.sketch") for name in moved)
    assert not any(name.startswith(("convs", "to_rgb", "first", "drafter.looks")) for name in moved)
    assert not torch.equal(pretrained["to_rgb.0.conv.weight"], trained["to_rgb.0.conv.weight"])
    assert not torch.equal(pretrained["drafter.sketch.out.weight"], trained["drafter.sketch.out.weight"])
