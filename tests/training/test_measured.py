"""What a step measures for the log: means, ratios of sums, and what has no value."""

import dataclasses
import math

import pytest
import torch
from short_runs import first_batch, new_trainer, take_step

from t2i.cli.progress import describe, describe_briefly
from t2i.training.collapse import CollapseWatch
from t2i.training.loop import Status
from t2i.training.statistics import Statistics, watch_collapse


def test_diversity_of_pieces_is_the_ratio_of_their_spreads():
    reals, fakes = torch.rand(32, 3, 16, 16) * 2 - 1, torch.rand(32, 3, 16, 16) * 1.2 - 0.6
    found = {}
    for size in (32, 8, 2, 1):
        statistics = Statistics()
        for rows in torch.arange(32).split(size):
            watch_collapse(statistics, reals[rows], fakes[rows])
        found[size] = statistics.read().get("diversity")
    assert found[1] is None
    assert found[32] == pytest.approx(0.36, rel=0.1)  # 0.6 of the reals' range
    for size in (8, 2):
        assert found[size] == pytest.approx(found[32], rel=0.25)


def test_images_that_are_all_the_same_have_no_diversity_to_compare_with():
    statistics = Statistics()
    watch_collapse(statistics, torch.zeros(8, 3, 16, 16), torch.rand(8, 3, 16, 16))
    assert "diversity" not in statistics.read()


@pytest.mark.parametrize("lacking", [0, 3, 8])
def test_images_without_a_wrong_caption_do_not_count_as_mismatches(lacking, shapes_data):
    trainer = new_trainer(shapes_data, loss__adversarial__augment=(), loss__penalty__kind="none", optim__lr_d=1e-30)
    batch = first_batch(shapes_data)
    wrong = batch.wrong.clone()
    wrong[:lacking] = -1
    take_step(trainer, dataclasses.replace(batch, wrong=wrong))
    metrics = trainer.statistics.read()
    if lacking == 8:
        assert "logits_mismatch" not in metrics
        metrics |= {"images_seen": 1e6, "loss_g": 0.0, "images_per_second": 1.0, "memory_gib": 1.0}
        metrics |= {"resolution": 16, "alpha": 1.0}
        status = Status(8, 8, 1.0, None, metrics)
        assert "mismatch - fake" in describe(status) and "/-/" in describe_briefly(status)
        watch = CollapseWatch()
        assert not any("tell right captions" in line for _ in range(3) for line in watch.look(metrics))
        return
    rows = batch.wrong[lacking:, 0]
    with torch.no_grad():
        expected = trainer.discriminator(batch.images[lacking:], batch.captions[rows]).mean()
    assert math.isclose(metrics["logits_mismatch"], float(expected), rel_tol=1e-4, abs_tol=1e-5)
