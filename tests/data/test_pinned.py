"""Buffers that take turns: none is written while it is still being copied, and in steady state none is made."""

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Lock

import pytest
import torch
from torch import Tensor

from kws_dist.data.pinned import CopyBuffers

CLIP_SAMPLES = 4


class LateCopies:
    """A device that copies when it is told to, as a GPU does when it gets there."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, Future[Tensor]]] = []
        self.waited_for = Event()
        self._lock = Lock()

    def ask(self, pcm: Tensor) -> Future[Tensor]:
        with self._lock:
            self.asked.append((pcm, Future()))
            return self.asked[-1][1]

    def copy_next(self) -> None:
        pcm, copied = self.asked.pop(0)
        copied.set_result(pcm.clone())


class Mark:
    """The mark behind the last copy that was asked for."""

    def __init__(self, device: LateCopies) -> None:
        self._device, self._last = device, Future[Tensor]()
        self._last.set_result(torch.empty(0))

    def record(self) -> None:
        self._last = self._device.asked[-1][1]

    def synchronize(self) -> None:
        if not self._last.done():
            self._device.waited_for.set()
        self._last.result(timeout=20)


def send(buffers: CopyBuffers, device: LateCopies, value: int, rows: int = 2) -> tuple[int, Future[Tensor]]:
    with buffers.lend(rows) as pcm:
        assert pcm.shape == (rows, CLIP_SAMPLES)
        pcm.fill_(value)
        return pcm.data_ptr(), device.ask(pcm)


def two_buffers() -> tuple[CopyBuffers, LateCopies]:
    device = LateCopies()
    return CopyBuffers(2, CLIP_SAMPLES, lambda: Mark(device), pinned=False), device


def test_a_buffer_is_written_again_only_when_its_copy_is_done() -> None:
    buffers, device = two_buffers()
    copies = [send(buffers, device, value)[1] for value in (1, 2)]
    with ThreadPoolExecutor(1) as pool:
        third = pool.submit(send, buffers, device, 3)
        assert device.waited_for.wait(timeout=20)
        assert [pcm.unique().tolist() for pcm, _ in device.asked] == [[1], [2]]
        device.copy_next()
        copies.append(third.result(timeout=20)[1])
    while device.asked:
        device.copy_next()
    assert [copy.result().unique().tolist() for copy in copies] == [[1], [2], [3]]


def test_batches_of_the_largest_size_so_far_or_less_take_no_new_memory() -> None:
    buffers, device = two_buffers()

    def places(rows: int) -> set[int]:
        sent = [send(buffers, device, 0, rows)[0] for _ in range(2)]
        while device.asked:
            device.copy_next()
        return set(sent)

    largest = places(5)
    assert len(largest) == 2
    assert places(5) == places(3) == places(5) == largest


def test_a_buffer_comes_back_from_a_batch_that_failed() -> None:
    buffers, device = two_buffers()
    for _ in range(3):
        with pytest.raises(ValueError, match="damaged"), buffers.lend(2):
            raise ValueError("damaged")
    send(buffers, device, 1)
