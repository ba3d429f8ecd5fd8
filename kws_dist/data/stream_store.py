"""Clips whose shards lie elsewhere: fetched into a cache before they are needed, and read there as from any disk.

A plan says which shards are needed when, long before a byte of them is here. A wrong plan costs time and nothing else:
a shard that it leaves out is fetched when a batch needs it.
"""

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kws_dist.data.ahead import Ahead
from kws_dist.data.cache_folder import NoRoomError
from kws_dist.data.clip_reader import ClipPolicy, Ints, Samples, fit, refuse_long
from kws_dist.data.pinned import cuda_buffers
from kws_dist.data.shard_cache import ShardCache
from kws_dist.errors import DataError, UsageError
from kws_dist.shards.read import Rows, pcm_of, verify_record

_BUFFERS = 4  # a batch is filled, one is copied, and two more may wait for a device that is behind


@dataclass(frozen=True)
class Plan:
    """Shards, as places in `Rows.shard_paths`."""

    now: Sequence[int]
    """What the batches of a step need."""
    soon: Sequence[int]
    """What comes next, the most urgent first."""


def nothing(step: int) -> Plan:  # noqa: ARG001 - whatever the step
    """Plan nothing: shards are fetched when they are needed."""
    return Plan((), ())


class StreamStore:
    """The clips of one split, in shards that come and go."""

    on_device = False

    def __init__(
        self,
        rows: Rows,
        policy: ClipPolicy,
        device: torch.device,
        cache: ShardCache,
        plan: Callable[[int], Plan] = nothing,
        *,
        threads: int = 4,
    ) -> None:
        """`plan` of a step, which may be set later; `threads`: how many shards are fetched at the same time."""
        if policy.on_bad_clip == "skip":
            raise UsageError(
                "--data.on_bad_clip skip does not go with --data.residency stream: clips that are left out change the"
                " draws, and here it shows only during training which are damaged; choose error"
            )
        refuse_long(rows, policy)
        self.rows, self.skipped_keys = rows, list[str]()
        self.plan = plan
        self._policy, self._device, self._cache = policy, device, cache
        self._kept, self._kept_row = np.empty((0, policy.clip_samples), np.int16), np.full(len(rows), -1, np.int32)
        self._names = [path.name for path in rows.shard_paths]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._verified = np.zeros(len(rows), bool)
        self._buffers = cuda_buffers(_BUFFERS, policy.clip_samples, device) if device.type == "cuda" else None
        self._shards = Ahead(self._mapped, threads)
        cache.join(self._let_all_go)

    def at_step(self, step: int) -> None:
        """Have fetched what this step needs, then what comes next as far as the limit allows; let go of all else.

        Raises `UsageError` if the limit has no room for what the step needs.
        """
        plan = self.plan(step)
        now, soon = ([self._names[shard] for shard in shards] for shards in (plan.now, plan.soon))
        fitting = self._cache.within_limit(now, soon)
        ahead = [self._numbers[name] for name in fitting if name not in now]
        self._let_go(self._shards.want(plan.now, ahead))

    def gather(self, clip: Ints | Tensor) -> Tensor:
        """Return the int16 PCM `(B, clip_samples)` of the clips `(B,)`, which must not be on a GPU.

        Waits for shards that are not here yet. Raises `DataError` if one cannot be had, or is not what its index says.
        """
        numbers = np.asarray(clip)
        if self._buffers is None:  # what is gathered is handed out, so it cannot be written again
            pcm = torch.empty(len(numbers), self._policy.clip_samples, dtype=torch.int16)
            self._fill(pcm.numpy(), numbers)
            return pcm
        with self._buffers.lend(len(numbers)) as pcm:
            self._fill(pcm.numpy(), numbers)
            return pcm.to(self._device, non_blocking=True)

    def keep(self, clips: Ints) -> None:
        """Read some clips now, from shards that are let go again, and keep them in memory."""
        kept = np.empty((len(clips), self._policy.clip_samples), np.int16)
        shard_of = self.rows.shard[clips]
        for shard in np.unique(shard_of).tolist():
            places = np.flatnonzero(shard_of == shard)
            self._copy(shard, clips[places], [kept[place] for place in places])
            self._let_all_go()
        self._kept = kept
        self._kept_row[clips] = np.arange(len(clips))

    def close(self) -> None:
        """Stop fetching, and close the cache. What was gathered stays."""
        self._cache.close()
        self._shards.close()

    def _fill(self, pcm: Samples, clips: Ints) -> None:
        """Write the clips `(B,)` into the rows of `pcm` `(B, clip_samples)`, shard by shard."""
        kept_row = self._kept_row[clips]
        is_kept = kept_row >= 0
        pcm[is_kept] = self._kept[kept_row[is_kept]]
        shard_of = np.where(is_kept, -1, self.rows.shard[clips])
        for shard in np.unique(shard_of[~is_kept]).tolist():
            places = np.flatnonzero(shard_of == shard)
            self._copy(shard, clips[places], [pcm[place] for place in places])

    def _copy(self, shard: int, clips: Ints, out: list[Samples]) -> None:
        content = self._content(shard)
        try:
            self._read(content, clips, out)
        except DataError:
            # It was whole when it came, so somebody or the disk has changed it since: one that comes anew may be right.
            self._cache.discard(self._names[shard])
            self._shards.forget(shard)
            self._read(self._content(shard), clips, out)

    def _read(self, content: memoryview, clips: Ints, out: list[Samples]) -> None:
        offsets, sizes = self.rows.record_offset[clips].tolist(), self.rows.record_bytes[clips].tolist()
        for row, clip, first, size in zip(out, clips.tolist(), offsets, sizes, strict=True):
            record = content[first : first + size]
            if not self._verified[clip]:
                verify_record(self.rows, clip, record)
                self._verified[clip] = True
            fit(row, pcm_of(self.rows, clip, record), self._policy)

    def _content(self, shard: int) -> memoryview:
        try:
            return self._shards.result(shard)
        except NoRoomError:  # what a plan holds, this or another store's, is in the way of what is needed
            self._cache.make_room()
            return self._shards.result(shard)

    def _mapped(self, shard: int) -> memoryview:
        with self._cache.get(self._names[shard]).open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def _let_all_go(self) -> None:
        self._let_go(self._shards.clear())

    def _let_go(self, shards: Sequence[int]) -> None:
        for shard in shards:
            self._cache.release(self._names[shard])
