"""How long training stood still for want of data."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DataWait:
    """Adds up the time in which work that needs a batch could not go on because the batch was not there.

    On a CPU that is the caller's time. On a GPU it is the time of the caller's CUDA stream, between two events: the
    first comes to pass when all work queued before is done, the second when the batch is there as well. So a host that
    runs ahead and waits while the GPU is busy does not count, and a GPU with nothing to do does, whether its batch is
    late on the device or has not even been queued.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._done_s = 0.0
        self._pending: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what the block inside waits for; on a GPU it makes the caller's current stream wait."""
        if self._device.type != "cuda":
            started_s = time.perf_counter()
            yield
            self._done_s += time.perf_counter() - started_s
            return
        stream = torch.cuda.current_stream(self._device)
        before = _when_reached(stream)
        yield
        self._pending.append((before, _when_reached(stream)))
        self._settle()

    @property
    def total_s(self) -> float:
        """All waiting up to now, on a GPU up to where the device has come: asking does not wait for it."""
        self._settle()
        return self._done_s

    def _settle(self) -> None:
        while self._pending and self._pending[0][1].query():
            before, after = self._pending.popleft()
            self._done_s += before.elapsed_time(after) / 1000


def _when_reached(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record(stream)
    return event
