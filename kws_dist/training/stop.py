"""Stopping on request: the loop reads a flag where it can stop in good order; who asks twice is not kept waiting."""

import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self

import psutil

from kws_dist.display import Display, silent
from kws_dist.training.launcher import Foreground, command, follow_launcher

STOP_FILE = "stop"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
_LOOK_S = 1.0


class StopRequest:
    """While open, a signal asks for a stop instead of ending the process; Ctrl-C after that ends it at once.

    A thread listens, woken by the part of Python that runs at once even while a step computes: so the first request
    shows at once, and the second one ends the process there and then, whatever the main thread is busy with. The same
    thread looks for a file that asks, at the time that a job may take, and at how long the stop takes: a collective
    that hangs, because another rank does, ends by force.
    """

    def __init__(
        self,
        display: Display | None = None,
        *,
        job_minutes: float = 0.0,
        grace_s: float = 100.0,
        to_the_end: bool = False,
    ) -> None:
        """`job_minutes`: when to ask by itself, 0 for never; `grace_s`: how long a stop may take.

        `to_the_end`: nothing comes after this but the end of the process, which no signal is to spoil any more.
        """
        self.asked = False
        self.reason = ""
        """What asked first: the name of a signal, a file, a setting."""
        self._display, self._file = display or silent(), None
        self._due_s = time.monotonic() + 60.0 * job_minutes if job_minutes else float("inf")
        self._job_minutes, self._grace_s, self._force_s = job_minutes, grace_s, float("inf")
        self._to_the_end, self._foreground = to_the_end, Foreground()

    def __enter__(self) -> Self:
        self._heard, self._told = os.pipe()
        os.set_blocking(self._told, False)
        self._previous_wakeup = signal.set_wakeup_fd(self._told)
        self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        self._listener = threading.Thread(target=self._listen, name="stop requests", daemon=True)
        self._listener.start()
        command()  # while the launcher can be asked: Ctrl-C may end it
        self._foreground.take()
        follow_launcher()
        return self

    def __exit__(self, *_: object) -> None:
        self._foreground.leave()
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if self._to_the_end else handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._told)  # ends the listener
        self._listener.join()
        os.close(self._heard)

    def watch(self, folder: Path, display: Display) -> None:
        """Look for a file `stop` in a run folder from now on, and show on `display` that a stop was asked for."""
        self._display, file = display, folder / STOP_FILE
        with suppress(OSError):  # there is none, or the disk is away
            if file.stat().st_mtime < _started_s():
                file.unlink()
                display.note(f"{file} is older than this job: it is removed")
        self._file = file
        if self.asked:
            display.stopping()

    def obeyed(self) -> None:
        """Nothing is left to be done of what was asked: no force is needed, and the file is not for the next job."""
        self._force_s = float("inf")
        if self._file:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)

    def _note(self, *_: object) -> None:
        self.asked = True

    def _listen(self) -> None:
        first = None
        while True:
            if select.select([self._heard], [], [], _LOOK_S)[0]:
                if not (number := os.read(self._heard, 1)):
                    return
                now = signal.Signals(number[0])
                if first is None and now in _SIGNALS:
                    first = now
                    self._ask(now.name, disturbed=now == signal.SIGINT and self._foreground.is_launchers)
                elif signal.SIGINT in (first, now) and now in (signal.SIGINT, signal.SIGTERM):
                    # a launcher of several processes makes SIGTERM of the second Ctrl-C
                    self._leave(_INTERRUPTED, "left at once")
            self._look_around()

    def _look_around(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._force_s:
            self._leave(1, f"the stop took longer than --train.stop_grace_s {self._grace_s:g}: left by force")
        elif self._file and not self.reason and os.path.exists(self._file):  # noqa: PTH110 -- never raises
            self._ask(f"the file {self._file}")
        elif now_s >= self._due_s and not self.reason:
            self._ask(f"--train.job_minutes {self._job_minutes:g}")

    def _ask(self, reason: str, *, disturbed: bool = False) -> None:
        self.asked = True
        if not self.reason:
            self.reason, self._force_s = reason, time.monotonic() + self._grace_s
            self._display.stopping(disturbed=disturbed)

    def _leave(self, code: int, why: str) -> NoReturn:
        said = f"{why}; the last checkpoint is kept, and the same command goes on from it"
        self._display.close()
        self._display.warn(said)
        if code != _INTERRUPTED:  # also from a rank without a display
            print(said, file=sys.__stderr__, flush=True)
        self._foreground.give_back()
        os._exit(code)


def _started_s() -> float:
    """Return when this process started, on the clock that dates files.

    psutil may be wrong by a second, as it rounds when the machine started, and a new job may follow that soon.
    """
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # field 22 of proc(5)
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # not Linux
        return psutil.Process().create_time()
