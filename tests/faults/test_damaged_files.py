"""Models and data sets that are damaged, cut off, or were being written when the power went."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from damage import killed_at, one_line, parts, state, truncations_and_flips

from t2i.cli import run
from t2i.data.prepared import PreparedDataset
from t2i.errors import UserError
from t2i.files import sha256
from t2i.models import get_architecture
from t2i.models.folder import ModelDescription, load_model, save_model
from t2i.text.pooler import TextStatistics
from t2i.training.checkpoint import save_checkpoint

ENCODER = {"name": "hash", "sha256": "0" * 64, "width": 24, "max_tokens": 16}


# ---- models ----------------------------------------------------------------------------------------------------


def generator(seed=0):
    architecture = get_architecture("dfgan")
    options = {**architecture.model_options, "nf": 4}
    description = ModelDescription(
        "dfgan", 16, "attention", options, ENCODER, {"prompts": ["a tree"], "images_seen": 5}
    )
    network, _ = architecture.build(16, "attention", TextStatistics.identity(24), options, seed)
    return network, description


def weights(folder):
    return {name: value.clone() for name, value in load_model(folder)[0].state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "model", *generator())
    return tmp_path / "model"


def check_models(model, truncations, flips):
    """The weights: refused by their hash, every time. The JSON beside them: refused in one line, or of no effect."""
    expected, (_, description, digest) = weights(model), load_model(model)
    file = model / "generator" / "model.safetensors"
    for what, _, data in truncations_and_flips([file], truncations, flips, seed=truncations):
        whole = file.read_bytes()
        file.write_bytes(data)
        with pytest.raises(UserError) as caught:
            load_model(model)
        said = one_line(caught.value)
        assert said.startswith(f"{file}: damaged (its hash is not the one in model_index.json)"), what
        file.write_bytes(whole)
    described = [model / "model_index.json", model / "generator" / "config.json"]
    for what, file, data in truncations_and_flips(described, truncations, flips, seed=flips):
        whole = file.read_bytes()
        file.write_bytes(data)
        try:
            loaded = load_model(model)
        except UserError as error:
            one_line(error)
        else:
            assert same(expected, loaded[0].state_dict()) and loaded[2] == digest, what
        file.write_bytes(whole)
    assert load_model(model)[1:] == (description, digest)


def test_damaged_models_are_refused(model):
    check_models(model, 20, 60)


@pytest.mark.slow
def test_100_cuts_and_1_000_flipped_bits_in_a_model_are_all_refused(model):
    check_models(model, 100, 1000)


def test_a_model_without_a_hash_still_loads(model):
    index = json.loads((model / "model_index.json").read_text())
    del index["weights_sha256"]
    (model / "model_index.json").write_text(json.dumps(index))
    assert same(generator()[0].state_dict(), weights(model))


def test_killed_at_every_call_of_a_model_save_the_folder_holds_a_model(model):
    """A run replaces its model at every snapshot: the old one or the new one is there, whole, all the time."""
    old, new = weights(model), generator(1)
    number = 0
    while True:
        number += 1
        folder = model.parent / f"copy{number}"
        shutil.copytree(model, folder)
        died = killed_at(number, lambda folder=folder: save_model(folder, *new))
        found = weights(folder)
        assert same(old, found) or same(new[0].state_dict(), found)
        died_again = killed_at(number // 2 + 1, lambda folder=folder: save_model(folder, *generator(2)))
        assert any(same(each, weights(folder)) for each in (old, new[0].state_dict(), generator(2)[0].state_dict()))
        assert died_again or not died
        save_model(folder, *new)
        names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert names == {"README.md", "model_index.json", "generator/config.json", "generator/model.safetensors"}
        assert same(new[0].state_dict(), weights(folder))
        shutil.rmtree(folder)
        if not died:
            break
    assert number > 10
    print(f"{number - 1} kill points")


def test_a_model_that_does_not_grow_in_place_of_one_that_did_and_one_that_says_so_with_null(tmp_path):
    architecture = get_architecture("stylegan")
    options = {**architecture.model_options, **architecture.smallest, "shown_at": [8, 16]}
    network, _ = architecture.build(16, "attention", TextStatistics.identity(24), options, 0)
    began, null, whole = (
        ModelDescription("stylegan", 16, "attention", {**options, **grown}, ENCODER)
        for grown in ({"growth": [8, 1.0]}, {"growth": None}, {})
    )
    save_model(tmp_path / "null", network, null)
    assert load_model(tmp_path / "null")[0].growth.resolution == 16
    number, died = 0, True
    while died:
        number += 1
        folder = tmp_path / str(number)
        save_model(folder, network, began)
        other = architecture.build(16, "attention", TextStatistics.identity(24), options, 1)[0]
        died = killed_at(number, lambda folder=folder, other=other: save_model(folder, other, whole))
        loaded, _, _ = load_model(folder)
        assert loaded.growth.resolution == (8 if same(loaded.state_dict(), network.state_dict()) else 16)


def test_killed_while_a_run_grows_the_weights_stand_where_they_stood(tmp_path):
    """The next resolution; then a save that is killed once more, and a folder that an older t2i wrote."""
    architecture = get_architecture("stylegan")
    options = {**architecture.model_options, **architecture.smallest, "shown_at": [8, 16]}
    made = {}
    for number, growth in enumerate(((8, 1.0), (16, 0.25), (16, 1.0))):
        network, _ = architecture.build(16, "attention", TextStatistics.identity(24), options, number)
        grown = {**options, "growth": list(growth)}
        made[growth] = network, ModelDescription("stylegan", 16, "attention", grown, ENCODER)

    def check(folder):
        loaded, description, _ = load_model(folder)
        assert same(loaded.state_dict(), made[loaded.growth][0].state_dict())
        assert description.options["growth"] == list(loaded.growth)

    first, second, third = made.values()
    save_model(tmp_path / "model", *first)
    older = shutil.copytree(tmp_path / "model", tmp_path / "older")
    index = json.loads((older / "model_index.json").read_text())
    assert index.pop("growth") == [8, 1.0]
    (older / "model_index.json").write_text(json.dumps(index))
    for began in (tmp_path / "model", older):
        check(began)
        number, died = 0, True
        while died:
            number += 1
            folder = shutil.copytree(began, tmp_path / f"{began.name}{number}")
            died = killed_at(number, lambda folder=folder: save_model(folder, *second))
            check(folder)
            killed_at(2 * number // 3 + 1, lambda folder=folder: save_model(folder, *third))
            check(folder)
        assert number > 10


@pytest.mark.parametrize("moment", ["get_architecture", "tensors_in"], ids=["description", "weights"])
def test_a_model_that_is_replaced_while_it_is_loaded_is_no_damaged_one(model, monkeypatch, moment):
    """After its description was read, it is the new one; after its weights were, the old one."""
    from t2i.models import folder as module

    original, replaced = getattr(module, moment), []
    saved = sha256(model / "generator" / "model.safetensors")

    def replacing(*given):
        if not replaced:
            replaced.append(True)
            save_model(model, *generator(1))
        return original(*given)

    monkeypatch.setattr(module, moment, replacing)
    loaded, _, digest = load_model(model)
    number = 0 if moment == "tensors_in" else 1
    assert same(generator(number)[0].state_dict(), loaded.state_dict())
    assert (digest == saved) == (number == 0)


# ---- file modes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_file_modes_follow_the_umask(tmp_path, umask):
    """Of the safetensors too: the library itself makes files for their owner alone."""
    before = os.umask(umask)
    try:
        save_checkpoint(tmp_path / "checkpoints", state(16), parts())
        save_model(tmp_path / "model", *generator())
        assert run(["prepare", "--shapes", "4", "--val-fraction", "0", "--resolution", "16", "--workers", "1",
                    "--out", str(tmp_path / "data")]) == 0  # fmt: skip
    finally:
        os.umask(before)
    paths = list(tmp_path.rglob("*"))
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o666 & ~umask}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o777 & ~umask}


# ---- data sets -------------------------------------------------------------------------------------------------


@pytest.fixture
def data(shapes_data, tmp_path):
    return Path(shutil.copytree(shapes_data.path, tmp_path / "data"))


def test_info_names_the_file_of_a_data_set_that_is_cut_off_or_gone(data, capfd):
    names = sorted(path.name for path in data.iterdir() if path.name != "preview.png")
    assert len(names) == 11
    for name in names:
        whole = (data / name).read_bytes()
        for content in (None, b"", whole[: len(whole) // 2]):
            if content is None:
                (data / name).unlink()
            else:
                (data / name).write_bytes(content)
            code = run(["info", str(data)])
            said, errors = capfd.readouterr()
            undamaged = (name == "skipped.jsonl" and content is not None) or (name.startswith("records") and content)
            if not undamaged:
                assert (code, said, errors.count("\n")) == (1, "", 1), (name, content)
                # captions.jsonl is judged by its offsets; without dataset.json nothing says what the folder is
                assert {"captions.jsonl": "caption", "dataset.json": "dataset.json"}.get(name, name) in errors
            (data / name).write_bytes(whole)
    assert run(["info", str(data)]) == 0


def check_data(data, truncations, flips):
    """Refused in one line, or read without an error of another kind."""
    refused = 0
    for what, file, content in truncations_and_flips(sorted(data.glob("*")), truncations, flips, seed=flips):
        whole = file.read_bytes()
        file.write_bytes(content)
        try:
            dataset = PreparedDataset(data)
            dataset.check()
            dataset.images(range(len(dataset)))
            for index in range(len(dataset)):
                dataset.tokens(dataset.caption_ids(index))
            for caption in range(dataset.caption_count):
                assert isinstance(dataset.caption(caption), str)
            assert all(isinstance(caption, str) for caption in dataset.captions())
            assert all(record["key"] for record in dataset.records() if "key" in record)
        except UserError as error:
            assert str(data) in one_line(error), what
            refused += 1
        file.write_bytes(whole)
    return refused


def test_damaged_data_sets_are_refused_or_can_be_read(data):
    assert check_data(data, 20, 60) > 15


@pytest.mark.slow
def test_100_cuts_and_1_000_flipped_bits_in_a_data_set(data):
    print(f"{check_data(data, 100, 1000)} of 1100 refused")


@pytest.mark.parametrize("command", ["info", "generate"])
def test_commands_say_in_one_line_what_is_damaged(model, command, capfd):
    file = model / "generator" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    arguments = {"info": ["info", model], "generate": ["generate", "a tree", "--model", model]}[command]
    assert run([str(argument) for argument in arguments]) == 1
    said, errors = capfd.readouterr()
    assert said == "" and errors.startswith(f"t2i: {file}: damaged") and errors.count("\n") == 1
