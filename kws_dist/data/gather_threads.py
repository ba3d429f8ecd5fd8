"""Threads that divide the copying of a batch."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier

import torch
from torch import Tensor

from kws_dist.data.clip_reader import Ints

_PART_BYTES = 4 << 20  # less is copied before another thread has woken up


class GatherThreads:
    """A few threads, in each of which torch computes alone.

    Threads of torch's own would wait for each other without sleeping. Where another process wants a core too, that
    keeps the one that they wait for from running: on 2 cores beside one busy process a gather of 256 clips took
    10 times as long with them as with these.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        began, torch_threads = Barrier(threads + 1), torch.get_num_threads()

        def begin() -> None:
            torch.get_num_threads()  # else torch would set the number again when it first needs it in this thread
            torch.set_num_threads(1)
            began.wait()

        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gather", initializer=begin)
        for _ in range(threads):
            self._pool.submit(int)
        began.wait()
        torch.set_num_threads(torch_threads)  # which counts for this thread, and for those that begin later

    def run(self, copy: Callable[[Ints, Tensor], None], clip: Ints, out: Tensor) -> None:
        """Call `copy` for parts of `clip` `(B,)` and of the rows of `out` `(B, clip_samples)` side by side."""
        parts = max(min(out.nbytes // _PART_BYTES, self._threads), 1)
        slices = [slice(*edge) for edge in pairwise(len(clip) * part // parts for part in range(parts + 1))]
        list(self._pool.map(lambda part: copy(clip[part], out[part]), slices))
