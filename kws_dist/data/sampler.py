"""Which clip is drawn when: pure functions of a draw number.

Training is a sequence of draws t = 0, 1, 2, ... . Draw t, its clip and later its augmentation depend on the seed,
t and the data, and on nothing else: not on the rank, the number of ranks, the accumulation, or what was drawn
before. So any number of GPUs sees the same sequence, seeking is free, and the whole state is one integer.

Order within a pass comes from a keyed permutation (`permutation.py`), which needs no memory, where a shuffled
list would.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kws_dist import keyed
from kws_dist.data.permutation import permute
from kws_dist.errors import UsageError

Ints = NDArray[np.int64]

_SLOT, _PASS, _EPOCH = 1001, 1002, 1003  # what a key is for; none is an augmentation's `Purpose`
_BALANCE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Draws:
    """A stretch of draws: what is drawn, and whether it counts."""

    t: Ints
    """`(B,)` draw numbers."""
    clip: Ints
    """`(B,)` row of the clip, in key order."""
    weight: NDArray[np.float32]
    """`(B,)` 1 for a real draw, 0 for padding behind the end of an exactly-once epoch."""


class Sampler(Protocol):
    """What the workers and the loop need of a sampler."""

    steps_per_epoch: int

    def draws(self, t: Ints) -> Draws:
        """Return what is drawn at each of the draw numbers `t` `(B,)`."""
        ...

    def real_rows(self, step: int) -> int:
        """Return how many rows of optimizer step `step` count, over all ranks."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return all that the draws depend on, besides the data: a resumed run must have the same."""
        ...


