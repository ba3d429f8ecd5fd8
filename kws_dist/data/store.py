"""Where the clips of a split live while training reads them: on the device, or in memory-mapped shards.

Every store gives the same rows: int16 PCM of one fixed length. The first time a clip is read its record is checked
against the index, so nothing damaged is ever trained on in silence.
"""

import os
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kws_dist.data.clip_reader import ClipPolicy, Ints, fit, refuse_long, select
from kws_dist.errors import DataError
from kws_dist.shards.read import Rows, pcm_of, verify_record

Residency = Literal["auto", "device", "host", "stream"]


class Store(Protocol):
    """The clips of one split, in key order."""

    rows: Rows
    skipped_keys: list[str]
    """Damaged clips that were left out."""
    on_device: bool
    """Whether clip numbers are best given as a tensor on the device; else they are given as a numpy array."""

    def at_step(self, step: int) -> None:
        """Hear that batches of this optimizer step are about to be gathered."""
        ...

    def gather(self, clip: Ints | Tensor) -> Tensor:
        """Return the int16 PCM `(B, clip_samples)` of the clips `(B,)` on the device."""
        ...


class DeviceStore:
    """All clips as one int16 tensor in device memory: Speech Commands v2 takes 3.4 GB."""

    on_device = True

    def __init__(self, rows: Rows, policy: ClipPolicy, device: torch.device) -> None:
        reader = _ShardReader(rows, policy)
        self.rows, self.skipped_keys = reader.rows, reader.skipped_keys
        pcm = np.zeros((len(self.rows), policy.clip_samples), np.int16)
        for clip in reader.disk_order():
            reader.read_into(clip, pcm[clip])
        self._pcm = torch.from_numpy(pcm).to(device)

    def at_step(self, step: int) -> None:
        """Do nothing: every clip is there at any time."""

    def gather(self, clip: Ints | Tensor) -> Tensor:
        """Return the int16 PCM `(B, clip_samples)` of the clips `(B,)`."""
        return self._pcm.index_select(0, torch.as_tensor(clip).to(self._pcm.device, non_blocking=True))


class HostStore:
    """Memory-mapped shards: the operating system keeps in memory what fits, and each batch is copied over."""

    on_device = False

    def __init__(self, rows: Rows, policy: ClipPolicy, device: torch.device) -> None:
        self._reader = _ShardReader(rows, policy)
        self.rows, self.skipped_keys = self._reader.rows, self._reader.skipped_keys
        self._clip_samples, self._device = policy.clip_samples, device

    def at_step(self, step: int) -> None:
        """Do nothing: every clip is there at any time."""

    def gather(self, clip: Ints | Tensor) -> Tensor:
        """Return the int16 PCM `(B, clip_samples)` of the clips `(B,)`; a tensor must be on the CPU."""
        # torch keeps freed pinned buffers and hands one out again only when its copy is done.
        pinned = self._device.type == "cuda"
        pcm = torch.zeros(len(clip), self._clip_samples, dtype=torch.int16, pin_memory=pinned)
        for out, number in zip(pcm.numpy(), np.asarray(clip), strict=True):
            self._reader.read_into(int(number), out)
        return pcm.to(self._device, non_blocking=True)


def open_store(rows: Rows, policy: ClipPolicy, *, residency: Residency, device: torch.device) -> Store:
    """Open the clips of a split where `residency` says; `auto` is the device if they take at most half of what is free.

    Raises `DataError` naming shard, key and remedy when a clip is damaged.
    """
    if residency == "auto":
        wanted_bytes = len(rows) * policy.clip_samples * 2
        residency = "device" if wanted_bytes <= free_bytes(device) // 2 else "host"
    return (DeviceStore if residency == "device" else HostStore)(rows, policy, device)


def read_noise(rows: Rows, on_bad_clip: Literal["error", "skip"] = "error") -> tuple[list[Tensor], list[str]]:
    """Return the noise recordings, whole: int16 `(samples,)` each, on the CPU; and the keys that were left out."""
    longest = int(rows.n_samples.max(initial=0))
    reader = _ShardReader(rows, ClipPolicy(clip_samples=max(longest, 1), on_bad_clip=on_bad_clip))
    recordings = [np.zeros(int(samples), np.int16) for samples in reader.rows.n_samples]
    for clip, recording in enumerate(recordings):
        reader.read_into(clip, recording)
    return [torch.from_numpy(recording) for recording in recordings], reader.skipped_keys


def free_bytes(device: torch.device) -> int:
    """Return how much memory is free on the device (for a CPU: what the system could hand out now)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class _ShardReader:
    """Reads clips out of memory-mapped shards and checks each one the first time."""

    def __init__(self, rows: Rows, policy: ClipPolicy) -> None:
        self._policy = policy
        skip = policy.on_bad_clip == "skip"
        self._shards = [_map(path, may_be_missing=skip) for path in rows.shard_paths]
        self.rows, self.skipped_keys = rows, []
        if skip:
            self._skip_damaged()
        self._verified = np.zeros(len(self.rows), bool)
        refuse_long(self.rows, policy)

    def disk_order(self) -> Ints:
        """Return all clip numbers in the order in which they lie on disk."""
        return np.lexsort((self.rows.record_offset, self.rows.shard))

    def read_into(self, clip: int, out: NDArray[np.int16]) -> None:
        """Copy the samples of a clip into the row `out` `(clip_samples,)`, padded or cropped by the policy."""
        fit(out, self._samples(clip), self._policy)

    def _samples(self, clip: int) -> NDArray[np.int16]:
        rows = self.rows
        first = rows.record_offset[clip]
        record = self._shards[rows.shard[clip]][first : first + rows.record_bytes[clip]]
        if not self._verified[clip]:
            verify_record(rows, clip, record)
            self._verified[clip] = True
        return pcm_of(rows, clip, record)

    def _skip_damaged(self) -> None:
        # All at once, because dropping a clip later would change every draw after it.
        self._verified = np.zeros(len(self.rows), bool)
        for clip in self.disk_order():
            try:
                self._samples(int(clip))
            except DataError:
                self.skipped_keys.append(self.rows.keys[clip])
        if self.skipped_keys:
            self.rows = select(self.rows, np.flatnonzero(self._verified))


def _map(path: Path, *, may_be_missing: bool) -> memoryview:
    try:
        return np.memmap(path, np.uint8, "r").data if path.stat().st_size else memoryview(b"")
    except OSError as error:
        if may_be_missing:
            return memoryview(b"")  # every clip in it is then found damaged, and skipped
        raise DataError(
            f"{path} cannot be read ({error.strerror}): check the disk, or make the shards again"
        ) from error
