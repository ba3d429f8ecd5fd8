"""Draws in a windowed order, for data that are fetched while they are used.

All clips of a split, in the order in which they lie in its shards, are cut into groups of equal size. A fixed number
of lanes, whatever the number of ranks, each work through a group at a time, in a keyed order that is another each
epoch: that group is the lane's window, and only the shards that it lies in are needed. Row j of every global
batch belongs to lane `j * lanes // global_batch`, so that a rank, which takes contiguous rows, needs a few lanes'
windows only. As anywhere in this project, draw t is a function of (seed, t), and the state is one integer.

The idea of canonical lanes is that of mosaicml/streaming's elastic determinism ("canonical nodes").
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kws_dist import keyed
from kws_dist.data.permutation import Ranges, permute
from kws_dist.data.sampler import ORDER_VERSION, Draws
from kws_dist.errors import UsageError

Ints = NDArray[np.int64]

_GROUP, _SCHEDULE, _PASS, _RESERVOIR, _PARTNER = 1101, 1102, 1103, 1104, 1105  # what a key is for


@dataclass(frozen=True)
class Lanes:
    """How the clips of a split are cut into groups, and the rows of a batch into lanes."""

    clips: int
    global_batch: int
    lanes: int
    groups: int
    """A multiple of the lanes: each lane has `groups / lanes` windows an epoch."""

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.global_batch % self.lanes:
            choices = [n for n in range(1, min(self.global_batch, 4096) + 1) if self.global_batch % n == 0]
            near = sorted(choices, key=lambda n: abs(n - self.lanes))[:3]
            raise UsageError(
                f"--data.lanes {self.lanes} does not divide --train.global_batch {self.global_batch}:"
                f" choose for instance {', '.join(map(str, sorted(near)))}"
            )
        if self.clips < self.groups:
            raise UsageError(
                f"--data.lanes {self.lanes}: {self.clips} clips are too few for {self.groups} groups; lower it"
            )

    @staticmethod
    def plan(*, clips: int, shards: int, global_batch: int, lanes: int = 0, window_shards: int = 1) -> "Lanes":
        """Cut the data so that a group is about `window_shards` shards; `lanes` 0: up to 64, as many as divide."""
        lanes = lanes or max(n for n in range(1, min(64, clips) + 1) if global_batch % n == 0)
        return Lanes(clips, global_batch, lanes, lanes * max(-(-shards // (lanes * window_shards)), 1))

    @property
    def rows(self) -> int:
        """Rows of each global batch that belong to one lane."""
        return self.global_batch // self.lanes

    @property
    def windows(self) -> int:
        """Windows of a lane in an epoch."""
        return self.groups // self.lanes

    def group_clips(self, group: int) -> range:
        """Return the places of a group's clips, in the order of the shards; sizes differ by at most one."""
        return range(group * self.clips // self.groups, (group + 1) * self.clips // self.groups)

    def sizes(self, group: Ints) -> Ints:
        """Return how many clips each of the groups has."""
        return (group + 1) * self.clips // self.groups - group * self.clips // self.groups


@dataclass(frozen=True)
class _Visit:
    """A lane's window at one time: the `number`-th of its windows ever, which holds `group` in this epoch."""

    lane: int
    number: int
    epoch: int
    group: int


class LaneSampler:
    """Draws in a windowed order: exact class shares, or every clip exactly once an epoch (`quota` None).

    With a quota, any `sum(quota)` consecutive rows hold each class as often as its quota says, also across the lanes
    of a step. Within a group and class the visits of clips differ by at most one, over all epochs. A class that some
    group lacks is drawn from all its clips instead, by every lane in passes of its own: those clips are the
    `reservoir`, which has to be kept at hand.
    """

    def __init__(
        self,
        lanes: Lanes,
        labels: Callable[[range], Ints],
        *,
        seed: int,
        quota: Ints | None = None,
        reservoir: dict[int, Ints] | None = None,
        clip_at: Ints | None = None,
    ) -> None:
        """`labels` of a range of places in the order of the shards; `reservoir`: places of all clips of some classes.

        `clip_at` `(N,)`: the clip at each place, as the store numbers them; by default the place itself.
        """
        self.lanes, self.seed, self.quota, self.reservoir = lanes, seed, quota, reservoir or {}
        self._clip_at = clip_at
        self.steps_per_epoch = -(-lanes.clips // lanes.global_batch)
        self.window_draws = -(-lanes.clips // lanes.groups)
        self._labels = labels
        self._drawn: OrderedDict[tuple[int, int], Ints] = OrderedDict()
        if quota is None:
            # A lane may have a padding row at the end of each window, and steps at the end of an epoch.
            self.steps_per_epoch = -(-lanes.windows * self.window_draws // lanes.rows)
        else:
            self.window_draws = max(round(self.window_draws / quota.sum()), 1) * int(quota.sum())
            slots = np.repeat(np.arange(len(quota)), quota)
            places = np.arange(len(slots))
            whole = Ranges.of([len(slots)]).at(0 * places)
            self._schedule = slots[permute(places, whole, keyed.fold(seed, _SCHEDULE), 0 * places)]

    def draws(self, t: Ints) -> Draws:
        """Return the draws `t` `(B,)`; a window that is touched is drawn whole, and kept for a while."""
        place = np.empty(len(t), np.int64)
        for rows, visit, offset in self._visits(t):
            place[rows] = self._window(visit)[offset]
        real = place >= 0
        return Draws(t, self._clip(place * real) * real, real.astype(np.float32))

    def partners(self, t: Ints) -> Ints:
        """Return the clips `(B,)` that the draws `t` are mixed with: another draw of the same window, at random."""
        place = np.empty(len(t), np.int64)
        for rows, visit, _ in self._visits(t):
            drawn = self._window(visit)
            drawn = drawn[drawn >= 0]
            place[rows] = drawn[keyed.below(keyed.fold(self.seed, _PARTNER), t[rows], len(drawn))]
        return self._clip(place)

    def real_rows(self, step: int) -> int:
        """Return how many rows of a step count, over all ranks."""
        if self.quota is not None:
            return self.lanes.global_batch
        # All lanes are at the same place, and differ only in the size of their groups.
        number, offset = self._window_number(step * self.lanes.rows + np.arange(self.lanes.rows))
        lane = np.arange(self.lanes.lanes)
        return sum(
            int((offset[number == one][:, None] < self.lanes.sizes(self._group(lane, 0 * lane + one))).sum())
            for one in np.unique(number)
        )

    def windows(self, t: Ints) -> tuple[list[range], list[range]]:
        """Return the places of the windows that the draws `t` are from, and of those that come next on these lanes."""
        now = [visit for _, visit, _ in self._visits(t)]
        last = {visit.lane: visit.number for visit in now}  # visits ascend
        soon = [self._visit(lane, number + 1) for lane, number in last.items()]
        return [self._places(visit) for visit in now], [self._places(visit) for visit in soon]

    def reservoir_clips(self) -> Ints:
        """Return the clips that have to be kept at hand."""
        return self._clip(np.concatenate([np.zeros(0, np.int64), *self.reservoir.values()]))

    def settings(self) -> dict[str, Any]:
        """Return all that the draws depend on, besides the data and its order in the shards."""
        return {
            "kind": "lanes",
            "order_version": ORDER_VERSION,
            "seed": self.seed,
            "lanes": self.lanes.lanes,
            "groups": self.lanes.groups,
            "global_batch": self.lanes.global_batch,
            "quota": None if self.quota is None else self.quota.tolist(),
            "reservoir": sorted(self.reservoir),
        }

    def _clip(self, place: Ints) -> Ints:
        return place if self._clip_at is None else self._clip_at[place]

    def _visits(self, t: Ints) -> Iterator[tuple[Ints, _Visit, Ints]]:
        """Yield, for each lane and window that the draws `t` are from, their rows, the visit and the offsets in it."""
        step, row = np.divmod(t, self.lanes.global_batch)
        lane, place = np.divmod(row, self.lanes.rows)
        number, offset = self._window_number(step * self.lanes.rows + place)
        order = np.lexsort((number, lane))
        changes = (np.diff(lane[order]) != 0) | (np.diff(number[order]) != 0)
        for rows in np.split(order, np.flatnonzero(changes) + 1):
            yield rows, self._visit(int(lane[rows[0]]), int(number[rows[0]])), offset[rows]

    def _window_number(self, place: Ints) -> tuple[Ints, Ints]:
        """Return which window of a lane, counted from the first ever, its draw `place` is in, and where in it."""
        if self.quota is not None:
            return np.divmod(place, self.window_draws)
        epoch, place = np.divmod(place, self.steps_per_epoch * self.lanes.rows)
        # Behind the last window the last step of an epoch is filled up: so much longer is that window.
        window = np.minimum(place // self.window_draws, self.lanes.windows - 1)
        return epoch * self.lanes.windows + window, place - window * self.window_draws

    def _group(self, lane: Ints, number: Ints) -> Ints:
        """Return the group in the `number`-th window ever of each lane: all groups once an epoch, in a keyed order."""
        epoch, window = np.divmod(number, self.lanes.windows)
        groups = Ranges.of([self.lanes.groups]).at(0 * lane)
        return permute(window * self.lanes.lanes + lane, groups, keyed.fold(self.seed, _GROUP), epoch)

    def _visit(self, lane: int, number: int) -> _Visit:
        group = self._group(np.array([lane]), np.array([number]))
        return _Visit(lane, number, number // self.lanes.windows, int(group[0]))

    def _places(self, visit: _Visit) -> range:
        return self.lanes.group_clips(visit.group)

    def _window(self, visit: _Visit) -> Ints:
        """Return all that is drawn in a window, -1 for padding; kept for a while."""
        key = (visit.lane, visit.number)
        if key not in self._drawn:
            self._drawn[key] = self._once(visit) if self.quota is None else self._balanced(visit, self.quota)
            while len(self._drawn) > 3 * self.lanes.lanes:
                self._drawn.popitem(last=False)
        self._drawn.move_to_end(key)
        return self._drawn[key]

    def _once(self, visit: _Visit) -> Ints:
        places = self._places(visit)
        drawn = np.full(self.window_draws + self.lanes.rows, -1, np.int64)
        key = keyed.fold(self.seed, _PASS, visit.group)
        drawn[: len(places)] = places.start + _in_passes(
            np.arange(len(places)) + visit.epoch * len(places), len(places), key
        )
        return drawn

    def _balanced(self, visit: _Visit, quota: Ints) -> Ints:
        """Draw the classes by the schedule that all lanes share, a step apart; in each class, clips in passes."""
        places = self._places(visit)
        labels = self._labels(places)
        start = visit.number * self.window_draws + visit.lane * self.lanes.rows
        drawn = self._schedule[(start + np.arange(self.window_draws)) % len(self._schedule)]
        clip = np.empty(len(drawn), np.int64)
        for label in np.flatnonzero(quota).tolist():
            rows = np.flatnonzero(drawn == label)
            # As many in every window: so the draws of a class before this window are known without counting.
            if label in self.reservoir:
                pool, before = self.reservoir[label], visit.number * len(rows)
                key = keyed.fold(self.seed, _RESERVOIR, label, visit.lane)
            else:
                pool, before = places.start + np.flatnonzero(labels == label), visit.epoch * len(rows)
                key = keyed.fold(self.seed, _PASS, visit.group, label)
            clip[rows] = pool[_in_passes(before + np.arange(len(rows)), len(pool), key)]
        return clip


def build_lane_sampler(lanes: Lanes, labels: Ints, order: Ints, *, seed: int, quota: Ints | None) -> LaneSampler:
    """Return the sampler of clips whose `labels` `(N,)` are known; `order` `(N,)` lists them as they lie in the shards.

    A class that some group lacks becomes part of the reservoir.
    """
    in_order = labels[order]
    reservoir = {}
    if quota is not None:
        group = np.concatenate([np.full(len(lanes.group_clips(g)), g) for g in range(lanes.groups)])
        clips = np.bincount(group * len(quota) + in_order, minlength=lanes.groups * len(quota))
        missing = (clips.reshape(lanes.groups, -1) == 0).any(0) & (quota > 0)
        reservoir = {label: np.flatnonzero(in_order == label) for label in np.flatnonzero(missing).tolist()}

    def labels_of(places: range) -> Ints:
        return in_order[places.start : places.stop]

    return LaneSampler(lanes, labels_of, seed=seed, quota=quota, reservoir=reservoir, clip_at=order)


def _in_passes(k: Ints, size: int, key: int) -> Ints:
    """Return the k-th of an endless sequence that goes through [0, size) in one random order after another."""
    number, place = np.divmod(k, size)
    return permute(place, Ranges.of([size]).at(0 * k), key, number)
