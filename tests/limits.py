"""How much of this machine one file of a stranger may take."""

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 10.0
"""Of computing; none needs a tenth of it."""
HEADROOM_BYTES = 1 << 30
"""Of memory; what a header claims can be a million times as much."""


@contextmanager
def limits() -> Iterator[Callable[[], None]]:
    """Hold this process to some more memory than it has, and to some time; what is given starts the time again."""

    def too_slow(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS:g} s")

    def restart() -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)

    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    memory, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGVTALRM, too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + HEADROOM_BYTES, memory[1]))
    restart()
    try:
        yield restart
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, memory)
