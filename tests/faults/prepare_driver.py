"""What the tests here start: `t2i prepare` in a process of its own, in small shards, to be killed or signalled.

Run by `python -c "import prepare_driver; prepare_driver.NAME()"`: the workers then have no main module to import again.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
from hash_encoder import HashEncoder

from t2i import locks
from t2i.data import captions, image_shards, prepared
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.records import Record
from t2i.data.sources import FolderPairSource
from t2i.errors import UserError

SHARD, CHUNK = 8, 16  # instead of 4,096 and 8,192: borders everywhere
LONG = 900  # seconds: to be interrupted
HERE = Path(__file__).parent


def small() -> None:
    """Small shards and chunks, and all the time for each other, in this process."""
    locks._PATIENCE = LONG
    image_shards.shard_entries = lambda resolution: SHARD
    prepared.CAPTIONS_PER_CHUNK = CHUNK


def start(function: str, *arguments: object, **options) -> subprocess.Popen:
    """A function of this module in a process (and a process group) of its own."""
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **options.pop("environment", {})}
    command = [sys.executable, "-c", f"import prepare_driver; prepare_driver.{function}()", *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        **options,
    )  # fmt: skip


def killed() -> None:
    """SOURCE OUT AT OPTIONS: prepare a folder pair and die (kill -9) before call number AT that changes the disk.

    Counted are the calls that change names or sync a file (without waiting for it: a kill is no power cut).
    OPTIONS: PrepareOptions as JSON, "overwrite" among them. Prints how many calls there were, should it come to its
    end.
    """
    small()
    source, out, at, chosen = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
    calls = 0

    def counting(call):
        def wrapper(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return wrapper

    os.fsync = lambda handle: None
    for name in ("replace", "rename", "unlink", "rmdir", "fsync"):
        setattr(os, name, counting(getattr(os, name)))
    overwrite = chosen.pop("overwrite", False)
    if "shard" in chosen:
        chosen["shard"] = tuple(chosen["shard"])
    options = PrepareOptions(**{"resolution": 16, "workers": 1, "max_skipped": 0.2, **chosen})
    prepare(FolderPairSource(source, source), out, HashEncoder(), options, overwrite=overwrite)
    print(calls)


def command() -> None:
    """STAGE SECONDS ARGUMENTS: the command line, with an encoder that costs nothing, pausing once in a stage.

    STAGE: "images" after the second shard, "captions" in the second slice of texts, or "never".
    """
    stage, seconds = sys.argv[1], float(sys.argv[2])
    small()
    use_hash_encoder()
    write, encode = image_shards._write_shard, HashEncoder.encode
    times = {"images": 0, "captions": 0}

    def pause(where: str) -> None:
        times[where] += 1
        if where == stage and times[where] == 2:
            print("paused", flush=True)
            time.sleep(seconds)

    def write_slowly(*arguments):
        shard = write(*arguments)
        pause("images")
        return shard

    def encode_slowly(self, texts):
        pause("captions")
        return encode(self, texts)

    image_shards._write_shard, HashEncoder.encode = write_slowly, encode_slowly
    captions.SLICE = 5

    from t2i.cli import main

    main(sys.argv[3:])


def use_hash_encoder() -> None:
    """Every text encoder that the command line loads in this process is a HashEncoder; no torch is imported."""
    encoders = types.ModuleType("t2i.text.encoders")
    encoders.load_encoder = lambda name, *rest: HashEncoder()
    sys.modules["t2i.text.encoders"] = encoders


class NoFile:
    """An image without a file."""

    def stamp(self) -> tuple[int, int]:
        return 0, 0


class StuckImage(NoFile):
    """An image that takes longer to decode than anything here waits."""

    def load(self, resolution: int) -> np.ndarray:
        time.sleep(LONG)
        return np.zeros((resolution, resolution, 3), np.uint8)


class DyingImage(NoFile):
    """An image whose worker is killed (kill -9) so many seconds after it was decoded; None: it is spared."""

    def __init__(self, seconds: float | None):
        self.seconds = seconds

    def load(self, resolution: int) -> np.ndarray:
        if self.seconds is not None:
            threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return np.zeros((resolution, resolution, 3), np.uint8)


class SlowImage(NoFile):
    """An image of one grey that takes some seconds."""

    def __init__(self, seconds: float, grey: int):
        self.seconds, self.grey = seconds, grey

    def load(self, resolution: int) -> np.ndarray:
        time.sleep(self.seconds)
        return np.full((resolution, resolution, 3), self.grey, np.uint8)


class RaisingImage(NoFile):
    """An image that raises what the user caused, or what nobody should."""

    def __init__(self, expected: bool):
        self.expected = expected

    def load(self, resolution: int) -> np.ndarray:
        raise UserError("says the image") if self.expected else KeyError("a bug")


class StuckSource:
    """Images of which none is ever done."""

    name, split, notes = "stuck", "train", ()

    def __init__(self, *arguments: object, **named: object):
        pass

    def __len__(self) -> int:
        return 64

    def __iter__(self):
        return (Record(str(number), ("a caption",), StuckImage()) for number in range(64))

    def describe(self):
        return {"kind": "stuck"}


def stuck() -> None:
    """OUT: the command line at work on images that are never done."""
    from t2i.cli import main
    from t2i.data.sources import shapes

    shapes.ShapesSource = StuckSource
    main(["prepare", "--shapes", "64", "--val-fraction", "0", "--resolution", "16", "--workers", "2",
          "--out", sys.argv[1]])  # fmt: skip


def dawdling() -> None:
    """OUT: the command line in a stage that takes long to leave."""
    use_hash_encoder()

    def encode(self, texts):
        try:
            print("paused", flush=True)
            time.sleep(LONG)
        finally:
            print("leaving", flush=True)
            time.sleep(LONG)

    HashEncoder.encode = encode

    from t2i.cli import main

    main(["prepare", "--shapes", "9", "--val-fraction", "0", "--resolution", "16", "--workers", "1",
          "--out", sys.argv[1]])  # fmt: skip


def calls() -> None:
    """FILE: calls the command line for each list of arguments in a JSON file; prints each exit code.

    An entry may be [arguments, file, target]: `file` becomes a link to `target` when its source has been read, before
    the first image is.
    """
    from t2i.cli import run
    from t2i.data import prepare as module

    use_hash_encoder()
    write = module.write_images
    for arguments, *link in json.loads(Path(sys.argv[1]).read_text()):

        def write_after(*given, link=link, **options):
            if link:
                os.unlink(link[0])
                os.symlink(link[1], link[0])
            return write(*given, **options)

        module.write_images = write_after
        print(run(arguments), flush=True)
