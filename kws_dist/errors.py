"""The two errors that a person is meant to read: one sentence saying what, where and what to do.

Entry points print the sentence without a traceback (unless `--debug`) and exit with `exit_code`; any other
exception is a fault of this program and keeps its traceback.
"""


class UsageError(ValueError):
    """Something was asked for wrongly: a flag, a path, a file of settings. Nothing was damaged."""

    exit_code = 2


class DataError(RuntimeError):
    """Something on disk is damaged or cannot be read, so going on would train on wrong data."""

    exit_code = 1