class ClassBalancedDistributedSampler:
    """An endless sequence of draws with exact class shares, without replacement within each class.

    Draws come in blocks of `sum(quota)`; every block holds exactly `quota[c]` draws of class c, in a keyed
    random order. Within a class the clips come in passes: each clip once a pass, in a keyed random order. So the
    visits of a class's clips differ by at most 1: balanced at any time, else at the end of each block.

    `balance` in [0, 1] sets the shares: proportional to n[c]^(1 - balance), 1 balanced, 0 as they occur.
    """

    def __init__(self, labels: Ints, *, seed: int, global_batch: int, balance: float = 1.0) -> None:
        """`labels` `(N,)` in key order, 0..C-1, every class with at least one clip."""
        counts = np.bincount(labels)
        if len(labels) == 0 or counts.min() == 0:
            raise UsageError(f"no clip has label {int(counts.argmin()) if len(labels) else 0}: every word needs one")
        if not 0.0 <= balance <= 1.0:
            raise UsageError(f"--data.balance {balance} is outside [0, 1]")
        self.seed, self.balance, self.global_batch = seed, balance, global_batch
        self.class_clips = counts.astype(np.int64)
        self.quota = block_quota(self.class_clips, balance)
        self.steps_per_epoch = -(-len(labels) // global_batch)
        self._by_class = np.argsort(labels, kind="stable")
        self._first_clip = np.cumsum(self.class_clips) - self.class_clips
        self._slot_end = np.cumsum(self.quota)

    def draws(self, t: Ints) -> Draws:
        """Return the draws `t` `(B,)`: O(1) each, whatever came before."""
        block, position = np.divmod(t, self._slot_end[-1])
        slot = permute(position, self._slot_end[-1:].repeat(len(t)), keyed.fold(self.seed, _SLOT), block)
        label = np.searchsorted(self._slot_end, slot, side="right")
        # The k-th draw of this class, ever: counted through whole blocks, then within this one.
        k = block * self.quota[label] + slot - (self._slot_end - self.quota)[label]
        pass_number, place = np.divmod(k, self.class_clips[label])
        counter = pass_number * len(self.quota) + label
        place = permute(place, self.class_clips[label], keyed.fold(self.seed, _PASS), counter)
        return Draws(t, self._by_class[self._first_clip[label] + place], np.ones(len(t), np.float32))

    def real_rows(self, step: int) -> int:  # noqa: ARG002 - every step is full
        """Return the global batch: this sequence has no end."""
        return self.global_batch

    def settings(self) -> dict[str, Any]:
        """Return all that the draws depend on, besides the data."""
        return {
            "kind": "class_balanced",
            "seed": self.seed,
            "balance": self.balance,
            "quota": self.quota.tolist(),
            "global_batch": self.global_batch,
        }


class ExactlyOnceSampler:
    """Every clip exactly once an epoch; the last global batch is filled with rows of weight 0, never with clips."""

    def __init__(self, clips: int, *, seed: int, global_batch: int, shuffle: bool = True) -> None:
        if clips == 0:
            raise UsageError("there is no clip to draw: this split is empty")
        self.clips, self.seed, self.global_batch, self.shuffle = clips, seed, global_batch, shuffle
        self.steps_per_epoch = -(-clips // global_batch)

    def draws(self, t: Ints) -> Draws:
        """Return the draws `t` `(B,)`; padding rows name clip 0 with weight 0."""
        epoch, position = np.divmod(t, self.steps_per_epoch * self.global_batch)
        real = position < self.clips
        clip = np.where(real, position, 0)
        if self.shuffle:
            clip = permute(clip, np.full(len(t), self.clips), keyed.fold(self.seed, _EPOCH), epoch)
        return Draws(t, np.where(real, clip, 0), real.astype(np.float32))

    def real_rows(self, step: int) -> int:
        """Return the number of real rows of a step: fewer than the global batch only at the end of an epoch."""
        first = step % self.steps_per_epoch * self.global_batch
        return min(self.global_batch, self.clips - first)

    def settings(self) -> dict[str, Any]:
        """Return all that the draws depend on, besides the data."""
        return {
            "kind": "exactly_once",
            "seed": self.seed,
            "clips": self.clips,
            "shuffle": self.shuffle,
            "global_batch": self.global_batch,
        }


@dataclass(frozen=True, kw_only=True)
class BatchSlice:
    """How one rank cuts its micro-batches out of the global sequence: joined, the ranks' slices are that sequence."""

    global_batch: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise UsageError(f"--train.accumulate {self.accumulate} should be 1 or more")
        parts = self.accumulate * self.world
        if self.global_batch < 1 or self.global_batch % parts:
            below = max(self.global_batch, 0) // parts * parts
            choices = ", ".join(str(choice) for choice in (below, below + parts) if choice > 0)
            raise UsageError(
                f"--train.global_batch {self.global_batch} does not divide by --train.accumulate {self.accumulate}"
                f" x {self.world} processes = {parts}: choose a multiple of {parts}, such as {choices}"
            )

    @property
    def rows(self) -> int:
        """Rows of one micro-batch on one rank."""
        return self.global_batch // (self.accumulate * self.world)

    def draw_numbers(self, step: int, micro_step: int) -> Ints:
        """Return the `(rows,)` draw numbers of this rank's micro-batch."""
        first = step * self.global_batch + (micro_step * self.world + self.rank) * self.rows
        return np.arange(first, first + self.rows, dtype=np.int64)


def build_sampler(labels: Ints, *, seed: int, balance: float, global_batch: int) -> Sampler:
    """Return the sampler of a training run: `balance` 0 is plain exactly-once epochs."""
    if balance == 0:
        return ExactlyOnceSampler(len(labels), seed=seed, global_batch=global_batch)
    return ClassBalancedDistributedSampler(labels, seed=seed, balance=balance, global_batch=global_batch)


def block_quota(class_clips: Ints, balance: float) -> Ints:
    """Return how many draws of each class a block holds: the shortest block that realises the shares.

    Balanced, that is one draw of each class. Otherwise the block is as long as the data, and shares are rounded
    by largest remainder with at least one draw a class.
    """
    if balance >= 1.0 - _BALANCE_TOLERANCE:
        return np.ones(len(class_clips), np.int64)
    share = class_clips.astype(np.float64) ** (1.0 - balance)
    exact = share / share.sum() * class_clips.sum()
    quota = np.maximum(np.floor(exact).astype(np.int64), 1)
    missing = int(class_clips.sum() - quota.sum())
    if missing > 0:
        quota[np.argsort(quota - exact, kind="stable")[:missing]] += 1
    return quota
