"""Where a clip-long window comes to lie as it slides over a longer recording."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from kws_dist.recording import Samples

Item = TypeVar("Item")


def windows(blocks: Iterable[Samples], *, clip_samples: int, hop_samples: int) -> Iterator[tuple[int, Samples]]:
    """Yield each window's first sample, in the recording that the blocks make up, and its samples `(clip_samples,)`.

    They begin every `hop_samples` (at most `clip_samples`), and a last one ends where the recording does, so that all
    of it is heard. A recording shorter than a clip is one window, short as it is. A block and a clip is what is held.
    """
    assert 0 < hop_samples <= clip_samples
    held, base, first = np.empty(0, np.int16), 0, 0  # `base`: number of the first sample that is held
    for block in blocks:
        held = np.concatenate([held, block])
        while first + clip_samples <= base + len(held):
            yield first, held[first - base :][:clip_samples]
            first += hop_samples
        keep = max(first - hop_samples, base)  # the last window may begin there or later
        held, base = held[keep - base :].copy(), keep
    end = base + len(held)
    if first == 0 and end > 0:
        yield 0, held
    elif first - hop_samples + clip_samples < end:
        yield end - clip_samples, held[-clip_samples:]


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`, the last of which can be shorter."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
