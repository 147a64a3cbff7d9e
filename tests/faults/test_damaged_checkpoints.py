"""Checkpoints that are damaged, cut off, or were being written when the power went."""

import shutil

import pytest
from damage import killed_at, one_line, parts, state, truncations_and_flips

from t2i.cli import run
from t2i.errors import UserError
from t2i.training.checkpoint import newest_checkpoint, save_checkpoint, verify


@pytest.fixture
def checkpoints(tmp_path):
    for images in (16, 32):
        save_checkpoint(tmp_path / "checkpoints", state(images), parts(images))
    return tmp_path / "checkpoints"


def check_checkpoints(checkpoints, truncations, flips):
    older, newer = checkpoints / "000000016", checkpoints / "000000032"
    assert verify(newer)["images_seen"] == 32
    for what, file, data in truncations_and_flips(sorted(newer.iterdir()), truncations, flips, seed=truncations):
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
    for name in ("generator.safetensors", "optimizer_g.safetensors", "state.json"):
        shutil.copytree(newer, checkpoints / "000000048")
        (checkpoints / "000000048" / name).unlink()
        assert newest_checkpoint(checkpoints)[0] == newer
        (checkpoints / "000000048" / name).mkdir()
        folder, _, complaints = newest_checkpoint(checkpoints)
        assert folder == newer and name in one_line(complaints[0])
        shutil.rmtree(checkpoints / "000000048")


def test_resuming_says_which_checkpoint_it_passed_over(tiny_run, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "000000048"
    data = bytearray((newest / "ema.safetensors").read_bytes())
    data[-1] ^= 4
    (newest / "ema.safetensors").write_bytes(data)
    shutil.copytree(newest, newest.with_name("000000040"))

    assert run(["info", "run/checkpoints/000000048"]) == 1
    assert "ema.safetensors: damaged (its hash is not the one in state.json)" in capfd.readouterr().err
    assert run(["info", "run"]) == 0
    assert "ema.safetensors: damaged" in capfd.readouterr().out

    assert run(["train", "--resume", "run", "--device", "cpu"]) == 0
    said = capfd.readouterr().out
    assert "passed over a damaged checkpoint: run/checkpoints/000000048/ema.safetensors: damaged" in said
    assert "resumed at 32 images" in said
    assert verify(newest)["images_seen"] == 48  # replaced by a good one
    assert verify(newest.with_name("000000032"))["images_seen"] == 32  # kept in place of the other damaged one
    for name in sorted(path.name for path in newest.glob("*.safetensors")):
        assert (newest / name).read_bytes() == (tiny_run / "checkpoints" / newest.name / name).read_bytes()


@pytest.mark.parametrize("damaged, written", [([48], 40), ([40, 56], 48), ([40, 48], 40), ([40], 48)])
def test_what_a_run_went_back_from_is_none_of_the_two_that_are_kept(damaged, written, checkpoints):
    for images in damaged:
        shutil.copytree(checkpoints / "000000032", checkpoints / f"{images:09d}")
        (checkpoints / f"{images:09d}" / "generator.safetensors").write_bytes(b"damaged")
    assert newest_checkpoint(checkpoints)[1]["images_seen"] == 32
    save_checkpoint(checkpoints, state(written), parts(written), before=32)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["000000032", f"{written:09d}"]
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
    save_checkpoint(checkpoints, state(48), parts(48))
    assert sorted(path.name for path in checkpoints.iterdir()) == ["000000032", "000000048"]


def test_killed_at_every_call_of_a_checkpoint_save_a_whole_one_is_found(checkpoints):
    number = 0
    while True:
        number += 1
        root = checkpoints.parent / f"copy{number}"
        shutil.copytree(checkpoints, root)
        died = killed_at(number, lambda root=root: save_checkpoint(root, state(48), parts(48)))
        _, found, complaints = newest_checkpoint(root)
        assert found["images_seen"] in (32, 48) and complaints == []
        save_checkpoint(root, state(48), parts(48))
        assert {"000000048"} <= {path.name for path in root.iterdir()} <= {"000000032", "000000048"}
        if not died:
            break
        shutil.rmtree(root)
    assert number > 10
    print(f"{number - 1} kill points")


def test_killed_at_every_call_of_saving_again_at_the_same_image_loses_one_interval_at_most(checkpoints):
    number = 0
    while True:
        number += 1
        root = checkpoints.parent / f"copy{number}"
        shutil.copytree(checkpoints, root)
        (root / "000000032" / "generator.safetensors").write_bytes(b"damaged")
        died = killed_at(number, lambda root=root: save_checkpoint(root, state(32), parts(32)))
        assert newest_checkpoint(root)[1]["images_seen"] in (16, 32)
        if not died:
            break
        shutil.rmtree(root)
    assert newest_checkpoint(root)[1]["images_seen"] == 32
