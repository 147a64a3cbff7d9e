"""The errors a user can cause.

Each is one line that says what, where and what to do. The command line prints that line and exits with
`exit_code`; a library caller catches them as ValueError.
"""


class UserError(ValueError):
    """Something outside the program is wrong: a file, a folder, a data set, a full disk. Exit code 1."""

    exit_code = 1


class UsageError(UserError):
    """The call itself is wrong: options that exclude each other, a value out of range. Exit code 2."""

    exit_code = 2
