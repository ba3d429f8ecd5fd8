"""Read many clips at once: threads read, check and decode different stretches of the shards side by side.

Reading, xxh3 and libsndfile let other threads run meanwhile.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import numpy as np

from kws_dist.data.clip_reader import ClipPolicy, Ints, Samples, read_into, unreadable
from kws_dist.errors import DataError
from kws_dist.shards.read import Rows

_RUN_BYTES = 2 << 20  # read at once by a thread; a run should stay in the cache until its clips are checked and copied

Place = Callable[[Ints], AbstractContextManager[Iterable[Samples]]]
"""Takes the numbers of a run of clips and gives the row that each is to be written into, until all are written."""


def load(rows: Rows, policy: ClipPolicy, clips: Ints, place: Place, *, threads: int) -> Ints:
    """Read `clips`, given in the order in which they lie on disk, into the rows that `place` gives.

    Returns the numbers of the damaged ones, if the policy is to skip them; their rows then hold anything.
    Raises `DataError` naming the first damaged clip, or the shard that cannot be read.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="load")
    try:
        runs = [pool.submit(_load_run, rows, policy, run, place) for run in _runs(rows, policy, clips)]
        return np.array([clip for run in runs for clip in run.result()], np.int64)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def load_threads() -> int:
    """Return how many threads to load with: more than cores, because some of them wait for the disk."""
    return min(2 * len(os.sched_getaffinity(0)), 16)


def _runs(rows: Rows, policy: ClipPolicy, clips: Ints) -> Iterator[Ints]:
    """Cut the clips into runs that lie one behind the other in one shard."""
    most = max(_RUN_BYTES // policy.row_bytes, 1)
    for of_shard in np.split(clips, np.flatnonzero(np.diff(rows.shard[clips])) + 1):
        for first in range(0, len(of_shard), most):
            yield of_shard[first : first + most]


def _load_run(rows: Rows, policy: ClipPolicy, run: Ints, place: Place) -> list[int]:
    """Return the damaged ones, if they are to be skipped."""
    damaged = list[int]()
    with place(run) as out:
        for row, clip, record in zip(out, run.tolist(), _read_records(rows, run, policy), strict=True):
            try:
                read_into(row, rows, clip, record, policy)
            except DataError:
                if policy.on_bad_clip == "error":
                    raise
                damaged.append(clip)
    return damaged


def _read_records(rows: Rows, run: Ints, policy: ClipPolicy) -> list[memoryview]:
    """Return the bytes of each clip of a run, fewer where the shard is cut off."""
    path, offset = rows.shard_paths[rows.shard[run[0]]], rows.record_offset[run]
    begin = offset - offset[0]
    end = begin + rows.record_bytes[run]
    try:
        with path.open("rb", buffering=0) as file:
            data = memoryview(os.pread(file.fileno(), end[-1], offset[0]))
    except OSError as error:
        if policy.on_bad_clip == "error":
            raise unreadable(path, error) from error
        data = memoryview(b"")  # every clip of the run is then found damaged, and skipped
    return [data[first:last] for first, last in zip(begin.tolist(), end.tolist(), strict=True)]
