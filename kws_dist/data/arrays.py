"""The little in which numpy arrays and torch tensors differ, so that draws are written once for both."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from kws_dist.keyed import Ints


class Tables:
    """Constant numpy arrays, and copies of them on each device where they are asked for."""

    def __init__(self, **arrays: np.ndarray) -> None:
        self._arrays = arrays
        self._on_device: dict[torch.device, SimpleNamespace] = {}
        self.nbytes = sum(array.nbytes for array in arrays.values())

    def beside(self, like: Any) -> SimpleNamespace:
        """Return the arrays as attributes, of the kind and on the device of `like`."""
        if not isinstance(like, torch.Tensor):
            return SimpleNamespace(**self._arrays)
        if like.device not in self._on_device:
            copies = {name: torch.from_numpy(array).to(like.device) for name, array in self._arrays.items()}
            self._on_device[like.device] = SimpleNamespace(**copies)
        return self._on_device[like.device]


def filled(like: Ints, value: float) -> Any:
    """Return a float32 array of one value, of the shape, kind and device of `like`."""
    if isinstance(like, torch.Tensor):
        return torch.full(like.shape, value, dtype=torch.float32, device=like.device)
    return np.full(like.shape, value, np.float32)


def as_weights(real: Any) -> Any:
    """Turn booleans into float32 1 and 0."""
    return real.to(torch.float32) if isinstance(real, torch.Tensor) else real.astype(np.float32)


def distinct(x: Ints) -> tuple[Ints, Ints]:
    """Return the distinct values, sorted, and for each element the place of its value among them."""
    if isinstance(x, torch.Tensor):
        return torch.unique(x, return_inverse=True)
    return np.unique(x, return_inverse=True)


def appearance_ranks(labels: Ints) -> Ints:
    """For each row of labels `(rows, length)`, return how many equal labels stand before each one in its row."""
    length = labels.shape[1]
    if isinstance(labels, torch.Tensor):
        order = torch.argsort(labels, dim=1, stable=True)
        place = torch.empty_like(order).scatter_(1, order, torch.arange(length, device=labels.device).expand_as(order))
        ordered = labels.gather(1, order)
        first = torch.searchsorted(ordered, labels.contiguous())
        return place - first
    order = np.argsort(labels, axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(length), order.shape), 1)
    # In every row a class begins behind all smaller ones, so the count of those is what its places are counted from.
    ordered = np.take_along_axis(labels, order, 1)
    starts = np.where(np.diff(ordered, axis=1, prepend=-1) != 0, np.arange(length), 0)
    first = np.empty_like(order)
    np.put_along_axis(first, order, np.maximum.accumulate(starts, axis=1), 1)
    return place - first
