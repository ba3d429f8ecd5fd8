"""Exact class shares, a few groups of clips at a time."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from kws_dist import keyed
from kws_dist.data.arrays import appearance_ranks
from kws_dist.data.lanes import Ints, LaneKey, Lanes, LaneSampler
from kws_dist.data.permutation import Ranges, permute
from kws_dist.data.sampler import Draws
from kws_dist.errors import UsageError


@dataclass(frozen=True)
class _Visit:
    """A lane's window at one time: the `number`-th of its windows ever, which holds `group` in this epoch."""

    lane: int
    number: int
    epoch: int
    group: int


class BalancedLanes(LaneSampler):
    """An endless sequence of draws in which each lane works through a group at a time, all of them once an epoch.

    Each window of a lane holds the classes exactly by their `quota`, some whole number of times. So does each stretch
    of `sum(quota)` rows of a step, if a step has as many; else the lanes are spread over the schedule of classes.
    Within a group and class, clips come in passes: over all epochs their visits differ by at most one. A class that
    some group lacks is drawn from all its clips instead, by every lane in passes of its own: the `reservoir`.
    """

    def __init__(
        self,
        lanes: Lanes,
        labels: Callable[[range], Ints],
        *,
        seed: int,
        quota: Ints,
        reservoir: dict[int, Ints] | None = None,
        clip_at: Ints | None = None,
    ) -> None:
        """`labels` of a range of places in the shards' order; `reservoir`: places of all clips of some classes."""
        super().__init__(lanes, seed=seed, clip_at=clip_at)
        self.quota, self.reservoir = quota, reservoir or {}
        self.steps_per_epoch = -(-lanes.clips // lanes.global_batch)
        self._labels, self._drawn = labels, OrderedDict[tuple[int, int], Ints]()
        length = int(quota.sum())
        self.window_draws = max(round(lanes.clips / lanes.groups / length), 1) * length
        places = np.arange(length)
        order = permute(places, Ranges.of([length]).at(0 * places), keyed.fold(seed, LaneKey.SCHEDULE), 0 * places)
        self._schedule = np.repeat(np.arange(len(quota)), quota)[order]
        fits = length <= lanes.global_batch
        # Where each lane begins in the schedule.
        self._phase = np.arange(lanes.lanes) * (lanes.rows if fits else length / lanes.lanes)
        self._visit = lru_cache(4 * lanes.lanes + 64)(self._find_visit)

    def draws(self, t: Ints) -> Draws:
        """Return the draws `t` `(B,)`; a window that is touched is drawn whole, and kept for a while."""
        place = np.empty(len(t), np.int64)
        for rows, visit, offset in self._visits(t):
            place[rows] = self._window(visit)[offset]
        return Draws(t, self._clips(place), np.ones(len(t), np.float32))

    def partners(self, t: Ints) -> Ints:
        """Return the clips `(B,)` that the draws `t` are mixed with: another draw of the same window, at random."""
        place = np.empty(len(t), np.int64)
        other = keyed.below(keyed.fold(self.seed, LaneKey.PARTNER), t, self.window_draws)
        for rows, visit, _ in self._visits(t):
            place[rows] = self._window(visit)[other[rows]]
        return self._clips(place)

    def real_rows(self, step: int) -> int:  # noqa: ARG002 - every step is full
        """Return the global batch: this sequence has no end."""
        return self.lanes.global_batch

    def windows(self, t: Ints) -> tuple[list[range], list[range]]:
        """Return the places of the groups that the draws `t` are from, and of those that come next on these lanes."""
        now = [visit for _, visit, _ in self._visits(t)]
        last = {visit.lane: visit.number for visit in now}  # visits ascend
        soon = [self._visit(lane, number + 1) for lane, number in last.items()]
        return [self._places(visit) for visit in now], [self._places(visit) for visit in soon]

    def settings(self) -> dict[str, Any]:
        """Return all that the draws depend on, besides the data."""
        own = {"quota": self.quota.tolist(), "reservoir": sorted(self.reservoir)}
        return {"kind": "balanced_lanes", **super().settings(), **own}

    def _visits(self, t: Ints) -> Iterator[tuple[Ints, _Visit, Ints]]:
        """Yield, for each lane and window that the draws `t` are from, their rows, the visit and the offsets in it."""
        lane, before = self.lanes.rows_of(t)
        number, offset = np.divmod(before, self.window_draws)
        order = np.lexsort((number, lane))
        changes = (np.diff(lane[order]) != 0) | (np.diff(number[order]) != 0)
        for rows in np.split(order, np.flatnonzero(changes) + 1) if len(t) else ():
            yield rows, self._visit(int(lane[rows[0]]), int(number[rows[0]])), offset[rows]

    def _find_visit(self, lane: int, number: int) -> _Visit:
        """All groups once an epoch, in a keyed order, dealt to the lanes in turn."""
        epoch, window = divmod(number, self.lanes.windows)
        place, groups = np.array([window * self.lanes.lanes + lane]), Ranges.of([self.lanes.groups])
        group = permute(place, groups, keyed.fold(self.seed, LaneKey.GROUP), np.array([epoch]))
        return _Visit(lane, number, epoch, int(group[0]))

    def _places(self, visit: _Visit) -> range:
        return self.lanes.group_clips(visit.group)

    def _window(self, visit: _Visit) -> Ints:
        """Return the places of all that is drawn in a window."""
        key = (visit.lane, visit.number)
        if key not in self._drawn:
            self._drawn[key] = self._draw(visit)
            while len(self._drawn) > 3 * self.lanes.lanes:
                self._drawn.popitem(last=False)
        return self._drawn[key]

    def _draw(self, visit: _Visit) -> Ints:
        places = self._places(visit)
        labels = self._labels(places)
        start = visit.number * self.window_draws + int(self._phase[visit.lane])
        drawn = self._schedule[(start + np.arange(self.window_draws)) % len(self._schedule)]
        rank = appearance_ranks(drawn[None, :])[0]
        # As many in every window: so the draws of a class before this window are known without counting.
        each_window = self.quota[drawn] * (self.window_draws // len(self._schedule))
        clips = np.bincount(labels, minlength=len(self.quota))
        self._check(visit, clips)
        number, place = np.divmod(visit.epoch * each_window + rank, np.maximum(clips, 1)[drawn])
        counter = (number * self.lanes.groups + visit.group) * len(self.quota) + drawn
        ranges = Ranges.of(np.maximum(clips, 1)).at(drawn)
        place = permute(place, ranges, keyed.fold(self.seed, LaneKey.PASS), counter)
        by_class, first = np.argsort(labels, kind="stable"), np.cumsum(clips) - clips
        place = places.start + by_class[np.minimum(first[drawn] + place, len(labels) - 1)]
        for label, pool in self.reservoir.items():
            rows = np.flatnonzero(drawn == label)
            key = keyed.fold(self.seed, LaneKey.RESERVOIR, label, visit.lane)
            place[rows] = pool[_in_passes(visit.number * len(rows) + np.arange(len(rows)), len(pool), key)]
        return place

    def _check(self, visit: _Visit, clips: Ints) -> None:
        for label in np.flatnonzero((clips == 0) & (self.quota > 0)).tolist():
            if label not in self.reservoir:
                raise UsageError(f"class {label} is in no clip of group {visit.group}: it should be in the reservoir")


def build_lanes(lanes: Lanes, labels: Ints, order: Ints, *, seed: int, quota: Ints) -> BalancedLanes:
    """Return the sampler of clips whose `labels` `(N,)` are known; `order` `(N,)` lists them as they lie in the shards.

    A class that some group lacks becomes part of the reservoir.
    """
    in_order = labels[order]
    group = np.repeat(np.arange(lanes.groups), lanes.sizes(np.arange(lanes.groups)))
    clips = np.bincount(group * len(quota) + in_order, minlength=lanes.groups * len(quota))
    missing = (clips.reshape(lanes.groups, -1) == 0).any(0) & (quota > 0)
    reservoir = {label: np.flatnonzero(in_order == label) for label in np.flatnonzero(missing).tolist()}

    def labels_of(places: range) -> Ints:
        return in_order[places.start : places.stop]

    return BalancedLanes(lanes, labels_of, seed=seed, quota=quota, reservoir=reservoir, clip_at=order)


def _in_passes(k: Ints, size: int, key: int) -> Ints:
    """Return the k-th of an endless sequence that goes through [0, size) in one random order after another."""
    number, place = np.divmod(k, size)
    return permute(place, Ranges.of([size]).at(0 * k), key, number)
