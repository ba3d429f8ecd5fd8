"""All clips of a split as one tensor."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from kws_dist.data.bulk_load import Place, load, load_threads
from kws_dist.data.clip_reader import ClipPolicy, Ints, Samples, disk_order, refuse_long, select
from kws_dist.data.pinned import cuda_buffers
from kws_dist.data.share import ALONE, Share
from kws_dist.shards.read import Rows


class DeviceStore:
    """All clips as one int16 tensor in device memory: Speech Commands v2 takes 3.4 GB."""

    on_device = True

    def __init__(
        self, rows: Rows, policy: ClipPolicy, device: torch.device, *, share: Share = ALONE, threads: int | None = None
    ) -> None:
        """`share`: read only a part and get the others from the other ranks. `threads`: to read with."""
        refuse_long(rows, policy)
        threads = threads or load_threads()
        pcm = _room(len(rows), policy, device)
        place = into_memory(pcm) if device.type == "cpu" else _through_buffers(pcm, threads)
        clips = disk_order(rows)
        mine = share.part(clips, share.rank)
        damaged = share.settle(lambda: load(rows, policy, mine, place, threads=threads), len(rows), device)
        share.join(pcm, clips)
        self.rows, self.skipped_keys, self._pcm = without(rows, pcm, damaged)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # batches are gathered on other streams than the loading

    def at_step(self, step: int) -> None:
        """Do nothing: every clip is there at any time."""

    def gather(self, clip: Ints | Tensor) -> Tensor:
        """Return the int16 PCM `(B, clip_samples)` of the clips `(B,)`."""
        if self._pcm.device.type == "cpu":
            # As fast as torch's threads, for which one core busy with something else is enough to make them slow.
            return torch.from_numpy(self._pcm.numpy()[np.asarray(clip)])
        return self._pcm.index_select(0, torch.as_tensor(clip).to(self._pcm.device, non_blocking=True))


def _room(clips: int, policy: ClipPolicy, device: torch.device) -> Tensor:
    if device.type == "cpu":
        # numpy asks for huge pages and torch does not: measured, they are filled twice as fast.
        return torch.from_numpy(np.empty((clips, policy.clip_samples), np.int16))
    return torch.empty(clips, policy.clip_samples, dtype=torch.int16, device=device)


def into_memory(pcm: Tensor) -> Place:
    """Write each clip straight into its row of `pcm` `(N, clip_samples)` in host memory."""
    by_number = pcm.numpy()

    @contextmanager
    def place(run: Ints) -> Iterator[list[Samples]]:
        yield [by_number[clip] for clip in run]

    return place


def without(rows: Rows, pcm: Tensor, damaged: Ints) -> tuple[Rows, list[str], Tensor]:
    """Leave the damaged clips out of the rows and, in place, out of `pcm`; also returns their keys."""
    if not len(damaged):
        return rows, [], pcm
    keep = np.delete(np.arange(len(rows)), damaged)
    for first in range(0, len(keep), 256):
        number = torch.from_numpy(keep[first : first + 256]).to(pcm.device)
        pcm[first : first + len(number)] = pcm.index_select(0, number)  # none moves to behind where it was
    return select(rows, keep), [rows.keys[clip] for clip in damaged], pcm[: len(keep)]


def _through_buffers(pcm: Tensor, threads: int) -> Place:
    """Fill a page-locked buffer and have it copied to the rows of `pcm` on the device while the next one is filled."""
    buffers = cuda_buffers(threads + 2, pcm.shape[1], pcm.device)

    @contextmanager
    def place(run: Ints) -> Iterator[Samples]:
        with buffers.lend(len(run)) as staged:
            yield staged.numpy()
            number = torch.from_numpy(run).to(pcm.device)
            pcm.index_copy_(0, number, staged.to(pcm.device, non_blocking=True))

    return place
