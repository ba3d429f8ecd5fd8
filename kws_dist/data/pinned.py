"""Page-locked host memory, which a GPU can copy from while the host goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

import torch
from torch import Tensor


class CopyEvent(Protocol):
    """A mark behind the copies that have been asked for."""

    def record(self) -> None:
        """Set the mark."""
        ...

    def synchronize(self) -> None:
        """Wait until all copies before the mark are done; not at all if it was never set."""
        ...


class CudaEvent:
    """A mark on the stream that is current on a device when it is set."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._event = device, torch.cuda.Event()

    def record(self) -> None:
        """Set the mark."""
        self._event.record(torch.cuda.current_stream(self._device))

    def synchronize(self) -> None:
        """Wait until all copies before the mark are done."""
        self._event.synchronize()


@dataclass
class _Buffer:
    pcm: Tensor
    copied: CopyEvent


class CopyBuffers:
    """A few buffers that take turns. One is written again only when the copy out of it is done, and waits if it must.

    Memory is taken for the largest batch so far, so that in steady state there is none to take. Several threads may
    ask for buffers.
    """

    def __init__(
        self, count: int, clip_samples: int, new_event: Callable[[], CopyEvent], *, pinned: bool = True
    ) -> None:
        self._pinned = pinned
        self._free: SimpleQueue[_Buffer] = SimpleQueue()
        for _ in range(count):
            self._free.put(_Buffer(torch.empty(0, clip_samples, dtype=torch.int16), new_event()))

    @contextmanager
    def lend(self, rows: int) -> Iterator[Tensor]:
        """Lend a buffer, int16 `(rows, clip_samples)`, to fill and to ask for a copy of; it holds anything at first."""
        buffer = self._free.get()
        try:
            buffer.copied.synchronize()
            if len(buffer.pcm) < rows:
                buffer.pcm = torch.empty(rows, buffer.pcm.shape[1], dtype=torch.int16, pin_memory=self._pinned)
            yield buffer.pcm[:rows]
            buffer.copied.record()
        finally:
            self._free.put(buffer)


def cuda_buffers(count: int, clip_samples: int, device: torch.device) -> CopyBuffers:
    """Return page-locked buffers for copies to a CUDA device."""
    return CopyBuffers(count, clip_samples, lambda: CudaEvent(device))
