"""The errors a user can cause.

Each is one line with the problem, its place and a remedy. The command line prints that line and exits with
`exit_code`; a library caller catches them as ValueError.
"""

EXIT_CODES = {
    "0": "Done.",
    "1": "A problem outside t2i: a file, a folder, a data set, a full disk, too little memory.",
    "2": "A wrong call: an unknown option, options that exclude each other, a value out of range.",
    "129": "A terminal that was closed (SIGHUP).",
    "130": "Ctrl-C (SIGINT).",
    "143": "SIGTERM.",
    "149": "Ctrl-Break (Windows).",
}


class UserError(ValueError):
    """A problem outside the program: a file, a folder, a data set, a full disk. Exit code 1."""

    exit_code = 1


class UsageError(UserError):
    """A wrong call: options that exclude each other, a value out of range. Exit code 2."""

    exit_code = 2


class LostContact(UserError):
    """Another process of the run is gone; a restart can resume."""


def is_out_of_memory(error: BaseException) -> bool:
    """Out of memory in Python, on a GPU, or in torch's CPU allocator and kernels, which raise RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    signs = (
        "can't allocate memory", "not enough memory", "could not create a primitive", "bad_alloc",
        "failed to map segment", "can't start new thread",  # a library that is loaded late; a thread's stack
    )  # fmt: skip
    return isinstance(error, RuntimeError | ImportError) and any(sign in str(error) for sign in signs)
