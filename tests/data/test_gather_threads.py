"""Threads that divide a batch: every row is copied once, and torch's own threads stay out of it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from kws_dist.data.clip_reader import Ints
from kws_dist.data.gather_threads import GatherThreads
from kws_dist.errors import DataError

CLIP_SAMPLES = 16_000


@pytest.mark.parametrize("clips", [0, 1, 2, 400])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_row_is_copied_once(clips: int, threads: int) -> None:
    out = torch.zeros(clips, CLIP_SAMPLES, dtype=torch.int16)

    def add(number: Ints, rows: Tensor) -> None:
        rows += torch.from_numpy(number)[:, None].to(torch.int16)

    GatherThreads(threads).run(add, np.arange(clips), out)
    assert torch.equal(out, torch.arange(clips, dtype=torch.int16)[:, None].expand(clips, CLIP_SAMPLES))


def test_torch_computes_alone_in_each_thread_and_as_before_outside() -> None:
    torch_threads, seen = torch.get_num_threads(), list[int]()
    try:
        torch.set_num_threads(2)
        threads = GatherThreads(2)
        batch = torch.zeros(600, CLIP_SAMPLES, dtype=torch.int16)
        threads.run(lambda *_: seen.append(torch.get_num_threads()), np.arange(600), batch)
        assert seen == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(torch_threads)


def test_an_error_in_a_thread_is_an_error_of_the_batch() -> None:
    def fail(number: Ints, _: Tensor) -> None:
        raise DataError(f"clip {number[0]} is damaged")

    with pytest.raises(DataError, match="clip 7 is damaged"):
        GatherThreads(2).run(fail, np.array([7]), torch.zeros(1, CLIP_SAMPLES, dtype=torch.int16))
