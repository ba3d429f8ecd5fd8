"""The device worker: draw numbers in, ready batches on the device out."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.profiler import record_function

from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.drawn import Drawer, Drawn
from kws_dist.data.sampler import Draws, Sampler
from kws_dist.data.store import Store
from kws_dist.data.wait import DataWait
from kws_dist.frontend.pipeline import FrontEnd


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
    """What was drawn: numpy arrays, or tensors on the GPU whose memory holds the clips."""
    partner_labels: Tensor | None = None
    """`(B,)` int64: what was mixed in, where anything is."""
    partner_share: Tensor | None = None
    """`(B,)` float32 in [0, 1]: how much of the row's label is its partner's."""
    teacher_features: Tensor | None = None
    """`(B, 1, bins, frames)` float32: what a teacher hears of the same clips, where there is one."""


_Gathered: TypeAlias = tuple[Drawn, Tensor, Tensor | None]
_Made: TypeAlias = "tuple[Batch, torch.cuda.Event | None]"


class DeviceWorker:
    """Turns draws into batches: gather int16 PCM -> decode -> augment -> features, some batches ahead.

    On a GPU a thread queues this work on a side stream, so the training step finds its batch ready and the host waits
    for nothing. On a CPU there is nothing to overlap with, so by default the same code runs inline.

    A batch made ahead on a GPU stays as it is for as long as it is held. But its memory is used anew once it is let go,
    so what reads it is to be queued, on the caller's current stream, before the next batch is asked for.
    """

    def __init__(
        self,
        store: Store,
        sampler: Sampler,
        front_end: FrontEnd,
        batch_slice: BatchSlice,
        device: torch.device,
        *,
        ahead: int | None = None,
    ) -> None:
        """`ahead`: how many batches to have ready, 0 for inline; by default 0 on a CPU and 2 on a GPU."""
        self._store, self._front_end, self._slice, self._device = store, front_end, batch_slice, device
        self._drawer = Drawer(sampler, store, batch_slice, device, front_end)
        self._ahead = (2 if device.type == "cuda" else 0) if ahead is None else ahead
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" and self._ahead else None
        self._wait = DataWait(device)

    @property
    def wait_s(self) -> float:
        """How long the caller, on a GPU its stream, waited for data: for a batch to be ready; inline, for its clips."""
        return self._wait.total_s

    def draw_numbers(self, step: int) -> NDArray[np.int64]:
        """Return the draw numbers of a whole step, over all ranks: `(global_batch,)`."""
        first = step * self._slice.global_batch
        return np.arange(first, first + self._slice.global_batch)

    def drawn(self, first_step: int, last_step: int) -> Generator[Drawn, None, None]:
        """Yield what `batches` makes batches of, for `batch_of`; the clips have to lie on the device."""
        yield from self._drawer.micro_batches(first_step, last_step)

    def batch_of(self, drawn: Drawn) -> Batch:
        """Make a batch now, on the caller's stream."""
        partner_pcm = None if drawn.partner is None else self._store.gather(drawn.partner)
        return self._batch(drawn, self._store.gather(drawn.draws.clip), partner_pcm)

    def batches(self, first_step: int, last_step: int) -> Generator[Batch, None, None]:
        """Yield the micro-batches of the steps `first_step <= step < last_step`, in order."""
        gathered = self._gathered(first_step, last_step)
        count = (last_step - first_step) * self._slice.accumulate
        if self._ahead:
            yield from self._made_ahead(gathered, count)
            return
        for _ in range(count):
            with self._wait.counted():
                one = self._next(gathered)
            yield self._batch(*one)

    def _gathered(self, first_step: int, last_step: int) -> Iterator[_Gathered]:
        """Yield the clips of each micro-batch and of its partners, if it has any."""
        drawn = self._drawer.micro_batches(first_step, last_step)
        for step in range(first_step, last_step):
            self._store.at_step(step)
            for some in islice(drawn, self._slice.accumulate):
                partner_pcm = None if some.partner is None else self._store.gather(some.partner)
                yield some, self._store.gather(some.draws.clip), partner_pcm

    def _next(self, gathered: Iterator[_Gathered]) -> _Gathered:
        with record_function("kws/data"):  # for the profiler, as below
            return next(gathered)

    @torch.no_grad()
    def _batch(self, drawn: Drawn, pcm: Tensor, partner_pcm: Tensor | None) -> Batch:
        partner = () if partner_pcm is None else (partner_pcm, drawn.partner_labels)
        with record_function("kws/features"):
            features, teacher_features = self._front_end.both(pcm, drawn.numbers, drawn.labels, *partner)
        mixed = (drawn.partner_labels, drawn.partner_share)
        return Batch(features, drawn.labels, drawn.weights, drawn.draws, *mixed, teacher_features)

    def _made_ahead(self, gathered: Iterator[_Gathered], count: int) -> Generator[Batch, None, None]:
        """Yield `count` batches, of which a thread makes the next `ahead` meanwhile."""
        ready = deque[Future[_Made]]()
        pool = ThreadPoolExecutor(1, thread_name_prefix="device-worker")
        self._line_up()
        try:
            for number in range(count + self._ahead):
                if number < count:
                    ready.append(pool.submit(self._make, gathered))
                if number >= self._ahead:
                    yield from self._handed_over(ready.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _make(self, gathered: Iterator[_Gathered]) -> _Made:
        with torch.cuda.stream(self._stream):  # which does nothing for None
            batch = self._batch(*self._next(gathered))
            if self._stream is None:
                return batch, None
            is_ready = torch.cuda.Event()
            is_ready.record(self._stream)
            return batch, is_ready

    def _handed_over(self, made: Future[_Made]) -> Iterator[Batch]:
        with self._wait.counted():
            batch, is_ready = made.result()
            if is_ready:
                torch.cuda.current_stream(self._device).wait_event(is_ready)
        try:
            yield batch  # and held here, whatever the caller does, until all that reads it is queued
        finally:
            self._line_up()

    def _line_up(self) -> None:
        """Let what is queued for making batches from now on come after all that the caller has queued up to now."""
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
