"""A shard read from front to back, a few megabytes at a time, and honest about where it ends."""

from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path

import numpy as np

from kws_dist.shards.index import ShardIndex

_READ_BYTES = 4 << 20


def read_blocks(path: Path, index: ShardIndex) -> Iterator[tuple[range, memoryview]]:
    """Yield the bytes of a shard as (numbers of the clips, their records), then the rest with an empty range.

    Where the file is shorter than its index says the last block is too. The memory of a block is used again for the
    next. Raises `OSError` where the file cannot be read.
    """
    ends = np.cumsum(index.rows["record_bytes"].astype(np.int64))
    longest = int(index.rows["record_bytes"].max(initial=0))
    longest = min(longest, path.stat().st_size)  # whatever an index claims
    memory = memoryview(bytearray(max(longest, _READ_BYTES)))
    with path.open("rb", buffering=0) as file:
        first, offset = 0, 0
        while first < len(ends):
            last = max(int(np.searchsorted(ends, offset + _READ_BYTES, "right")), first + 1)
            wanted = int(ends[last - 1]) - offset
            size = _fill(file, memory[:wanted])
            yield range(first, last), memory[:size]
            if size < wanted:
                return
            first, offset = last, offset + wanted
        while size := _fill(file, memory):
            yield range(first, first), memory[:size]


def _fill(file: RawIOBase, memory: memoryview) -> int:
    """Read until the memory is full or the file ends; returns how many bytes that were."""
    size = 0
    while size < len(memory) and (more := file.readinto(memory[size:])):
        size += more
    return size
