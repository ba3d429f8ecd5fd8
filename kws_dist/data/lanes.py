"""Draws in a windowed order, for data that are fetched while they are used.

All clips of a split, in the order in which they lie in its shards, are cut into groups of equal size. A fixed number
of lanes, whatever the number of ranks, each work through a group at a time, in a keyed order that is another each
epoch: that group is the lane's window, and only the shards that it lies in are needed. Row j of every global
batch belongs to lane `j * lanes // global_batch`, so that a rank, which takes contiguous rows, needs a few lanes'
windows only. As anywhere in this project, draw t is a function of (seed, t), and the state is one integer.

The idea of canonical lanes is that of mosaicml/streaming's elastic determinism ("canonical nodes").
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from kws_dist.data.sampler import ORDER_VERSION, Draws
from kws_dist.errors import UsageError

Ints = NDArray[np.int64]


class LaneKey(IntEnum):
    """What a key is for; none is used anywhere else."""

    GROUP = 1101
    SCHEDULE = 1102
    PASS = 1103
    RESERVOIR = 1104
    PARTNER = 1105


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
        if window_shards < 1:
            raise UsageError(f"--data.window_shards {window_shards} should be 1 or more")
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

    def first(self, group: Ints) -> Ints:
        """Return where each of the groups begins."""
        return group * self.clips // self.groups

    def sizes(self, group: Ints) -> Ints:
        """Return how many clips each of the groups has."""
        return self.first(group + 1) - self.first(group)

    def rows_of(self, t: Ints) -> tuple[Ints, Ints]:
        """Return the lane of each of the draws `t`, and how many draws of this lane came before it."""
        step, row = np.divmod(t, self.global_batch)
        lane, place = np.divmod(row, self.rows)
        return lane, step * self.rows + place


class LaneSampler(ABC):
    """Draws of a few groups of clips at a time."""

    reservoir: dict[int, Ints]
    """Places of all clips of the classes that some group lacks, which have to be kept at hand."""
    steps_per_epoch: int

    def __init__(self, lanes: Lanes, *, seed: int, clip_at: Ints | None) -> None:
        """`clip_at` `(N,)`: the clip at each place, as the store numbers them; by default the place itself."""
        self.lanes, self.seed, self.reservoir = lanes, seed, {}
        self._clip_at = clip_at
        self._order_digest = "" if clip_at is None else xxhash.xxh3_64_hexdigest(clip_at.tobytes())

    @abstractmethod
    def draws(self, t: Ints) -> Draws:
        """Return the draws `t` `(B,)`."""

    @abstractmethod
    def partners(self, t: Ints) -> Ints:
        """Return the clips `(B,)` that the draws `t` are mixed with: others of the same windows."""

    @abstractmethod
    def real_rows(self, step: int) -> int:
        """Return how many rows of a step count, over all ranks."""

    @abstractmethod
    def windows(self, t: Ints) -> tuple[list[range], list[range]]:
        """Return the places of the groups that the draws `t` are from, and of those that come next on these lanes."""

    def reservoir_clips(self) -> Ints:
        """Return the clips that have to be kept at hand."""
        return self._clips(np.concatenate([np.zeros(0, np.int64), *self.reservoir.values()]))

    def settings(self) -> dict[str, Any]:
        """Return all that the draws depend on, besides the data; `order` stands for how they lie in the shards."""
        return {
            "order_version": ORDER_VERSION,
            "seed": self.seed,
            "lanes": self.lanes.lanes,
            "groups": self.lanes.groups,
            "global_batch": self.lanes.global_batch,
            "order": self._order_digest,
        }

    def _clips(self, place: Ints) -> Ints:
        return place if self._clip_at is None else self._clip_at[place]
