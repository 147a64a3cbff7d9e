"""A working folder to evaluate in: synthetic shapes and a short run on them."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from t2i import TextToImagePipeline
from t2i.cli import run
from t2i.data.prepared import PreparedDataset
from t2i.evaluation import inception, protocol, variety
from t2i.evaluation.protocol import Evaluator, Options
from t2i.evaluation.sampler import CaptionSampler


@pytest.fixture(scope="module", autouse=True)
def quick():
    """EfficientNet-Lite2 at 96 px, not 260, in a seventh of the time. test_feature_networks.py has it at 260 px."""
    from t2i.evaluation.features import load_lite2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "load_lite2", lambda device: replace(load_lite2(device), resolution=96))
        patch.setattr(variety, "CAPTIONS", 12)
        yield


@pytest.fixture(scope="session")
def new_house(tmp_path_factory) -> Path:
    """A working folder as a user has it: synthetic shapes, training and validation split, and a short run on them."""
    root = tmp_path_factory.mktemp("house")
    before = Path.cwd()
    os.chdir(root)
    try:
        Path("tiny.toml").write_text('arch = "dfgan"\npreset = "small"\nsnapshot_kimg = 0.016\n[model]\nnf = 4\n')
        prepare = ["--resolution", "32", "--workers", "1"]
        assert run(["prepare", "--shapes", "420", "--val-fraction", "0.3", *prepare]) == 0
        train = ["t2i-data/shapes-train-32", "--config", "tiny.toml", "--kimg", "0.016", "--batch", "8"]
        assert run(["train", *train, "--device", "cpu"]) == 0
    finally:
        os.chdir(before)
    return root


@pytest.fixture(scope="module")
def house(new_house, tmp_path_factory) -> Path:
    return shutil.copytree(new_house, tmp_path_factory.mktemp("house") / "copy")


@pytest.fixture
def here(house, monkeypatch):
    monkeypatch.chdir(house)
    return house


@pytest.fixture(scope="module")
def data(house) -> PreparedDataset:
    return PreparedDataset(house / "t2i-data" / "shapes-val-32")


@pytest.fixture(scope="module")
def train(house) -> PreparedDataset:
    return PreparedDataset(house / "t2i-data" / "shapes-train-32")


@pytest.fixture(scope="module")
def sampler(house) -> CaptionSampler:
    return CaptionSampler.of_pipeline(
        TextToImagePipeline.from_pretrained(house / "runs" / "00000-dfgan-shapes-train-32", "cpu")
    )


@pytest.fixture(scope="module")
def evaluator(data, train) -> Evaluator:
    return Evaluator(data, train, Options(metrics=("fd", "kd", "prdc", "r-precision"), samples=100))


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory) -> Path:
    """A weight file as the published one, with random values that keep the activations alive."""
    torch.manual_seed(0)
    network = inception.FidInception()
    weights = network.state_dict()
    for name, value in weights.items():
        if name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(value)
        elif name.endswith("bn.bias"):
            value.uniform_(0, 0.2)
    weights = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    weights |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    torch.save(weights, path)
    return path
