"""Stopping on request: the loop reads a flag where it can stop in good order; who asks twice is not kept waiting."""

import os
import signal
import threading
from typing import Self

from kws_dist.display import Display, silent
from kws_dist.training.launcher import Foreground, command, follow_launcher

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


class StopRequest:
    """While open, a signal asks for a stop instead of ending the process; Ctrl-C after that ends it at once.

    A thread listens, woken by the part of Python that runs at once even while a step computes: so the first request
    shows at once, and the second one ends the process there and then, whatever the main thread is busy with.
    """

    def __init__(self, display: Display | None = None) -> None:
        self.asked = False
        self._display = display or silent()
        self._foreground = Foreground()

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
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._told)  # ends the listener
        self._listener.join()
        os.close(self._heard)

    def _note(self, *_: object) -> None:
        self.asked = True

    def _listen(self) -> None:
        first = None
        while number := os.read(self._heard, 1):
            now = signal.Signals(number[0])
            if first is None and now in _SIGNALS:
                first, self.asked = now, True
                self._display.stopping(disturbed=now == signal.SIGINT and self._foreground.is_launchers)
            elif signal.SIGINT in (first, now) and now in (signal.SIGINT, signal.SIGTERM):
                self._leave()  # a launcher of several processes makes SIGTERM of the second Ctrl-C

    def _leave(self) -> None:
        self._display.close()
        self._display.warn("left at once; the last checkpoint is kept, and the same command goes on from it")
        self._foreground.give_back()
        os._exit(_INTERRUPTED)
