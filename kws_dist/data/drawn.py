"""Draws together with all that depends on their numbers alone, made many at a time and cut into micro-batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.sampler import Draws, Sampler
from kws_dist.data.store import Ints, Store
from kws_dist.frontend.pipeline import FrontEnd

AT_ONCE_CPU, AT_ONCE_GPU = 1 << 12, 1 << 20
"""How many draws to make at a time: a GPU takes hardly longer for a million, in some thousand kernels, than for one."""


@dataclass(frozen=True)
class Drawn:
    """The draws of a micro-batch; all have shape `(B,)`."""

    draws: Draws
    """As the store wants its clip numbers: numpy arrays, or tensors on the device."""
    numbers: Tensor
    """The draw numbers, int64, on the device as all that follows, but for `partner`."""
    labels: Tensor
    weights: Tensor
    partner: Ints | Tensor | None
    """Clips to be mixed in, as the store wants their numbers; None, as the next two, where nothing is mixed."""
    partner_labels: Tensor | None
    partner_share: Tensor | None


class Drawer:
    """Draws the micro-batches of one rank.

    Where the clips are in a GPU's memory the draws are made there too, so that a batch costs the host next to nothing.
    """

    def __init__(
        self, sampler: Sampler, store: Store, batch_slice: BatchSlice, device: torch.device, front_end: FrontEnd
    ) -> None:
        self._sampler, self._slice, self._device = sampler, batch_slice, device
        self._mix = front_end.mix
        self._on_gpu = store.on_device and device.type == "cuda"
        self._labels = self._sent(store.rows.label) if self._on_gpu else store.rows.label

    def micro_batches(self, first_step: int, last_step: int) -> Iterator[Drawn]:
        """Yield the micro-batches of the steps `first_step <= step < last_step`, in order."""
        at_once = AT_ONCE_GPU if self._on_gpu else AT_ONCE_CPU
        steps = max(at_once // self._slice.global_batch, 1)  # what lies between a rank's own draws costs as well
        for first in range(first_step, last_step, steps):
            some = range(first, min(first + steps, last_step))
            yield from self._cut(self._draw(np.concatenate([self._slice.step_numbers(step) for step in some])))

    def _draw(self, t: Ints) -> Drawn:
        numbers = self._sent(t)
        asked = numbers if self._on_gpu else t
        draws = self._sampler.draws(asked)
        partner = partner_labels = partner_share = None
        if self._mix is not None:
            partner = self._sampler.partners(asked)
            partner_labels, partner_share = self._sent(self._labels[partner]), self._mix.shares(numbers)
        labels, weights = self._sent(self._labels[draws.clip]), self._sent(draws.weight)
        return Drawn(draws, numbers, labels, weights, partner, partner_labels, partner_share)

    def _sent(self, column: Ints | Tensor) -> Tensor:
        """Return a column on the device; where it comes from numpy, the host does not wait until it is there."""
        if isinstance(column, Tensor):
            return column
        tensor = torch.from_numpy(column)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()  # torch gives it to nobody else before the copy is done
        return tensor.to(self._device, non_blocking=True)

    def _cut(self, drawn: Drawn) -> Iterator[Drawn]:
        """Cut draws into micro-batches, which are views."""
        draws = drawn.draws
        columns = (drawn.numbers, drawn.labels, drawn.weights, drawn.partner, drawn.partner_labels, drawn.partner_share)
        return map(
            Drawn, map(Draws, *map(self._parts, (draws.t, draws.clip, draws.weight))), *map(self._parts, columns)
        )

    def _parts(self, column: Any) -> Iterator[Any]:
        return repeat(None) if column is None else iter(column.reshape(-1, self._slice.rows))
