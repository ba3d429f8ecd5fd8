"""Every clip exactly once an epoch, a few groups of clips at a time."""

from functools import lru_cache
from typing import Any

import numpy as np

from kws_dist import keyed
from kws_dist.data.lanes import Ints, LaneKey, Lanes, LaneSampler
from kws_dist.data.permutation import Ranges, permute
from kws_dist.data.sampler import Draws


class OnceLanes(LaneSampler):
    """Exactly-once epochs: the groups in a keyed order, another each epoch, cut into equal parts, one for each lane.

    So a group may be half one lane's and half the next one's. Within a group clips come in a keyed order. Only the
    last step of an epoch has padding.
    """

    def __init__(self, lanes: Lanes, *, seed: int, clip_at: Ints | None = None) -> None:
        super().__init__(lanes, seed=seed, clip_at=clip_at)
        # Where each lane's part of an epoch begins, and the end of the last.
        self._edges = np.arange(lanes.lanes + 1) * lanes.clips // lanes.lanes
        self.steps_per_epoch = -(-int(np.diff(self._edges).max()) // lanes.rows)
        self._epoch_order = lru_cache(2)(self._order)

    def draws(self, t: Ints) -> Draws:
        """Return the draws `t` `(B,)`; padding rows name the last clip of their lane with weight 0."""
        place = np.empty(len(t), np.int64)
        epoch, real, position = self._positions(t)
        for one in np.unique(epoch):
            rows = np.flatnonzero(epoch == one)
            group, offset = self._groups(int(one), position[rows])
            size = self.lanes.sizes(group)
            key, counter = keyed.fold(self.seed, LaneKey.PASS), one * self.lanes.groups + group
            place[rows] = self.lanes.first(group) + permute(offset, Ranges.of(size), key, counter)
        return Draws(t, self._clips(place), real.astype(np.float32))

    def partners(self, t: Ints) -> Ints:
        """Return the clips `(B,)` that the draws `t` are mixed with: any of the same group."""
        place = np.empty(len(t), np.int64)
        epoch, _, position = self._positions(t)
        for one in np.unique(epoch):
            rows = np.flatnonzero(epoch == one)
            group, _ = self._groups(int(one), position[rows])
            offset = keyed.below(keyed.fold(self.seed, LaneKey.PARTNER), t[rows], self.lanes.sizes(group))
            place[rows] = self.lanes.first(group) + offset
        return self._clips(place)

    def real_rows(self, step: int) -> int:
        """Return how many rows of a step count, over all ranks: fewer than all only at the end of an epoch."""
        before = step % self.steps_per_epoch * self.lanes.rows
        return int(np.clip(np.diff(self._edges) - before, 0, self.lanes.rows).sum())

    def windows(self, t: Ints) -> tuple[list[range], list[range]]:
        """Return the places of the groups that the draws `t` are from, and of those that come next on these lanes."""
        epoch, _, position = self._positions(t)
        found: list[list[range]] = []
        for ahead in (0, -(-self.lanes.clips // self.lanes.groups)):
            groups = dict.fromkeys(
                int(group)
                for one in np.unique(epoch)
                for group in self._groups(int(one), self._ahead(position[epoch == one], ahead))[0]
            )
            found.append([self.lanes.group_clips(group) for group in groups])
        return found[0], [window for window in found[1] if window not in found[0]]

    def settings(self) -> dict[str, Any]:
        """Return all that the draws depend on, besides the data."""
        return {"kind": "once_lanes", **super().settings()}

    def _positions(self, t: Ints) -> tuple[Ints, Any, Ints]:
        """Return for each of the draws its epoch, whether it is real, and its place in the order of the epoch."""
        lane, number = self.lanes.rows_of(t)
        epoch, number = np.divmod(number, self.steps_per_epoch * self.lanes.rows)
        position, end = self._edges[lane] + number, self._edges[lane + 1]
        return epoch, position < end, np.minimum(position, end - 1)

    def _ahead(self, position: Ints, clips: int) -> Ints:
        return np.minimum(position + clips, self.lanes.clips - 1)

    def _groups(self, epoch: int, position: Ints) -> tuple[Ints, Ints]:
        """Return the group that each place in the order of an epoch is in, and how far into it."""
        order, ends = self._epoch_order(epoch)
        number = np.searchsorted(ends, position, side="right")
        return order[number], position - ends[number] + self.lanes.sizes(order[number])

    def _order(self, epoch: int) -> tuple[Ints, Ints]:
        """Return the groups in the order of an epoch, and where each ends."""
        numbers = np.arange(self.lanes.groups)
        all_groups = Ranges.of([self.lanes.groups]).at(0 * numbers)
        order = permute(numbers, all_groups, keyed.fold(self.seed, LaneKey.GROUP), 0 * numbers + epoch)
        return order, np.cumsum(self.lanes.sizes(order))
