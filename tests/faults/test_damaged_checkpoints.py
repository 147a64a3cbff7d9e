"""Checkpoints that are damaged, cut off, or were being written when the power went."""

import shutil

import pytest
from damage import generator, killed_at, one_line, same, save, truncations_and_flips, weights

from t2i.cli import run
from t2i.errors import UserError
from t2i.models.find import is_model, list_snapshots
from t2i.training.checkpoint import list_checkpoints, newest_checkpoint, verify


@pytest.fixture
def checkpoints(tmp_path):
    for images in (16, 32):
        save(tmp_path / "checkpoints", images)
    return tmp_path / "checkpoints"


def check_checkpoints(checkpoints, truncations, flips):
    older, newer = checkpoints / "000000016", checkpoints / "000000032"
    assert verify(newer)["images_seen"] == 32
    files = sorted(path for path in newer.rglob("*") if path.is_file())  # those of its model too
    for what, file, data in truncations_and_flips(files, truncations, flips, seed=truncations):
        whole = file.read_bytes()
        file.write_bytes(data)
        with pytest.raises(UserError) as caught:
            verify(newer)
        assert str(file) in one_line(caught.value), what
        folder, found, complaints = newest_checkpoint(checkpoints)
        assert (folder, found["images_seen"], complaints) == (older, 16, [str(caught.value)]), what
        file.write_bytes(whole)
    assert verify(newer)["images_seen"] == 32


def test_damaged_checkpoints_are_refused_and_the_older_one_is_taken(checkpoints):
    check_checkpoints(checkpoints, 20, 60)


@pytest.mark.slow
def test_100_cuts_and_1_000_flipped_bits_in_a_checkpoint_are_all_refused(checkpoints):
    check_checkpoints(checkpoints, 100, 1000)


def test_the_whole_state_counts(checkpoints):
    """Every second byte of state.json: the number of images and the settings are in it."""
    file = checkpoints / "000000032" / "state.json"
    whole = file.read_bytes()
    for at in range(0, len(whole), 2):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        file.write_bytes(data)
        with pytest.raises(UserError):
            verify(file.parent)
    file.write_bytes(whole)
    assert verify(file.parent)["settings"]["name"] == "Bäume"


def test_a_file_that_is_gone_or_no_file_is_named(checkpoints):
    newer = checkpoints / "000000032"
    for name in ("generator.safetensors", "optimizer_g.safetensors", "model/model_index.json", "state.json"):
        shutil.copytree(newer, checkpoints / "000000048")
        (checkpoints / "000000048" / name).unlink()
        assert newest_checkpoint(checkpoints)[0] == newer
        (checkpoints / "000000048" / name).mkdir()
        folder, _, complaints = newest_checkpoint(checkpoints)
        assert folder == newer
        # Without its state a snapshot is a model alone.
        assert complaints == [] if name == "state.json" else name in one_line(complaints[0])
        shutil.rmtree(checkpoints / "000000048")


def test_resuming_says_which_checkpoint_it_passed_over(tiny_run, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "000000048"
    name = "model/generator/model.safetensors"
    data = bytearray((newest / name).read_bytes())
    data[-1] ^= 4
    (newest / name).write_bytes(data)
    shutil.copytree(newest, newest.with_name("000000040"))

    assert run(["info", "run/checkpoints/000000048"]) == 1
    assert "model.safetensors: damaged (its hash is not the one in state.json)" in capfd.readouterr().err
    assert run(["info", "run"]) == 0
    assert "model.safetensors: damaged" in capfd.readouterr().out

    assert run(["train", "--resume", "run", "--device", "cpu"]) == 0
    said = capfd.readouterr().out
    assert (
        "passed over a damaged checkpoint: run/checkpoints/000000048/model/generator/model.safetensors: damaged" in said
    )
    assert "resumed at 32 images" in said
    assert verify(newest)["images_seen"] == 48  # replaced by a good one
    assert verify(newest.with_name("000000032"))["images_seen"] == 32  # kept in place of the other damaged one
    good = tiny_run / "checkpoints" / newest.name
    for path in sorted(good.rglob("*.safetensors")):
        assert (newest / path.relative_to(good)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("damaged, written", [([48], 40), ([40, 56], 48), ([40, 48], 40), ([40], 48)])
def test_what_a_run_went_back_from_is_none_of_the_two_that_are_kept(damaged, written, checkpoints):
    for images in damaged:
        shutil.copytree(checkpoints / "000000032", checkpoints / f"{images:09d}")
        (checkpoints / f"{images:09d}" / "generator.safetensors").write_bytes(b"damaged")
    assert newest_checkpoint(checkpoints)[1]["images_seen"] == 32
    save(checkpoints, written, before=32)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["000000016", "000000032", f"{written:09d}"]
    assert [int(path.name) for path in list_checkpoints(checkpoints)] == [32, written]
    assert verify(checkpoints / f"{written:09d}")["images_seen"] == written


def test_what_a_killed_save_left_is_swept_by_the_next_save_and_by_resuming(checkpoints):
    def leave():
        (checkpoints / ".000000040.tmp").mkdir()
        (checkpoints / ".000000040.tmp" / ".generator.safetensors.0a1b2c3d.tmp").write_bytes(b"half")
        (checkpoints / ".000000032.old.tmp").mkdir()
        (checkpoints / ".state.json.0a1b2c3d.tmp").write_bytes(b"{")

    leave()
    newest_checkpoint(checkpoints)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["000000016", "000000032"]
    leave()
    save(checkpoints, 48)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["000000016", "000000032", "000000048"]


def check_snapshots(root):
    """What is listed as a snapshot is one: its model is whole and its own."""
    for folder in list_snapshots(root):
        if is_model(folder / "model"):
            assert same(weights(folder / "model"), generator(int(folder.name))[0].state_dict())


@pytest.mark.slow
def test_killed_at_every_call_of_a_save_a_whole_checkpoint_is_found_and_every_model_loads(checkpoints):
    """In writing, in renaming, and in thinning out: of 16 all but the model goes, and 8 or 0."""
    for images in (0, 8):
        save(checkpoints, images, before=32)
    number, died = 0, True
    while died:
        number += 1
        root = checkpoints.parent / f"copy{number}"
        shutil.copytree(checkpoints, root)
        died = killed_at(number, lambda root=root: save(root, 48, keep=4))
        _, found, complaints = newest_checkpoint(root, ours=False)
        assert found["images_seen"] in (32, 48) and complaints == []
        check_snapshots(root)
        save(root, 48, keep=4)
        check_snapshots(root)
        assert sorted(path.name for path in root.iterdir()) == ["000000000", "000000016", "000000032", "000000048"]
        assert [path.name for path in (root / "000000016").iterdir()] == ["model"]
        assert [int(path.name) for path in list_checkpoints(root)] == [32, 48]
        shutil.rmtree(root)
    assert number > 30
    print(f"{number - 1} kill points")


@pytest.mark.slow
def test_killed_at_every_call_of_saving_again_at_the_same_image_loses_one_interval_at_most(checkpoints):
    number, died = 0, True
    while died:
        number += 1
        root = checkpoints.parent / f"copy{number}"
        shutil.copytree(checkpoints, root)
        (root / "000000032" / "generator.safetensors").write_bytes(b"damaged")
        died = killed_at(number, lambda root=root: save(root, 32))
        found = newest_checkpoint(root)[1]["images_seen"]
        assert found in (16, 32)
        check_snapshots(root)
        shutil.rmtree(root)
    assert found == 32
