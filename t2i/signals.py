"""Signals that end a command in good order."""

import signal


def stop_signals() -> list[int]:
    """SIGINT (Ctrl-C), SIGTERM, and SIGHUP where a terminal that closes ends the command: not under nohup. On Windows
    Ctrl-Break in its place, the one that a process can be sent by another."""
    if hasattr(signal, "SIGBREAK"):
        return [signal.SIGINT, signal.SIGTERM, signal.SIGBREAK]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        return [signal.SIGINT, signal.SIGTERM]
    return [signal.SIGINT, signal.SIGTERM, hangup]


def comes_twice(number: int) -> bool:
    """Does a signal's second mean no more than its first? A terminal that closes sends SIGHUP from shell and kernel."""
    return number == getattr(signal, "SIGHUP", None)
