"""Evaluation: does every score order what it should?"""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from t2i import TextToImagePipeline
from t2i.cli import run
from t2i.data.prepared import PreparedDataset
from t2i.data.shapes import draw, evaluation_scenes
from t2i.data.shapes_captions import canonical_caption
from t2i.errors import UserError
from t2i.evaluation import attributes, distances, matcher, protocol, statistics
from t2i.evaluation.cache import cached
from t2i.evaluation.features import silent
from t2i.evaluation.protocol import Evaluator, Options
from t2i.evaluation.real_images import data_features, shared_images
from t2i.evaluation.retrieval import CHOICES, Retrieval, sample_choices, shuffled, top1
from t2i.evaluation.sampler import CaptionSampler
from t2i.sampling import Sampler

# ---- the order of things ---------------------------------------------------------------------------------------


def test_noise_is_worse_than_blur_is_worse_than_reals(evaluator, train):
    network = evaluator.networks["lite2"]
    reals = train.images(np.arange(100))
    images = {
        "blur": np.stack([np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5))) for image in reals]),
        "noise": np.random.default_rng(0).integers(0, 256, reals.shape, np.uint8),
    }
    found = {
        name: {s.name: s.value for s in evaluator.distances["lite2"].scores(network(x))} for name, x in images.items()
    }
    found["reals"] = {s.name: s.ceiling for s in evaluator.distances["lite2"].scores(network(images["blur"]))}
    for name in ("FD-lite2", "KD-lite2"):
        assert found["reals"][name] < found["blur"][name] < found["noise"][name], name
    for name in ("precision", "recall", "coverage"):
        assert found["reals"][name] > found["blur"][name] >= found["noise"][name], name
    assert abs(found["reals"]["KD-lite2"]) < 0.1 * found["blur"]["KD-lite2"]


def accuracies(retrieval: Retrieval, vectors: np.ndarray) -> list[float]:
    """R-precision with none, a quarter, half and all captions shuffled."""
    orders = [shuffled(len(vectors), share=share) for share in (0, 0.25, 0.5, 1)]
    return [float(top1(retrieval.similarities(vectors[order])).mean()) for order in orders]


