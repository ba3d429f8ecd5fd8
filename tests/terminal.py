"""A real (pseudo-)terminal of a given size to run a program on, and what a person would see there."""

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pyte

_PATIENCE_S = 60
_ROWS = 40


class Terminal:
    """A program on a terminal; use it as a context manager, which ends the program."""

    def __init__(
        self, command: Sequence[str | Path], columns: int, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self._columns = columns
        self._screen = pyte.HistoryScreen(columns, _ROWS, history=1000)
        self._stream = pyte.ByteStream(self._screen)
        cue, self._cue = os.pipe()
        os.set_inheritable(cue, True)
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.environ.update(TERM="xterm-256color", PYTHONIOENCODING="utf-8", CUE=str(cue))
            os.environ.update(environment or {})
            for name in ("NO_COLOR", "COLUMNS", "LINES"):
                os.environ.pop(name, None)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, columns, 0, 0))
            # With the variables named: readline sets LINES and COLUMNS of its own behind Python's back.
            os.execvpe(command[0], [str(word) for word in command], os.environ)
        os.close(cue)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._cue)
        os.close(self._terminal)  # hangs up on all that still runs there
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def go_on(self) -> None:
        """Let a program go on that waits for it: `os.read(int(os.environ["CUE"]), 1)`."""
        os.write(self._cue, b".")

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._terminal, keys.encode())

    def until(self, seen: Callable[[str], bool], what: str) -> list[str]:
        """Return the lines on the terminal as soon as they are as wished."""
        end_s = time.monotonic() + _PATIENCE_S
        while not seen("\n".join(self.lines())):
            assert time.monotonic() < end_s, f"never seen: {what}\n" + "\n".join(self.lines())
            if not self._read():
                assert seen("\n".join(self.lines())), f"ended without: {what}\n" + "\n".join(self.lines())
        return self.lines()

    def until_shown(self, text: str) -> list[str]:
        """Return the lines on the terminal as soon as one of them holds a text."""
        return self.until(lambda shown: text in shown, text)

    def until_gone(self, text: str) -> list[str]:
        """Return the lines on the terminal as soon as a text is no longer there."""
        return self.until(lambda shown: text not in shown, f"the end of {text}")

    def ended(self) -> int:
        """Return the exit code of the program, once it has ended."""
        end_s = time.monotonic() + _PATIENCE_S
        while self._read():
            assert time.monotonic() < end_s, "it does not end\n" + "\n".join(self.lines())
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def lines(self) -> list[str]:
        """Return all lines, those that have left the screen included, without the empty ones at the end."""
        rows = [*self._screen.history.top, *(self._screen.buffer[row] for row in range(_ROWS))]
        lines = ["".join(row[column].data for column in range(self._columns)).rstrip() for row in rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def shows_cursor(self) -> bool:
        """Whether the cursor is not hidden."""
        return not self._screen.cursor.hidden

    def _read(self) -> bool:
        """Take in what was written, waiting a little for it; return whether there may be more."""
        try:
            if select.select([self._terminal], [], [], 0.05)[0]:
                written = os.read(self._terminal, 65536)
                self._stream.feed(written)
                return bool(written)
        except OSError:  # how Linux says that the other side has closed the terminal
            return False
        return True
