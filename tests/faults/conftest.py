"""What the tests of hostile sources share."""

import json

import pytest

from t2i.cli import run
from t2i.data.prepared import PreparedDataset


@pytest.fixture
def prepared(tmp_path, capfd):
    """Calls `t2i prepare` and checks how it ends; True where it gave a data set."""

    def call(*source):
        capfd.readouterr()
        out = tmp_path / "out"
        code = run(["prepare", *map(str, source), "--resolution", "16", "--workers", "1", "--max-skipped", "1",
                    "--out", str(out), "--overwrite", "--json"])  # fmt: skip
        said, errors = capfd.readouterr()
        if code:
            assert code in (1, 2) and said == ""
            assert errors.startswith("t2i: ") and errors.count("\n") == 1 and len(errors) < 1000, errors[:2000]
            return False
        assert errors == ""
        data = PreparedDataset(out)
        data.check()
        assert len(data) == json.loads(said)["images"] > 0
        return True

    return call
