"""A signal that comes while Python swallows exceptions: it stops the command all the same, without a traceback."""

import signal
import time
import weakref

import pytest

from t2i import cli
from t2i.cli import console, prepare


class Thing:
    pass


class Destroyed:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def in_a_callback():
    thing = Thing()
    kept = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
    del thing
    return kept


@pytest.mark.parametrize("stoppable", [cli._stoppable, prepare._stoppable])
@pytest.mark.parametrize("swallow", [in_a_callback, Destroyed])
def test_a_signal_whose_exception_is_swallowed_comes_again(stoppable, swallow, capfd):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(console.Stopped) as stop, stoppable():
            swallow()
            time.sleep(30)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before):
            signal.signal(number, handler)
    assert stop.value.number == signal.SIGTERM
    assert "Exception ignored" not in capfd.readouterr().err
