"""Signals that end a command in good order."""

import signal


def stop_signals() -> list[int]:
    """SIGINT (Ctrl-C), SIGTERM, and SIGHUP where a terminal that closes ends the command: not under nohup."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        return [signal.SIGINT, signal.SIGTERM]
    return [signal.SIGINT, signal.SIGTERM, hangup]


def comes_twice(number: int) -> bool:
    """Does a signal's second mean no more than its first? A terminal that closes sends SIGHUP from shell and kernel."""
    return number == getattr(signal, "SIGHUP", None)
