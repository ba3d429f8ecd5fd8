"""The errors that a person is meant to read: one sentence saying what, where and what to do.

Entry points print the sentence without a traceback (unless `--debug`) and exit with `exit_code`; any other
exception is a fault of this program and keeps its traceback.
"""

import os
import signal
import sys
import traceback
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


def end_with_the_reader() -> None:
    """End this process in silence, as other programs of a pipe do, once nobody reads its output (`| head`).

    Not for a program with connections to others: that one of them breaks would end it, too.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


_FOR_PEOPLE = (UsageError, DataError, TrainingError, OSError, KeyboardInterrupt)


def main_guard(main: Callable[[], int | None], debug: bool) -> int:
    """Run an entry point and return its exit code, with an error meant for a person printed as one sentence.

    `debug` lets the error through with its traceback. Other exceptions always keep theirs, except that of a
    file which cannot be used: its name and the reason are all there is to say.
    """
    try:
        return main() or 0
    except _FOR_PEOPLE as error:
        if debug:
            raise
        if not (isinstance(error, UsageError) and os.environ.get("LOCAL_RANK", "0") != "0"):
            show(error)  # every process of a machine meets a wrong use; one says so
        return exit_code(error)


def is_for_people(error: BaseException) -> bool:
    """Whether one sentence says all; any other exception is a fault of this program."""
    return isinstance(error, _FOR_PEOPLE)


def exit_code(error: BaseException) -> int:
    """Return the exit code of a process that an error ends: 2 for wrong use, 1 for failure."""
    return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)


def show(error: BaseException, *, debug: bool = False) -> None:
    """Print an error for whom it is meant: one sentence, or a traceback if it is a fault or `debug` asks for it."""
    if is_for_people(error) and not debug:
        print(printable(sentence(error)), file=sys.stderr)
    else:
        traceback.print_exception(error)


def printable(name: str | bytes) -> str:
    """Return a name, of which not every character can be printed, in one line for a person: `caf\\xe9.wav`."""
    text = name.decode(errors="surrogateescape") if isinstance(name, bytes) else name
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(c: str) -> str:
    is_byte = "\udc80" <= c <= "\udcff"  # which is no text, as Python holds it in a name
    return f"\\x{ord(c) - 0xDC00:02x}" if is_byte else repr(c)[1:-1]


def sentence(error: BaseException) -> str:
    """Return what there is to say of an error in one line; of a fault of this program, its type as well."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by the keyboard"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if is_for_people(error):
        return str(error)
    return traceback.format_exception_only(error)[0].strip().splitlines()[0]
