"""Damaged images of every kind: an image or a reason, and never a traceback, a hang or a dead worker."""

import collections
import contextlib
import json
import random
import signal

import pytest
from hash_encoder import HashEncoder
from mutations import damage, images

from t2i.cli import run
from t2i.data.images import REASONS, load_image
from t2i.data.records import ImageError

SECONDS = 60  # for one image: a hang


@contextlib.contextmanager
def no_hang(what):
    def hangs(number, frame):
        raise AssertionError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(data, what):
    """ "good", or the reason why it cannot be used."""
    with no_hang(what):
        try:
            pixels = load_image(data, 16)
        except ImageError as error:
            assert error.reason in REASONS and "\n" not in str(error)
            str(error).encode()
            return error.reason
    assert pixels.shape == (16, 16, 3) and pixels.dtype == "uint8" and pixels.flags.c_contiguous
    return "good"


def damaged_images(count, seed):
    chance = random.Random(seed)
    kinds = images()
    names = list(kinds)
    for number in range(count):
        yield f"{number:05d} {names[number % len(names)]}", damage(kinds[names[number % len(names)]], chance)


def check_decoder(count, seed):
    outcomes = collections.Counter(outcome(data, name) for name, data in damaged_images(count, seed))
    assert outcomes["good"] > count // 20 and len(outcomes) > 6, outcomes
    print(dict(outcomes))


def test_every_kind_has_its_outcome():
    outcomes = {name: outcome(data, name) for name, data in images().items()}
    bad = {name: reason for name, reason in outcomes.items() if reason != "good"}
    assert bad == {
        "1 x N": "too small", "N x 1": "too small", "a bomb": "too many pixels",
        "a bomb of almost allowed size": "truncated", "nothing": "empty file",
    }  # fmt: skip


def test_damaged_images_give_a_image_or_a_reason():
    check_decoder(720, seed=0)


@pytest.mark.slow
def test_20_000_damaged_images_give_a_image_or_a_reason():
    check_decoder(20_000, seed=1)


def check_command(folder, count, seed, monkeypatch, capfd):
    """The same through the command line and its workers: every file is an image or stands in skipped.jsonl."""
    monkeypatch.setattr("t2i.text.encoders.load_encoder", lambda name, *rest: HashEncoder())
    (folder / "source").mkdir()
    expected = {}
    for number, (name, data) in enumerate(damaged_images(count, seed)):
        file = f"{number:05d}{('.png', '.jpg', '.WEBP', '.tiff')[number % 4]}"
        (folder / "source" / file).write_bytes(data)
        (folder / "source" / f"{number:05d}.txt").write_text(name)
        expected[file] = outcome(data, name)
    bad = {file: reason for file, reason in expected.items() if reason != "good"}
    source = ["prepare", "--images", str(folder / "source"), "--captions", str(folder / "source"), "--resolution", "16"]
    source += ["--workers", "2", "--out", str(folder / "out"), "--json"]

    def call(*options):
        capfd.readouterr()
        code = run([*source, *options])
        return code, *capfd.readouterr()

    code, out, err = call()
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"t2i: {len(bad)} of {count} entries cannot be used (") and "--max-skipped 0.05" in err
    code, out, err = call("--strict")
    first = min(bad)
    assert (code, out, err.count("\n")) == (1, "", 1) and err.startswith(f"t2i: {first}: {bad[first]}")
    assert not (folder / "out").exists()

    code, out, err = call("--max-skipped", "1")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["images"] == count - len(bad)
    assert report["skipped"] == dict(collections.Counter(bad.values()))
    lines = [json.loads(line) for line in (folder / "out" / "skipped.jsonl").read_text().splitlines()]
    assert {line["file"]: line["reason"] for line in lines} == bad and len(lines) == len(bad)


def test_damaged_images_through_the_command_line(tmp_path, monkeypatch, capfd):
    check_command(tmp_path, 108, 2, monkeypatch, capfd)


@pytest.mark.slow
def test_2_000_damaged_images_through_the_command_line(tmp_path, monkeypatch, capfd):
    check_command(tmp_path, 2000, 3, monkeypatch, capfd)
