"""Scores while a run trains: they are there, they cost the training nothing, and the best model is the best."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from short_runs import CPU, SMALL_ENCODER, assert_same_bits, config, final_tensors, logged, start

from t2i import TextToImagePipeline
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import PreparedDataset
from t2i.data.sources.shapes import ShapesSource
from t2i.errors import UserError
from t2i.evaluation import protocol, variety
from t2i.evaluation.sampler import CaptionSampler
from t2i.models import list_architectures
from t2i.models.find import best_in_run, find_model
from t2i.models.folder import load_model
from t2i.training import scoring
from t2i.training.checkpoint import list_checkpoints, save_checkpoint
from t2i.training.loop import train
from t2i.training.run import Run
from t2i.training.scoring import SCORES, Scoring

SCORED = {"eval.every": 16, "eval.samples": 100}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """EfficientNet-Lite2 at 64 px instead of 260."""
    from t2i.evaluation.features import load_lite2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "load_lite2", lambda device: replace(load_lite2(device), resolution=64))
        patch.setattr(variety, "CAPTIONS", 12)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory, hash_encoder) -> PreparedDataset:
    """A training split with a validation split beside it."""
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 200), ("val", 120)):
        out = root / f"shapes-{split}-16"
        prepare(ShapesSource(count, split), out, hash_encoder, PrepareOptions(resolution=16, workers=1))
    return PreparedDataset(root / "shapes-train-16")


def load_best(run):
    return load_model(find_model(f"{run.folder}@best"))


@pytest.mark.slow
@pytest.mark.parametrize("arch", list_architectures())
@pytest.mark.parametrize(
    "text", [{}, {"text.encoder": "transformer", "text.transformer": SMALL_ENCODER}], ids=["", "trained"]
)
def test_scores_are_logged_once_grown_up_and_change_no_bit_of_the_run(arch, text, data, tmp_path):
    said = []
    scored, _ = start(config(arch, **text, **SCORED), data, tmp_path / "scored", say=said.append)
    plain, _ = start(config(arch, **text), data, tmp_path / "plain")
    assert_same_bits(final_tensors(scored), final_tensors(plain))

    with_scores = [line for line in logged(scored) if "kd_lite2" in line]
    assert all(line["resolution"] == 16 for line in with_scores)
    expected = [
        line["images_seen"] for line in logged(scored) if line["images_seen"] % 16 == 0 and line["resolution"] == 16
    ]
    assert [line["images_seen"] for line in with_scores] == expected != []
    assert all(set(SCORES.values()) <= set(line) for line in with_scores)
    assert "kd_lite2" in (scored.folder / "metrics.csv").read_text().splitlines()[0]
    assert any("100 samples against 120 images" in line and "best by KD-lite2" in line for line in said)

    # RUN@best is the model of the lowest score, and draws.
    best = min(with_scores, key=lambda line: line["kd_lite2"])
    assert scored.read_best() == {
        "snapshot": best["images_seen"], "best_by": "KD-lite2", "score": best["kd_lite2"],
        "chosen_on": PreparedDataset(data.path.parent / "shapes-val-16").fingerprint,
    }  # fmt: skip
    assert load_best(scored)[1].training["images_seen"] == best["images_seen"]


@pytest.mark.slow
def test_the_score_in_training_is_that_of_the_model_it_saves(data, tmp_path, hash_encoder, monkeypatch):
    """What `t2i evaluate` says of the last model: the same images, the same number."""
    settings = config(**SCORED)
    run, _ = start(settings, data, tmp_path)
    monkeypatch.setattr("t2i.text.encoders.load_encoder", lambda *a, **k: hash_encoder)
    sampler = CaptionSampler.of_pipeline(TextToImagePipeline.from_pretrained(run.model, "cpu"))
    validation = PreparedDataset(data.path.parent / "shapes-val-16")
    values = protocol.score(sampler, validation, data, metrics=("kd", "r-precision"), samples=100)
    last = logged(run)[-1]
    assert values["KD-lite2"] == pytest.approx(last["kd_lite2"], rel=1e-5)
    assert values["R-precision"] == last["r_precision"]


@pytest.mark.slow
def test_a_resumed_run_keeps_the_best_and_scores_as_if_it_had_never_stopped(data, tmp_path):
    settings = config(**SCORED)
    whole, _ = start(settings, data, tmp_path / "whole")
    asked = iter([False, False, False, True])
    run, outcome = start(settings, data, tmp_path / "parts", stop=lambda: next(asked))
    assert outcome.images_seen == 24
    before = [line["kd_lite2"] for line in logged(run) if "kd_lite2" in line]
    assert len(before) == 1  # at 16; a signal waits for no score
    train(settings, data, run, CPU, resume=True)
    pick = [{key: line.get(key) for key in ("images_seen", *SCORES.values())} for line in logged(whole)]
    assert [{key: line.get(key) for key in ("images_seen", *SCORES.values())} for line in logged(run)] == pick
    assert run.read_best() == whole.read_best()
    assert load_best(run)[2] == load_best(whole)[2]


def give_scores(monkeypatch, data, name, values):
    """Has each snapshot the next of these scores."""
    given = iter(values)

    class Given:
        samples, data = 100, None

        def __init__(self, *_):
            self.data = data

        def score(self, sampler):
            return protocol.Report([protocol.Score(name, next(given), "", "", "", 100)], {})

    monkeypatch.setattr(scoring, "Evaluator", Given)


@pytest.mark.parametrize(
    ("values", "ended"),
    [
        ([0.3, 0.1, 0.2, 0.2, 0.05], 64),
        pytest.param([0.3, 0.1, 0.2, 0.05, 0.1, 0.01], 96, marks=pytest.mark.slow),
        pytest.param([0.5, 0.4, 0.3, 0.2, 0.1, 0.1], 96, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("stopped_after", [None, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 7))])
def test_patience_ends_a_run_at_the_same_step_also_where_it_was_resumed(
    values, ended, stopped_after, data, tmp_path, monkeypatch
):
    give_scores(monkeypatch, data, "KD-lite2", values)
    settings = config("dfgan", **SCORED, **{"eval.patience": 2, "schedule.kimg": 0.096})
    steps = iter(range(100))
    run, outcome = start(settings, data, tmp_path, stop=lambda: next(steps) == stopped_after)
    if stopped_after is not None:
        assert outcome.reason == "signal"
        outcome = train(settings, data, run, CPU, resume=True)
    assert outcome.images_seen == ended
    assert outcome.reason == ("patience" if ended < 96 else "done")
    assert list_checkpoints(run.checkpoints)[-1].name == f"{ended:09d}"  # saved where it ended
    best = min(range(len(values)), key=values.__getitem__) if ended == 96 else 1
    assert load_best(run)[1].training["images_seen"] == 16 * (best + 1)


@pytest.mark.parametrize(
    ("best_by", "values", "kept"),
    [("kd", [0.3, 0.1, 0.2], 32), ("fd", [3.0, 2.0, 1.0], 48), ("r-precision", [0.1, 0.3, 0.2], 32)],
)
def test_best_is_chosen_by_the_score_that_was_named(best_by, values, kept, data, tmp_path, monkeypatch):
    name = scoring.CHOICES[best_by]
    column = scoring.SCORES[name]
    give_scores(monkeypatch, data, name, values)
    run, _ = start(config(**SCORED, **{"eval.best_by": best_by}), data, tmp_path)
    assert [line[column] for line in logged(run) if column in line] == values
    assert load_best(run)[1].training["images_seen"] == kept


def test_the_best_is_a_snapshot_of_its_own_and_stays(data, tmp_path, monkeypatch):
    """Scored between two snapshots; of the others only two may stay."""
    give_scores(monkeypatch, data, "KD-lite2", [0.3, 0.1, *[0.5] * 10])
    often = {"eval.every": 8, "run.snapshot_kimg": 0.024, "run.keep_snapshots": 2, "schedule.kimg": 0.096}
    run, _ = start(config(**{**SCORED, **often}), data, tmp_path)
    assert load_best(run)[1].training["images_seen"] == 16
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["000000016", "000000072", "000000096"]
    assert [path.name for path in (run.checkpoints / "000000016").iterdir()] == ["model"]


def test_killed_between_a_score_and_its_snapshot_the_best_is_scored_again(data, tmp_path, monkeypatch):
    often = config(**{**SCORED, "eval.every": 8, "run.snapshot_kimg": 1.0})
    give_scores(monkeypatch, data, "KD-lite2", [0.3, 0.2, 0.1])

    def killed(*given, **how):
        if given[1]["images_seen"] == 24:
            raise KeyboardInterrupt
        return save_checkpoint(*given, **how)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("t2i.training.snapshots.save_checkpoint", killed)
        start(often, data, tmp_path)
    run = Run(next(tmp_path.iterdir()))
    assert (run.read_best()["snapshot"], best_in_run(run.folder)) == (24, None)
    give_scores(monkeypatch, data, "KD-lite2", [0.1, 0.5, 0.5, 0.5])
    train(often, data, run, CPU, resume=True)
    assert load_best(run)[1].training["images_seen"] == 24


@pytest.mark.slow
def test_a_score_on_other_images_is_not_compared_with(data, tmp_path, monkeypatch):
    """A newer validation split lies beside the training data when the run goes on."""
    run, _ = start(config(**SCORED), data, tmp_path)
    best = Scoring.__new__(Scoring)
    best.best_by, best.run = "kd", run
    best.evaluator = SimpleNamespace(data=SimpleNamespace(fingerprint=run.read_best()["chosen_on"]))
    assert best._best(8) == run.read_best()["score"]
    best.evaluator.data.fingerprint = "0" * 64
    assert best._best(8) is None


def test_what_cannot_be_scored_is_said_before_the_first_step(data, shapes_data, tmp_path, hash_encoder, monkeypatch):
    with pytest.raises(UserError, match=r"needs a validation split of shapes at 16 px .*--val-fraction"):
        start(config(**SCORED), shapes_data, tmp_path / "a")
    few = tmp_path / "few"
    prepare(ShapesSource(50, "val"), few, hash_encoder, PrepareOptions(resolution=16, workers=1))
    with pytest.raises(UserError, match="too few for a distance between sets"):
        start(config(**SCORED, eval__data=str(few)), data, tmp_path / "b")
    monkeypatch.setattr(type(hash_encoder), "sha256", "1" * 64)
    other = tmp_path / "other"
    prepare(ShapesSource(120, "val"), other, hash_encoder, PrepareOptions(resolution=16, workers=1))
    with pytest.raises(UserError, match="another text encoder"):
        start(config(**SCORED, eval__data=str(other)), data, tmp_path / "c")


def test_without_a_validation_split_no_run_folder_is_made(minilm_data, tmp_path, capfd):
    from t2i.cli import run

    assert run(["train", str(minilm_data), "--eval-every", "16", "--out", str(tmp_path / "runs")]) == 1
    error = capfd.readouterr().err
    assert "--eval-every needs a validation split" in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_too_few_images_for_a_matcher_leave_the_distances(data, tmp_path, hash_encoder):
    small = tmp_path / "data" / "shapes-train-16"
    prepare(ShapesSource(100), small, hash_encoder, PrepareOptions(resolution=16, workers=1))
    said = []
    validation = str(data.path.parent / "shapes-val-16")
    run, _ = start(config(**SCORED, eval__data=validation), PreparedDataset(small), tmp_path / "run", say=said.append)
    assert any(line.startswith("R-precision left out: ") for line in said)
    assert "kd_lite2" in logged(run)[-1] and "r_precision" not in logged(run)[-1]