def test_shuffled_captions_bring_r_precision_down_to_chance_in_order():
    """A matcher that knows every image: what is shuffled is lost, and nothing else."""
    random = np.random.default_rng(0)
    texts = random.standard_normal((1000, 64)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    choices = np.array([[row, *random.choice(np.delete(np.arange(1000), row), 99, False)] for row in range(1000)])
    retrieval = Retrieval("R-precision", "", lambda x: x, texts, choices, texts, "")
    none, quarter, half, everything = accuracies(retrieval, texts)
    assert none == 1 and quarter == pytest.approx(0.75, abs=0.02) and half == pytest.approx(0.5, abs=0.03)
    assert everything == pytest.approx(0.01, abs=0.01)
    score, = retrieval.scores(texts)  # fmt: skip
    assert (score.value, score.ceiling, score.error) == (1, 1, 0) and score.floor < 0.02


def test_the_matcher_knows_real_images_by_their_captions(evaluator):
    retrieval = evaluator.retrievals["lite2"]
    none, quarter, half, everything = accuracies(retrieval, retrieval.real)
    assert none > 0.15 and none > quarter > half > everything  # 3 captions each of 294 small images taught it
    assert everything < 0.05


# ---- distractors -----------------------------------------------------------------------------------------------


def test_no_distractor_reads_like_the_own_caption_or_is_one_of_the_image(data):
    images = np.arange(len(data))
    own = np.array([data.caption_ids(image)[-1] for image in images], np.int64)
    choices = sample_choices(data, images, own)
    assert choices.shape == (len(data), CHOICES) and (choices[:, 0] == own).all()
    for image, row in zip(images, choices):
        texts = [data.caption(int(caption)).casefold() for caption in row]
        assert len(set(texts)) == CHOICES
        assert not set(row[1:]) & set(data.caption_ids(image).tolist())
    assert (sample_choices(data, images, own) == choices).all() and (
        sample_choices(data, images, own, seed=1) != choices
    ).any()


def test_captions_that_differ_in_case_or_a_final_dot_read_the_same():
    from t2i.evaluation.retrieval import _text_ids

    assert _text_ids(["A dog .", "a  DOG", "a cat", "a dog!"]).tolist() == [0, 0, 1, 0]


def test_a_shuffle_leaves_nothing_in_its_place():
    for count in (2, 5, 100):
        order = shuffled(count)
        assert sorted(order) == list(range(count)) and (order != np.arange(count)).all()
    assert (shuffled(100, share=0.25) != np.arange(100)).sum() == 25


# ---- the matcher's data ----------------------------------------------------------------------------------------


def test_the_matcher_trains_on_the_training_split_alone(evaluator, train, data, monkeypatch):
    seen = []
    monkeypatch.setattr(matcher, "cached", lambda path, name, key, make: (seen.append((name, key)), make())[1])
    monkeypatch.setattr(PreparedDataset, "images", None)  # it sees features only: these of the training images
    features = data_features(evaluator.networks["lite2"], train, len(train), silent)
    degraded = data_features(evaluator.networks["lite2"], train, len(train), silent, degraded=True)
    tokens = PreparedDataset.tokens
    asked = []
    monkeypatch.setattr(PreparedDataset, "tokens", lambda self, ids: (asked.append(self.path), tokens(self, ids))[1])
    made = matcher.train_matcher(train, np.arange(len(train)), features, degraded, evaluator.networks["lite2"])
    assert set(asked) == {train.path} != {data.path}
    assert seen[0][0] == "matcher" and seen[0][1]["fingerprint"] == train.fingerprint == made.facts["fingerprint"]
    assert set(made.arrays) == set(evaluator.matcher.arrays)


def test_an_image_is_degraded_the_same_way_every_time(train):
    images, numbers = train.images(np.arange(20)), np.arange(20)
    once = matcher.degrade(images, numbers)
    assert once.dtype == np.uint8 and (once != images).any(axis=(1, 2, 3)).all()
    assert (matcher.degrade(images[5:], numbers[5:]) == once[5:]).all()
    assert (matcher.degrade(images[:1], numbers[1:2]) != once[:1]).any()
    # It stays the image that it was: nearer to itself than to the others.
    distances = ((once[:, None].astype(float) - images[None]) ** 2).mean(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == numbers).mean() > 0.9


def test_the_evaluated_split_is_never_the_matcher_s(data, train, tmp_path):
    with pytest.raises(UserError, match=r"must not see the evaluated split \(.* is the training set itself"):
        Evaluator(train, train, Options(metrics=("r-precision",)))
    # Another data set that holds the evaluated images among others: the fingerprints differ, the images do not.
    larger = tmp_path / "larger"
    prepare = ["--shapes", "130", "--split", "val", "--val-fraction", "0", "--resolution", "32", "--workers", "1"]
    assert run(["prepare", *prepare, "--out", str(larger)]) == 0
    assert shared_images(data, PreparedDataset(larger)) == len(data)
    with pytest.raises(UserError, match=r"126 of the 126 images of .* are in .* too: it gives neither a matcher"):
        Evaluator(data, PreparedDataset(larger), Options(metrics=("r-precision",)))


def test_too_few_training_images_make_no_matcher(data, train, monkeypatch):
    monkeypatch.setattr(matcher, "LEAST", 300)
    with pytest.raises(UserError, match="294 images are too few to train a matcher on; it needs 300"):
        Evaluator(data, train, Options(metrics=("r-precision",)))
    monkeypatch.setattr(protocol, "METRICS", {"kd": "lite2", "r-precision": "lite2"})
    quiet = Evaluator(data, train, Options(samples=100))
    assert quiet.metrics == ["kd"] and "r-precision left out: " in quiet.notes[0] and "294 images" in quiet.notes[0]


def test_captions_of_another_encoder_are_read_by_minilm_once(shapes_data, tmp_path, monkeypatch):
    copy = PreparedDataset(shutil.copytree(shapes_data.path, tmp_path / "copy"))
    vectors = matcher.sentences(copy, np.arange(3, 20))
    assert vectors.shape == (17, 384) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    monkeypatch.setattr(matcher, "load_encoder", None)
    assert (matcher.sentences(copy, np.arange(3, 20)) == vectors).all()


# ---- the cache -------------------------------------------------------------------------------------------------


def test_a_damaged_cache_is_made_again(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"a": np.arange(1000, dtype=np.float32), "b": np.ones((2, 3))}

    def get(key="k"):
        found = cached(tmp_path, "thing", {"key": key}, make)
        assert (found["a"] == np.arange(1000)).all() and found["b"].shape == (2, 3)
        return len(calls)

    assert (get(), get(), get("other"), get()) == (1, 1, 2, 2)
    path, = [p for p in (tmp_path / "evaluation").iterdir() if b"other" not in p.read_bytes()]  # fmt: skip
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    damages = [whole[:500], b"", bytes(flipped), b"\xff" * 5000, whole.replace(b'\\"k', b'\\"j')]
    for number, content in enumerate(damages):
        assert content != whole
        path.write_bytes(content)
        assert (get(), get()) == (3 + number, 3 + number)


def test_what_a_killed_evaluation_was_writing_is_swept(tmp_path):
    cached(tmp_path, "thing", {}, lambda: {"a": np.ones(3)})
    (path,) = (tmp_path / "evaluation").iterdir()
    path.unlink()
    other = path.with_name(".thing-0123456789ab.safetensors.9f2c.tmp")  # with another key: it may be at work
    for stray in (other, path.with_name(f".{path.name}.9f2c.tmp")):
        stray.write_bytes(b"half of it")
    cached(tmp_path, "thing", {}, lambda: {"a": np.ones(3)})
    assert {found.name for found in path.parent.iterdir()} == {path.name, other.name}


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(read_only_folder):
    found = cached(read_only_folder, "thing", {}, lambda: {"a": np.ones(3)})
    assert found["a"].sum() == 3 and not list(read_only_folder.iterdir())


def test_features_of_the_reference_are_computed_once(evaluator, data, train):
    def must_not(images):
        raise AssertionError("computed again")

    network = replace(evaluator.networks["lite2"], forward=must_not)
    assert data_features(network, data, 10_000, silent).shape == (126, 1280)
    with pytest.raises(AssertionError, match="computed again"):
        data_features(replace(network, sha256="f" * 64), data, 10_000, silent)


# ---- the evaluator ---------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_scores_and_another_seed_others(evaluator, sampler, data, train):
    options = evaluator.options
    first, again = evaluator.score(sampler).values(), evaluator.score(sampler).values()
    assert first == again
    assert list(first) == ["FD-lite2", "KD-lite2", "precision", "recall", "density", "coverage", "R-precision"]
    other = Evaluator(data, train, replace(options, metrics=("fd",), seed=1))
    assert other.score(sampler).values()["FD-lite2"] != first["FD-lite2"]
    assert set(zip(other.seeds, other.caption_ids)).isdisjoint(zip(evaluator.seeds, evaluator.caption_ids))
    caption = sampler.captions(data, [0])
    images = [sampler.draw(caption, [int(each.seeds[0])]) for each in (evaluator, other)]
    assert (images[0] != images[1]).any()  # of one caption, by other noise


def test_a_generator_in_training_is_scored_without_a_pipeline(house, sampler, data, train):
    pipe = TextToImagePipeline.from_pretrained(house / "runs" / "00000-dfgan-shapes-train-32", "cpu")
    bare = CaptionSampler(Sampler(pipe.generator), 32, pipe.encode, sampler.encoder_sha256)
    text = sampler.captions(data, np.arange(3))
    assert (bare.draw(text, range(3)) == sampler.draw(text, range(3))).all()
    asked = pipe([data.caption(number) for number in range(3)], seeds=[7], output_type="np").images
    assert np.abs(sampler.draw(text, [7] * 3).astype(int) - asked).max() <= 2  # embeddings were rounded in a batch
    scores = protocol.score(bare, data, train, metrics=("kd",), samples=100)
    assert list(scores) == ["KD-lite2"] and scores["KD-lite2"] > 0


def test_more_samples_than_images_take_other_captions_and_noise(data, train):
    evaluator = Evaluator(data, train, Options(metrics=("r-precision",), samples=300))
    assert len(evaluator.images) == 300 and len(set(evaluator.seeds)) == 300
    assert sorted(set(evaluator.images)) == list(range(126))
    own = [set(data.caption_ids(image)) for image in evaluator.images]
    assert all(caption in captions for caption, captions in zip(evaluator.caption_ids, own))


def test_a_data_set_of_another_encoder_is_encoded_by_the_model_s_own(sampler, data):
    asked = []
    other = replace(sampler, encoder_sha256="1" * 64, encode=lambda texts: asked.extend(texts))
    other.captions(data, [0, 2])
    assert asked == [data.caption(0), data.caption(2)]


def test_too_few_captions_are_an_error_where_nothing_else_is_scored(data, train, monkeypatch):
    def too_few(*arguments):
        raise UserError("3 captions are too few to choose from")

    monkeypatch.setattr(protocol, "sample_choices", too_few)
    monkeypatch.setattr(statistics, "LEAST", 1000)
    monkeypatch.setitem(data.info, "source", {"kind": "folders"})  # nothing for the exact reader
    left_out = "R-precision left out: 3 captions are too few to choose from"
    assert left_out in Evaluator(data, train, Options(samples=60)).notes  # and variety is scored
    with pytest.raises(UserError, match="3 captions are too few"):
        Evaluator(data, train, Options(("r-precision",), samples=60))


def test_a_reference_of_few_images_is_said_too(monkeypatch):
    monkeypatch.setattr(distances, "FEW", 200)
    features = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    for count, note in ((300, ""), (150, "fewer than 200 real images (150): biased upwards")):
        reference = distances.RealFeatures(features[:count], "a set")
        scored = distances.Distances({"frechet": "FD"}, "a network", reference, None, 300).scores(features)
        assert [score.note for score in scored] == [note]


def test_without_training_data_the_ceiling_is_one_half_against_the_other(data, sampler, monkeypatch):
    monkeypatch.setattr(statistics, "LEAST", 50)
    report = Evaluator(data, None, Options(metrics=("kd", "prdc"), samples=60)).score(sampler)
    score = report.scores[0]
    assert score.ceiling_of == "63 images of shapes val, against the other 63" and score.ceiling < score.value


def test_attributes_are_read_off_synthetic_shapes(data, sampler):
    scenes = {
        canonical_caption(scene): scene
        for objects in (1, 2) for seen in (True, False) for scene in evaluation_scenes(6, seen, objects)
    }  # fmt: skip
    perfect = attributes.accuracy(lambda prompts, seeds: np.stack([draw(scenes[p], 32) for p in prompts]), 32, 6)
    assert set(perfect) == {(group, pairs) for group in ("single", "double") for pairs in ("seen", "unseen")}
    for bounds in perfect.values():
        assert set(bounds["model"].values()) == set(bounds["ceiling"].values()) == {1.0}
        assert bounds["floor"]["all"] < 0.5
    report = Evaluator(data, None, Options(metrics=("attributes",), scenes=6)).score(sampler)
    assert len(report.scores) == 22 and report.scores[0].name == "colour, one object, seen"
    assert all(score.ceiling == 1 and 0 <= score.value <= 1 for score in report.scores)
    from t2i.cli.evaluate import _show

    _show(report)  # a table of its own
