"""Where the clips of a split live while training reads them: on the device, or in memory-mapped shards.

Every store gives the same rows: int16 PCM of one fixed length. The first time a clip is read its record is checked
against the index, so nothing damaged is ever trained on in silence.
"""

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from kws_dist.data.bulk_load import load, load_threads
from kws_dist.data.clip_reader import ClipPolicy, Ints, Samples, disk_order
from kws_dist.data.device_store import DeviceStore
from kws_dist.data.host_store import HostStore
from kws_dist.data.share import ALONE, Share
from kws_dist.shards.read import Rows

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


def open_store(
    rows: Rows,
    policy: ClipPolicy,
    *,
    residency: Residency,
    device: torch.device,
    share: Share = ALONE,
    device_memory_share: float = 0.5,
    memory_bytes: int | None = None,
) -> Store:
    """Open the clips of a split where `residency` says: `device`, `host`, or `auto`.

    `auto` is the device if the clips take at most `device_memory_share` of the `memory_bytes` that are free on it,
    and else the host. Ranks have to agree: give all of them the least of what `free_bytes` says on each.
    `share`: read the clips together with other ranks.

    Raises `DataError` naming shard, key and remedy when a clip is damaged.
    """
    assert residency != "stream", "a stream is opened by its URLs"
    if residency == "auto":
        memory_bytes = free_bytes(device) if memory_bytes is None else memory_bytes
        fits = len(rows) * policy.row_bytes <= device_memory_share * memory_bytes
        residency = "device" if fits else "host"
    return (DeviceStore if residency == "device" else HostStore)(rows, policy, device, share=share)


def read_noise(rows: Rows, on_bad_clip: Literal["error", "skip"] = "error") -> tuple[list[Tensor], list[str]]:
    """Return the noise recordings, whole: int16 `(samples,)` each, on the CPU; and the keys that were left out."""
    policy = ClipPolicy(clip_samples=int(rows.n_samples.max(initial=1)), on_bad_clip=on_bad_clip)
    recordings = [np.empty(samples, np.int16) for samples in rows.n_samples.tolist()]

    def place(run: Ints) -> AbstractContextManager[list[Samples]]:
        return nullcontext([recordings[clip] for clip in run])

    damaged = load(rows, policy, disk_order(rows), place, threads=load_threads()).tolist()
    whole = [torch.from_numpy(samples) for clip, samples in enumerate(recordings) if clip not in damaged]
    return whole, [rows.keys[clip] for clip in sorted(damaged)]


def free_bytes(device: torch.device) -> int:
    """Return how much memory is free on the device; for a CPU, how much the system could hand out now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    # What sysconf calls available does not count what holds copies of files, which can be had at once.
    found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found, "Linux has told this since 2014"
    return int(found[1]) * 1024
