"""The training loop: stateless, exact under accumulation, resumable, and it speaks up when something is wrong."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch
from short_runs import (
    CPU,
    SMALL_ENCODER,
    assert_same_bits,
    config,
    final_tensors,
    first_batch,
    logged,
    new_trainer,
    plan_of,
    start,
)

from t2i.errors import UserError
from t2i.models import list_architectures
from t2i.tensors import load_tensors
from t2i.training import progress
from t2i.training.checkpoint import list_checkpoints, newest_checkpoint, pack, unpack
from t2i.training.collapse import CollapseWatch
from t2i.training.ema import EMA
from t2i.training.loading import BatchLoader, to_device
from t2i.training.loop import train
from t2i.training.nan_guard import NanGuard, NotFinite
from t2i.training.randomness import StepRandom
from t2i.training.run import Run, find_runs
from t2i.training.step import discriminator_loss
from t2i.training.text import PreparedText
from t2i.training.trainer import Trainer

KINDS = {
    "plain": {},
    "accumulate-lazy": {"optim.accumulate": 2, "loss": {"penalty.every": 3, "adversarial.mismatches": 3}},
    "shared-fakes": {"loss": {"adversarial.shared_fakes": True}},
    "energy": {"schedule.warm_up_kimg": 0.01, "optim.accumulate": 2, "loss": {"energy.weight": 2.0}},
    "word-region": {"optim.accumulate": 2, "loss": {"contrastive.weight": 1.0, "word_region.weight": 1.0}},
    "trained-encoder": {
        "text.encoder": "transformer", "text.transformer": SMALL_ENCODER, "loss.adversarial.mismatches": 2,
    },
}  # fmt: skip
# The quick suite has each architecture; the slow one all pairs.
QUICK = (("dfgan", "accumulate-lazy"), ("stylegan", "energy"), ("stylegan2", "shared-fakes"))


@pytest.mark.parametrize("arch, kind", [
    pytest.param(arch, kind, marks=() if (arch, kind) in QUICK else pytest.mark.slow)
    for arch in list_architectures()
    for kind in KINDS
])  # fmt: skip
def test_stopped_and_resumed_ends_bit_identical_to_uninterrupted(arch, kind, shapes_data, tmp_path):
    settings = config(arch, **KINDS[kind])
    whole, _ = start(settings, shapes_data, tmp_path / "whole")

    asked = iter([False, False, True])  # stops after two steps, between snapshots
    run, outcome = start(settings, shapes_data, tmp_path / "parts", stop=lambda: next(asked))
    assert (outcome.reason, outcome.images_seen) == ("signal", 16)
    outcome = train(settings, shapes_data, run, CPU, resume=True)
    assert (outcome.reason, outcome.images_seen) == ("done", 48)
    assert_same_bits(final_tensors(whole), final_tensors(run))

    keys = ("loss_g", "loss_d", "logits_real", "images_seen")
    first, second = ([[line.get(key) for key in keys] for line in logged(each)] for each in (whole, run))
    assert first == second


def test_run_folder_holds_all_that_was_promised(shapes_data, tmp_path, curves):
    run, outcome = start(config(), shapes_data, tmp_path)
    assert outcome.reason == "done"
    assert run.folder.name == "00000-dfgan-shapes-train-16"
    for name in ("config.json", "metrics.jsonl", "metrics.csv", "losses.png", "samples/reals.png",
                 "samples/000000000.png", "samples/000000048.png",
                 *(f"checkpoints/{number}/model/{file}" for number in ("000000000", "000000016", "000000048")
                   for file in ("model_index.json", "README.md", "generator/model.safetensors",
                                "generator/config.json"))):  # fmt: skip
        assert (run.folder / name).is_file(), name
    assert [folder.name for folder in list_checkpoints(run.checkpoints)] == ["000000032", "000000048"]
    last = logged(run)[-1]
    for name in ("loss_g", "loss_d", "penalty", "logits_real", "logits_mismatch", "logits_fake", "diversity"):
        assert isinstance(last[name], float), name
    assert find_runs(tmp_path) == [run.folder]


@pytest.mark.parametrize("shared_fakes", [pytest.param(False, marks=pytest.mark.slow), True])
def test_accumulation_has_the_same_gradients_and_trains_the_same_weights(shared_fakes, shapes_data, tmp_path):
    settings = config(loss__adversarial__shared_fakes=shared_fakes)
    ends = {}
    for kimg in (0.008, 0.016):  # a step, and two
        whole = settings.changed(schedule__kimg=kimg)
        for pieces in (whole, whole.changed(optim__accumulate=4)):
            run, _ = start(pieces, shapes_data, tmp_path / f"{kimg}-{pieces.optim.accumulate}")
            ends[kimg, pieces.optim.accumulate] = final_tensors(run)
    for name in ("optimizer_d.safetensors", "optimizer_g.safetensors"):
        gradients = {key: value for key, value in ends[0.008, 1][name].items() if key.endswith("exp_avg")}  # beta1 is 0
        assert gradients and settings.optim.beta1 == 0
        for key, value in gradients.items():
            if value.norm() > 1e-8:  # a softmax does not see a key's bias: its gradient is rounding
                assert (ends[0.008, 4][name][key] - value).norm() < 1e-4 * value.norm(), (name, key)
    apart = [
        (ends[0.016, 4][name][key] - value).abs().flatten()
        for name, tensors in ends[0.016, 1].items() if not name.startswith("optimizer")
        for key, value in tensors.items()
    ]  # fmt: skip
    # Adam makes whole steps of lr_g, 1e-3, of gradients that are rounding: few numbers may differ so.
    assert (torch.cat(apart) > 1e-3).float().mean() < 0.01 and torch.cat(apart).max() < 4e-3


def test_minutes_stop_a_run(shapes_data, tmp_path, monkeypatch):
    looks = itertools.count()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(looks))))  # a second each
    _, outcome = start(config(schedule__kimg=1000, schedule__minutes=1), shapes_data, tmp_path)
    assert outcome.reason == "minutes"
    assert 0 < outcome.images_seen < 1000


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_stays_close_to_fp32(precision, shapes_data, tmp_path):
    settings = config(schedule__kimg=0.008)
    plain, _ = start(settings, shapes_data, tmp_path / "a")
    mixed, _ = start(settings.changed(optim__precision=precision), shapes_data, tmp_path / "b")
    lines = [logged(run)[0] for run in (plain, mixed)]
    for name in ("loss_d", "loss_g", "penalty"):
        assert lines[1][name] == pytest.approx(lines[0][name], rel=0.05, abs=0.05), name


def test_nan_stops_before_the_step_and_leaves_the_checkpoint_alone(shapes_data, tmp_path):
    settings = config(optim__lr_d=1e20, schedule__kimg=1)
    with pytest.raises(UserError, match=r"gradient of phase [DG] is (nan|inf)") as caught:
        start(settings, shapes_data, tmp_path)
    assert "\n" not in str(caught.value)
    (folder,) = find_runs(tmp_path)
    checkpoint, _, complaints = newest_checkpoint(Run(folder).checkpoints)
    assert not complaints
    assert all(torch.isfinite(v).all() for v in load_tensors(checkpoint / "generator.safetensors").values())


def fail_once(monkeypatch, images_seen):
    """Has a run meet NaN in the step that begins there, once; the returned list then is not empty."""
    update, failed = Trainer._update, []

    def failing(trainer, phase, plan):
        if plan.images_seen == images_seen and not failed:
            failed.append(images_seen)
            raise NotFinite("the gradient of phase D is nan")
        update(trainer, phase, plan)

    monkeypatch.setattr(Trainer, "_update", failing)
    return failed


def test_after_nan_a_run_goes_back_draws_other_numbers_and_ends(shapes_data, tmp_path, monkeypatch):
    whole, _ = start(config(), shapes_data, tmp_path / "whole")
    fail_once(monkeypatch, 24)
    said = []
    run, outcome = start(config(run__on_nan="rollback"), shapes_data, tmp_path / "back", say=said.append)
    assert outcome.reason == "done"
    assert [line.split(" images")[0] for line in said] == [
        "the gradient of phase D is nan; going back",
        "resumed at 16",
    ]
    assert [line["images_seen"] for line in logged(run)] == [8, 16, 24, 32, 40, 48]
    assert not torch.equal(final_tensors(run)["generator.safetensors"]["to_rgb.weight"],
                           final_tensors(whole)["generator.safetensors"]["to_rgb.weight"])  # fmt: skip


@pytest.mark.parametrize("on_nan", ["stop", "rollback"])
def test_a_late_verdict_is_heard_before_what_the_step_made_is_kept(on_nan, shapes_data, tmp_path, monkeypatch):
    """On a GPU it would be read a step later: here the last step of all, and of an interval, is broken."""
    init, gradients, broken = NanGuard.__init__, Trainer._backward, []

    def break_once(trainer, phase, plan, *rest):
        shared = gradients(trainer, phase, plan, *rest)
        if phase.name == "D" and plan.images_seen == 40 and not broken:
            broken.append(plan.images_seen)
            next(phase.module.parameters()).grad.fill_(float("nan"))
        return shared

    monkeypatch.setattr(NanGuard, "__init__", lambda guard, statistics, late: init(guard, statistics, late=True))
    monkeypatch.setattr(Trainer, "_backward", break_once)
    said = []
    if on_nan == "rollback":
        run, outcome = start(config(run__on_nan=on_nan), shapes_data, tmp_path, say=said.append)
        assert outcome.reason == "done"
        assert [line.split(" images")[0] for line in said][1:] == ["resumed at 32"]
    else:
        with pytest.raises(NotFinite, match="gradient of phase D is nan after 40 images"):
            start(config(), shapes_data, tmp_path)
        (folder,) = find_runs(tmp_path)
        run = Run(folder)
        assert [int(path.name) for path in list_checkpoints(run.checkpoints)] == [16, 32]
    assert broken


@pytest.mark.slow
def test_minutes_go_on_over_a_rollback(shapes_data, tmp_path, monkeypatch):
    ticks, failed = itertools.count(), fail_once(monkeypatch, 24)
    # Nearly all of its two seconds have gone by when it goes back.
    clock = SimpleNamespace(monotonic=lambda: next(ticks) * 1e-3 + 1.9 * bool(failed))
    monkeypatch.setattr(progress, "time", clock)
    settings = config(run__on_nan="rollback", schedule__kimg=1000, schedule__minutes=2 / 60)
    _, outcome = start(settings, shapes_data, tmp_path)
    assert failed and outcome.reason == "minutes"
    assert outcome.seconds >= 2 and outcome.images_seen < 300


def test_nan_that_comes_again_and_again_stops_a_run_after_three_rollbacks(shapes_data, tmp_path):
    said = []
    with pytest.raises(UserError, match="gradient of phase"):
        start(
            config(optim__lr_d=1e20, schedule__kimg=1, run__on_nan="rollback"), shapes_data, tmp_path, say=said.append
        )
    assert sum("going back" in line for line in said) == 3


# ---- what a step is made of ----


def test_random_numbers_depend_on_seed_step_and_name_only():
    whole = StepRandom(1, 64, 8).normal("z", 5)
    assert torch.equal(StepRandom(1, 64, 8, slice(2, 5)).normal("z", 5), whole[2:5])
    for other in (StepRandom(2, 64, 8), StepRandom(1, 72, 8)):
        assert not torch.equal(other.normal("z", 5), whole)
    assert not torch.equal(StepRandom(1, 64, 8).normal("w", 5), whole)


def test_batches_are_a_function_of_images_seen(shapes_data):
    first, second = (BatchLoader(shapes_data, PreparedText(shapes_data), 0, "cpu") for _ in range(2))
    first.load(0, 8)
    a, b = first.load(8, 8), second.load(8, 8)  # one read ahead, one fresh
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.captions.tokens, b.captions.tokens)
    assert torch.equal(a.wrong, b.wrong)
    assert a.images.shape == (8, 3, 16, 16)
    assert a.images.min() >= -1
    assert a.images.max() <= 1
    assert sorted(a.wrong.flatten().tolist()) == list(range(8))
    for loader in (first, second):
        loader.close()


def test_another_caption_of_an_image_that_is_drawn_twice_is_no_wrong_one(shapes_data):
    count = len(shapes_data)
    batch = first_batch(shapes_data, 2 * count)
    alike = (batch.images[:, None] == batch.images).flatten(2).all(2)
    assert (alike.sum(1) >= 2).all()
    assert batch.belongs[alike].all() and not batch.belongs.all()
    for row, wrong in enumerate(batch.wrong[:, 0].tolist()):
        assert not batch.belongs[row, wrong]


def test_several_wrong_captions_are_different_ones(shapes_data):
    one, three = (BatchLoader(shapes_data, PreparedText(shapes_data), 0, "cpu", mismatches=k) for k in (1, 3))
    single, batch = one._read(0, 8), three._read(0, 8)
    assert batch.wrong.shape == (8, 3)
    assert torch.equal(batch.wrong[:, :1], single.wrong)  # the first is what it was
    columns = batch.wrong.unbind(1)
    assert not any(torch.equal(columns[a], columns[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    for loader in (one, three):
        loader.close()


def test_loss_of_several_wrong_captions_is_their_mean(shapes_data):
    batch = first_batch(shapes_data, mismatches=3)
    trainer, plan = new_trainer(shapes_data, loss__penalty__kind="none"), plan_of(config(), 0)

    def loss(batch):
        return discriminator_loss(trainer.objective, plan, batch, StepRandom(0, 0, 8))[0]

    apart = [loss(dataclasses.replace(batch, wrong=batch.wrong[:, k : k + 1])) for k in range(3)]
    torch.testing.assert_close(loss(batch), torch.stack(apart).mean())


def test_pixels_reach_the_network_as_they_were_drawn(shapes_data):
    loader = BatchLoader(shapes_data, PreparedText(shapes_data), 0, "cpu")
    batch = loader._read(0, 8)
    pixels = to_device(batch, slice(0, 8), CPU).images.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1)
    assert torch.equal(pixels, batch.images)
    loader.close()


def test_ema_half_life_is_counted_in_images():
    model = torch.nn.Linear(1, 1, bias=False)
    ema = EMA(model, half_life=100, ramp=1e9)
    torch.nn.init.zeros_(ema.model.weight)
    torch.nn.init.ones_(model.weight)
    for step in range(10):
        ema.update(model, images_seen=(step + 1) * 10, batch=10)
    assert ema.model.weight.item() == pytest.approx(0.5)


def test_ema_starts_close_to_the_model():
    model = torch.nn.Linear(1, 1, bias=False)
    ema = EMA(model, half_life=1e6)
    torch.nn.init.constant_(model.weight, 7.0)
    ema.update(model, images_seen=10, batch=10)
    assert ema.model.weight.item() == pytest.approx(7.0, rel=1e-3)


# ---- checkpoints ----


def test_optimizer_state_survives_packing():
    model = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    other = torch.optim.Adam(model.parameters(), 1e-3)
    unpack(other, {key: value.contiguous() for key, value in pack(optimizer).items()})
    for key, value in pack(optimizer).items():
        assert torch.equal(pack(other)[key], value)
        assert pack(other)[key].stride() == value.stride()


# ---- collapse ----

HEALTHY = dict(images_seen=50_000, saturated=-0.2, diversity=0.7, logits_real=0.5, logits_mismatch=-0.5)


def test_healthy_metrics_raise_no_warning():
    watch = CollapseWatch()
    assert not any(watch.look(HEALTHY) for _ in range(10))


@pytest.mark.parametrize(
    "signs, word",
    [
        ({"saturated": 0.49, "diversity": 0.0}, "flat, saturated colour"),
        ({"diversity": 0.01}, "hardly differ"),
        ({"logits_mismatch": 0.5}, "does not tell right captions from wrong"),
    ],
)
def test_collapse_is_said_once_until_it_recovers(signs, word):
    watch = CollapseWatch(tanh=True)
    said = [line for _ in range(8) for line in watch.look({**HEALTHY, **signs})]
    assert len(said) == 1
    assert word in said[0]
    for _ in range(3):
        watch.look(HEALTHY)
    assert any(watch.look({**HEALTHY, **signs}) for _ in range(3))


def test_a_page_of_a_generator_without_tanh_is_not_blamed_on_one():
    watch = CollapseWatch()
    (said,) = [line for _ in range(8) for line in watch.look({**HEALTHY, "saturated": 0.49, "diversity": 0.0})]
    assert "hardly differ" in said and "tanh" not in said


@pytest.mark.slow
def test_published_settings_on_white_pages_are_noticed(tmp_path, hash_encoder):
    """The trap itself, small: tanh, white pages. The generator saturates and the watch says so."""
    from PIL import Image

    from t2i.data.prepare import PrepareOptions, prepare
    from t2i.data.prepared import PreparedDataset
    from t2i.data.sources import FolderPairSource

    for index in range(32):
        page = Image.new("RGB", (16, 16), "white")
        page.paste((index * 8, 255 - index * 8, 128), (6, 6, 8, 8))
        (tmp_path / "images").mkdir(exist_ok=True)
        page.save(tmp_path / "images" / f"{index}.png")
        (tmp_path / "images" / f"{index}.txt").write_text(f"dot number {index}")
    source = FolderPairSource(tmp_path / "images", tmp_path / "images")
    prepare(source, tmp_path / "data", hash_encoder, PrepareOptions(resolution=16, workers=1))
    settings = config(model__generator__output="tanh", schedule__kimg=3.6, optim__batch=16, run__log_kimg=0.2,
                      run__snapshot_kimg=100, optim__lr_g=1e-2, optim__lr_d=1e-3)  # fmt: skip
    said = []
    start(settings, PreparedDataset(tmp_path / "data"), tmp_path / "runs", say=said.append)
    assert any("collapse" in line for line in said)
