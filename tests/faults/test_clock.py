"""A clock that goes backwards, or is wrong by years, changes nothing that t2i does."""

import ast
import os
import time
from pathlib import Path

import pytest
from hash_encoder import HashEncoder

import t2i
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import find_datasets
from t2i.data.sources.shapes import ShapesSource

HOURS = 3600 * 10**9


@pytest.mark.parametrize("ahead", [-1000 * HOURS, 0, 3 * HOURS, 100_000 * HOURS])
def test_the_newest_data_set_is_the_one_prepared_last(tmp_path, ahead):
    """Its neighbours were made when the clock was ahead."""
    for name in ("b", "a", "c"):
        prepare(ShapesSource(2), tmp_path / name, HashEncoder(), PrepareOptions(resolution=16, workers=1))
        assert find_datasets(tmp_path)[-1].name == name
        moment = time.time_ns() + ahead
        os.utime(tmp_path / name / "dataset.json", ns=(moment, moment))


def test_only_clocks_that_never_go_back_are_read():
    """The wall clock orders nothing. It may be written down (datetime.now), for people to read."""
    wall = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.ctime", "datetime.fromtimestamp"}
    used, root = set(), Path(t2i.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in wall:
                used.add((path.relative_to(root).as_posix(), ast.unparse(node)))
    assert used == set()
