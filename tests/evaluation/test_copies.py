"""evaluate --metrics copies: does a model draw its training images again?"""

import numpy as np
import pytest

from t2i.cli import run
from t2i.evaluation import copies, protocol
from t2i.evaluation.copies import Copies
from t2i.evaluation.features import silent
from t2i.evaluation.protocol import Evaluator, Options


@pytest.fixture(scope="module", autouse=True)
def few():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "COUNT", 12)
        patch.setattr(protocol, "COUNT", 12)
        yield


def test_training_images_are_copies_and_the_drawings_of_a_young_model_are_not(data, train, sampler):
    evaluator = Evaluator(data, train, Options(metrics=("copies",), samples=100))
    (score,) = evaluator.score(sampler).scores
    assert (score.name, score.value, score.samples) == ("copies", 0.0, 12) and 0 <= score.ceiling <= 1
    again = Copies.of(train, silent)
    drawn = train.images(np.arange(5))
    assert again.score(drawn, silent).value == 1
    assert (again.found.numbers == np.arange(5)).all() and again.sheet().height > 5 * 128


def test_the_command_writes_the_nearest_pairs(here, t2i, data, tmp_path, capfd):
    said = t2i("evaluate", "runs/00000-dfgan-shapes-train-32", data.path, "--metrics", "copies", "--samples", "100",
               "--out", tmp_path, "--device", "cpu")  # fmt: skip
    assert "copies" in said and (tmp_path / "copies-shapes-val-32.png").is_file()
    assert "copies" not in Evaluator(data, None, Options(samples=100)).metrics  # only where it is named
    other = ["evaluate", "runs/00000-dfgan-shapes-train-32", str(data.path), "--metrics", "copies"]
    assert run([*other, "--train-data", str(data.path)]) == 1
    assert "copies needs the training data" in capfd.readouterr().err
