"""What benchmarks put in place of an encoder is one."""

from pathlib import Path

import pytest

from t2i.data.captions import Encoder

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def test_the_free_encoder_is_an_encoder():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        from prepare_memory import FreeEncoder
    assert isinstance(FreeEncoder(), Encoder)
