"""A new loss is one file and one line of the registry: this file's term trains, logs, is saved and is refused."""

import csv
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from short_runs import CPU, assert_same_bits, config, final_tensors, start
from torch import nn

from t2i.losses.base import Term
from t2i.losses.registry import TERMS
from t2i.setting_groups import setting
from t2i.training import loop
from t2i.training.loop import train


class Brightness(Term):
    """A head tells the mean brightness of images; the generator's images should have that of the real ones."""

    @dataclass(frozen=True)
    class Settings:
        weight: float = setting(0.0, "Weight of the brightness loss.", least=0)
        power: int = setting(2, "Power of the difference.", least=1)

    name = "brightness"
    columns: ClassVar = {"brightness_d": "of the discriminator", "brightness_g": "of the generator"}

    def __init__(self, settings, networks, lr_multiplier=1.0):
        super().__init__(settings, networks, lr_multiplier)
        self.module = self.head = nn.Linear(networks.features.regions.shape[1], 1)

    def discriminator(self, d):
        told = self.head(d.features.regions.mean((2, 3)))[:, 0]
        return self._loss(d, "brightness_d", told, d.images)

    def generator(self, g):
        told = self.head(g.features.regions.mean((2, 3)))[:, 0]
        return self._loss(g, "brightness_g", told, g.batch.images)

    def _loss(self, seen, column, told, images):
        losses = (told - images.mean((1, 2, 3))).abs() ** self.settings.power
        seen.log(column, losses)
        return self.weight * losses


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(TERMS, "brightness", Brightness)
    monkeypatch.setattr(loop, "COLUMNS", {**loop.COLUMNS, **Brightness.columns})


def test_it_trains_logs_and_resumes(registered, shapes_data, tmp_path):
    settings = config("dfgan", loss__brightness__weight=3.0)
    assert settings.terms["brightness"] == {"weight": 3.0, "power": 2}
    whole, _ = start(settings, shapes_data, tmp_path)
    saved = final_tensors(whole)
    assert saved["brightness.safetensors"]["weight"].abs().sum() > 0
    with open(whole.folder / "metrics.csv") as stream:
        lines = list(csv.DictReader(stream))
    assert all(float(line["brightness_d"]) >= 0 and float(line["brightness_g"]) >= 0 for line in lines)

    stopped, _ = start(config("dfgan", loss__brightness__weight=3.0, schedule__kimg=0.024), shapes_data, tmp_path)
    train(settings, shapes_data, stopped, CPU, resume=True)
    assert_same_bits(final_tensors(stopped), saved)


def test_its_head_and_the_generator_learn_from_it(registered, shapes_data, tmp_path):
    heads, generators = [], []
    for weight in (0.0, 3.0):
        run, _ = start(config("dfgan", loss__brightness__weight=weight), shapes_data, tmp_path)
        tensors = final_tensors(run)
        heads.append("brightness.safetensors" in tensors)
        generators.append(tensors["generator.safetensors"]["to_rgb.weight"])
    assert heads == [False, True]
    assert not torch.equal(*generators)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[loss.brightness]\npower = 3", "loss.brightness.power has no effect: loss.brightness.weight is 0"),
        ("[loss.brightness]\nweight = -1", "loss.brightness.weight must be at least 0, not -1"),
        ('[loss.brightness]\nweight = "much"', "loss.brightness.weight: input should be a number"),
        ("[loss.brightness]\nwidth = 1", "loss.brightness.width: brightness has weight, power"),
        ("[loss.darkness]\nweight = 1", "there is no loss 'darkness'; there is adversarial, penalty, contrastive"),
    ],
)
def test_its_table_is_checked(registered, refused, minilm_data, here, text, words):
    (here / "run.toml").write_text(text)
    refused(2, words, "train", minilm_data, "--config", "run.toml")
