"""Which shards the draws to come need: what a stream store fetches before it is asked."""

from collections.abc import Callable, Sequence

import numpy as np

from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.clip_reader import disk_order
from kws_dist.data.lanes import LaneSampler
from kws_dist.data.sampler import ExactlyOnceSampler
from kws_dist.data.stream_store import Plan
from kws_dist.shards.read import Rows

_STEPS_AHEAD = 4

Planner = Callable[[int], Plan]
"""Tells what a rank needs at a step."""


def lane_planner(sampler: LaneSampler, rows: Rows, batch_slice: BatchSlice) -> Planner:
    """Return what tells which shards a rank needs: those of its lanes' windows, then of their next ones."""
    shard_at = rows.shard[disk_order(rows)]

    def shards_of(windows: Sequence[range]) -> list[int]:
        spans = (range(shard_at[window.start], shard_at[window.stop - 1] + 1) for window in windows)
        return list(dict.fromkeys(shard for span in spans for shard in span))

    def plan(step: int) -> Plan:
        now, soon = map(shards_of, sampler.windows(batch_slice.step_numbers(step)))
        return Plan(now, [shard for shard in soon if shard not in now])

    return plan


def once_planner(sampler: ExactlyOnceSampler, rows: Rows, batch_slice: BatchSlice) -> Planner:
    """Return what tells which shards a rank needs in one pass over all clips, which is in the order of the shards."""

    def shards_of(step: int) -> list[int]:
        drawn = sampler.draws(batch_slice.step_numbers(min(step, sampler.steps_per_epoch - 1)))
        return np.unique(rows.shard[drawn.clip[drawn.weight > 0]]).tolist()

    def plan(step: int) -> Plan:
        now = shards_of(step)
        later = (shard for ahead in range(_STEPS_AHEAD) for shard in shards_of(step + 1 + ahead))
        return Plan(now, [shard for shard in dict.fromkeys(later) if shard not in now])

    return plan
