"""The device worker: draw numbers in, ready batches on the device out."""

import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kws_dist.data.sampler import BatchSlice, Draws, Sampler
from kws_dist.data.store import Store

_DRAWN_AT_ONCE = 4096


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank, on the device."""

    features: Tensor
    """`(B, 1, bins, frames)` float32."""
    labels: Tensor
    """`(B,)` int64."""
    weights: Tensor
    """`(B,)` float32: 0 for rows that only fill the batch up."""
    draws: Draws
    """What was drawn, on the host."""


class DeviceWorker:
    """Turns draws into batches: gather int16 PCM -> decode -> augment -> features, some batches ahead.

    On a GPU a thread queues this work on a side stream, so the training step finds its batch ready and nothing
    waits for the host. On a CPU there is nothing to overlap with, so by default the same code runs inline.
    """

    def __init__(
        self,
        store: Store,
        sampler: Sampler,
        front_end: nn.Module,
        batch_slice: BatchSlice,
        device: torch.device,
        *,
        ahead: int | None = None,
    ) -> None:
        """`ahead`: how many batches to have ready, 0 for inline; by default 0 on a CPU and 2 on a GPU."""
        self._store, self._sampler, self._front_end, self._slice = store, sampler, front_end, batch_slice
        self._device = device
        self._labels = torch.from_numpy(store.rows.label).to(device)
        self._ahead = (2 if device.type == "cuda" else 0) if ahead is None else ahead
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.wait_s = 0.0
        """How long the caller waited for data: for a batch to be ready, or inline for draws and gather."""

    def draw_numbers(self, step: int) -> NDArray[np.int64]:
        """Return the draw numbers of a whole step, over all ranks: `(global_batch,)`."""
        first = step * self._slice.global_batch
        return np.arange(first, first + self._slice.global_batch)

    def batches(self, first_step: int, last_step: int) -> Generator[Batch, None, None]:
        """Yield the micro-batches of the steps `first_step <= step < last_step`, in order."""
        draws = self._draws(first_step, last_step)
        if self._ahead == 0:
            yield from map(self._prepare, draws)
        else:
            yield from self._from_thread(draws)

    def _draws(self, first_step: int, last_step: int) -> Iterator[Draws]:
        """Yield the draws of each micro-batch. They are made many at a time, which takes hardly longer than a few."""
        rows = self._slice.rows
        places = ((step, micro) for step in range(first_step, last_step) for micro in range(self._slice.accumulate))
        while chunk := list(islice(places, max(_DRAWN_AT_ONCE // rows, 1))):
            started_s = time.perf_counter()
            drawn = self._sampler.draws(np.concatenate([self._slice.draw_numbers(*place) for place in chunk]))
            self.wait_s += time.perf_counter() - started_s
            for first in range(0, len(drawn.t), rows):
                part = slice(first, first + rows)
                yield Draws(drawn.t[part], drawn.clip[part], drawn.weight[part])

    def _from_thread(self, draws: Iterator[Draws]) -> Generator[Batch, None, None]:
        ready: deque[Future[tuple[Batch, torch.cuda.Event | None]]] = deque()
        pool = ThreadPoolExecutor(1, thread_name_prefix="device-worker")
        try:
            for some in draws:
                ready.append(pool.submit(self._prepare_on_stream, some))
                if len(ready) > self._ahead:
                    yield self._received(ready.popleft())
            while ready:
                yield self._received(ready.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _received(self, future: "Future[tuple[Batch, torch.cuda.Event | None]]") -> Batch:
        started_s = time.perf_counter()
        batch, event = future.result()
        self.wait_s += time.perf_counter() - started_s
        if event is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(event)
            for tensor in (batch.features, batch.labels, batch.weights):
                tensor.record_stream(current)  # or its memory could be reused before the step has read it
        return batch

    def _prepare_on_stream(self, draws: Draws) -> tuple[Batch, torch.cuda.Event | None]:
        if self._stream is None:
            return self._prepare(draws), None
        with torch.cuda.stream(self._stream):
            batch = self._prepare(draws)
            event = torch.cuda.Event()
            event.record(self._stream)
            return batch, event

    @torch.no_grad()
    def _prepare(self, draws: Draws) -> Batch:
        started_s = time.perf_counter()
        pcm = self._store.gather(draws.clip)
        if self._ahead == 0:
            self.wait_s += time.perf_counter() - started_s
        numbers = torch.from_numpy(draws.t).to(self._device, non_blocking=True)
        clip = torch.from_numpy(draws.clip).to(self._device, non_blocking=True)
        weights = torch.from_numpy(draws.weight).to(self._device, non_blocking=True)
        labels = self._labels[clip]
        return Batch(self._front_end(pcm, numbers, labels), labels, weights, draws)
