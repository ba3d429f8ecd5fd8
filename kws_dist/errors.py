"""The errors that a person is meant to read: one sentence saying what, where and what to do.

Entry points print the sentence without a traceback (unless `--debug`) and exit with `exit_code`; any other
exception is a fault of this program and keeps its traceback.
"""

import os
import sys
from collections.abc import Callable

_INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


class UsageError(ValueError):
    """Something was asked for wrongly: a flag, a path, a file of settings. Nothing was damaged."""

    exit_code = 2


class DataError(RuntimeError):
    """Something on disk is damaged or cannot be read, so going on would train on wrong data."""

    exit_code = 1


class ClipError(DataError):
    """One recording, called by its name in the corpus, cannot be used; the others can."""


class TrainingError(RuntimeError):
    """Training cannot go on: the numbers have gone wrong, not the data on disk."""

    exit_code = 1


def main_guard(main: Callable[[], int | None], debug: bool) -> int:
    """Run an entry point and return its exit code, with an error meant for a person printed as one sentence.

    `debug` lets the error through with its traceback. Other exceptions always keep theirs, except that of a
    file which cannot be used: its name and the reason are all there is to say.
    """
    try:
        return main() or 0
    except (UsageError, DataError, TrainingError, OSError, KeyboardInterrupt) as error:
        if debug:
            raise
        if not (isinstance(error, UsageError) and os.environ.get("RANK", "0") != "0"):
            print(_sentence(error), file=sys.stderr)  # every rank meets a wrong use; one says so
        return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)


def _sentence(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped by the keyboard"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
