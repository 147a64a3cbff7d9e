"""Models and data sets that are damaged, cut off, or were being written when the power went."""

import json
import os
import shutil
from pathlib import Path

import pytest
from damage import generator, killed_at, one_line, same, save, truncations_and_flips, weights

from t2i.cli import run
from t2i.data.prepared import PreparedDataset
from t2i.errors import UserError
from t2i.models.folder import load_model, save_model

# ---- models ----------------------------------------------------------------------------------------------------


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


KINDS = {  # models that follow each other in a folder
    "plain": [{"seed": seed} for seed in range(3)],
    "growing": [{"arch": "stylegan", "seed": seed, "growth": growth}
                for seed, growth in enumerate(((8, 1.0), (16, 0.25), (16, 1.0)))],
    "growing no more": [{"arch": "stylegan", "growth": (8, 1.0)}, {"arch": "stylegan", "seed": 1},
                        {"arch": "stylegan", "seed": 2}],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_every_call_of_a_save_no_folder_holds_two_models(kind, tmp_path):
    """It is the one before or the new one, whole, or refused in one line; a save that is killed once more too."""
    models = [generator(**how) for how in KINDS[kind]]

    def which(folder):
        try:
            loaded, description, _ = load_model(folder)
        except UserError as error:
            assert one_line(error).startswith(str(folder))
            return None
        (number,) = [n for n, (network, _) in enumerate(models) if same(network.state_dict(), loaded.state_dict())]
        assert description.growth == models[number][1].growth
        return number

    save_model(tmp_path / "model", *models[0])
    number, died, found = 0, True, []
    while died:
        number += 1
        folder = shutil.copytree(tmp_path / "model", tmp_path / f"copy{number}")
        died = killed_at(number, lambda folder=folder: save_model(folder, *models[1]))
        found.append(which(folder))
        killed_at(2 * number // 3 + 1, lambda folder=folder: save_model(folder, *models[2]))
        which(folder)
        save_model(folder, *models[2])
        assert which(folder) == 2
        names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert names == {"README.md", "model_index.json", "generator/config.json", "generator/model.safetensors"}
        shutil.rmtree(folder)
    assert number > 8 and found[0] == 0 and found[-1] == 1
    print(f"{number - 1} kill points")


# ---- file modes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_file_modes_follow_the_umask(tmp_path, umask):
    """Of the safetensors too: the library itself makes files for their owner alone."""
    before = os.umask(umask)
    try:
        save(tmp_path / "checkpoints", 16)
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
