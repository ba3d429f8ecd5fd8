"""The clips of a split in files that are mapped into memory, gathered batch by batch."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kws_dist.data.bulk_load import load, load_threads
from kws_dist.data.clip_reader import ClipPolicy, Ints, Samples, disk_order, refuse_long, select
from kws_dist.data.device_store import into_memory, without
from kws_dist.data.gather_threads import GatherThreads
from kws_dist.data.mapped_shards import MappedShards
from kws_dist.data.pinned import cuda_buffers
from kws_dist.data.share import ALONE, Share
from kws_dist.errors import UsageError
from kws_dist.shards.read import Rows

_GATHER_THREADS = 4  # more add little: a few cores keep a machine's memory busy
_BUFFERS = 4  # a batch is filled, one is copied, and two more may wait for a device that is behind


class _Clips(Protocol):
    def copy(self, clip: Ints, out: Tensor) -> None:
        """Write the clips `(B,)` into `out`, int16 `(B, clip_samples)`."""
        ...


class HostStore:
    """Memory-mapped shards: the operating system keeps in memory what fits, and each batch is copied over.

    WAV is read straight from the shards; FLAC is decoded once, into an unnamed file in $TMPDIR.
    """

    on_device = False

    def __init__(
        self, rows: Rows, policy: ClipPolicy, device: torch.device, *, share: Share = ALONE, threads: int | None = None
    ) -> None:
        """`share`: look for damaged clips together with other ranks. `threads`: to gather with."""
        refuse_long(rows, policy)
        self._device, self._clip_samples = device, policy.clip_samples
        self._threads = GatherThreads(threads or min(len(os.sched_getaffinity(0)), _GATHER_THREADS))
        self._buffers = cuda_buffers(_BUFFERS, policy.clip_samples, device) if device.type == "cuda" else None
        self._clips: _Clips
        if rows.codec == "flac":
            self.rows, self.skipped_keys, self._clips = _decoded(rows, policy, device, share)
        else:
            self.rows, self.skipped_keys = _undamaged(rows, policy, device, share)
            self._clips = MappedShards(self.rows, policy)

    def at_step(self, step: int) -> None:
        """Do nothing: every clip is there at any time."""

    def gather(self, clip: Ints | Tensor) -> Tensor:
        """Return the int16 PCM `(B, clip_samples)` of the clips `(B,)`, which must not be on a GPU.

        Raises `DataError` when one that is read for the first time is damaged.
        """
        number = np.asarray(clip)
        # The threads are not in the caller's inference mode, and may not write into a tensor that was made in it.
        with torch.inference_mode(False):
            if self._buffers is None:  # what is gathered is handed out, so it cannot be written again
                pcm = torch.empty(len(number), self._clip_samples, dtype=torch.int16)
                self._threads.run(self._clips.copy, number, pcm)
                return pcm
            with self._buffers.lend(len(number)) as pcm:
                self._threads.run(self._clips.copy, number, pcm)
                return pcm.to(self._device, non_blocking=True)


class _Decoded:
    """Rows that lie one behind the other in a file."""

    def __init__(self, pcm: Tensor) -> None:
        self._pcm = pcm

    def copy(self, clip: Ints, out: Tensor) -> None:
        """Write the clips `(B,)` into `out`, int16 `(B, clip_samples)`."""
        torch.index_select(self._pcm, 0, torch.from_numpy(clip), out=out)


def _undamaged(rows: Rows, policy: ClipPolicy, device: torch.device, share: Share) -> tuple[Rows, list[str]]:
    """Return the rows without those that are damaged, and their keys.

    If those are to be skipped all clips are read now, because leaving one out later would change every draw after it.
    """
    if policy.on_bad_clip == "error":
        return rows, []

    @contextmanager
    def nowhere(run: Ints) -> Iterator[Iterable[Samples]]:
        yield repeat(np.empty(policy.clip_samples, np.int16), len(run))

    mine = share.part(disk_order(rows), share.rank)
    damaged = share.settle(lambda: load(rows, policy, mine, nowhere, threads=load_threads()), len(rows), device)
    kept, skipped_keys = np.delete(np.arange(len(rows)), damaged), [rows.keys[clip] for clip in damaged]
    return select(rows, kept), skipped_keys


def _decoded(rows: Rows, policy: ClipPolicy, device: torch.device, share: Share) -> tuple[Rows, list[str], _Decoded]:
    """Decode all clips into a file. Each rank has its own, because a file is seen only on its own node."""
    pcm = torch.from_numpy(_unnamed_file(len(rows), policy))
    place = into_memory(pcm)
    damaged = share.settle(
        lambda: load(rows, policy, disk_order(rows), place, threads=load_threads()), len(rows), device
    )
    rows, skipped_keys, pcm = without(rows, pcm, damaged)
    return rows, skipped_keys, _Decoded(pcm)


def _unnamed_file(clips: int, policy: ClipPolicy) -> NDArray[np.int16]:
    """Return `(clips, clip_samples)` in a file that is gone with the array; the system need not keep it in memory."""
    n_bytes = clips * policy.row_bytes
    with tempfile.TemporaryFile() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(n_bytes, 1))  # a full disk later on would kill the process
        except OSError as error:
            raise UsageError(
                f"--data.residency host needs {n_bytes / 1e9:.1f} GB in {tempfile.gettempdir()} for the decoded FLAC"
                f" clips ({error.strerror}): name a folder with room in TMPDIR, or make the shards with --codec wav"
            ) from error
        shape = (max(clips, 1), policy.clip_samples)
        return np.memmap(file, np.int16, "r+", shape=shape)[:clips]
