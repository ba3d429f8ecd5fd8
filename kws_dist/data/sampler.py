"""Which clip is drawn when: pure functions of a draw number.

Training is a sequence of draws t = 0, 1, 2, ... . Draw t, its clip and later its augmentation depend on the seed,
t and the data, and on nothing else: not on the rank, the number of ranks, the accumulation, or what was drawn
before. So any number of GPUs sees the same sequence, seeking is free, and the whole state is one integer.

Order within a pass comes from a keyed permutation (`permutation.py`), which needs no memory, where a shuffled
list would. Draw numbers may be numpy arrays or tensors on any device; the draws are the same and of the same kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from kws_dist import keyed
from kws_dist.data.arrays import Tables, appearance_ranks, as_weights, distinct, filled
from kws_dist.data.batch_slice import BatchSlice as BatchSlice
from kws_dist.data.permutation import Ranges, permute
from kws_dist.data.quota import block_quota, class_shares
from kws_dist.data.torch_sampler import EpochSampler
from kws_dist.errors import UsageError

Ints = NDArray[np.int64]

ORDER_VERSION = 3
"""Changes whenever the same settings come to mean other draws, so that no run goes on with those of another."""

_SLOT, _PASS, _EPOCH, _PARTNER = 1001, 1002, 1003, 1004  # what a key is for; none is an augmentation's `Purpose`


@dataclass(frozen=True)
class Draws:
    """A stretch of draws: what is drawn, and whether it counts. Numpy arrays, or tensors on one device."""

    t: Any
    """`(B,)` int64 draw numbers."""
    clip: Any
    """`(B,)` int64 row of the clip, in key order."""
    weight: Any
    """`(B,)` float32: 1 for a real draw, 0 for padding behind the end of an exactly-once epoch."""


class Sampler(Protocol):
    """What the workers and the loop need of a sampler."""

    steps_per_epoch: int

    def draws(self, t: Any) -> Draws:
        """Return what is drawn at each of the draw numbers `t` `(B,)`."""
        ...

    def partners(self, t: Any) -> Any:
        """Return the clips `(B,)` that the draws `t` are mixed with, where they are: a second keyed draw of each t."""
        ...

    def real_rows(self, step: int) -> int:
        """Return how many rows of optimizer step `step` count, over all ranks."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return all that the draws depend on, besides the data: a resumed run must have the same."""
        ...


class ClassBalancedDistributedSampler(EpochSampler):
    """An endless sequence of draws with exact class shares, without replacement within each class.

    Draws come in blocks of `sum(quota)`; every block holds exactly `quota[c]` draws of class c, in a keyed
    random order. Within a class the clips come in passes: each clip once a pass, in a keyed random order. So at any
    time the visits of a class's clips differ by at most 1.

    `balance` in [0, 1] sets the shares: proportional to n[c]^(1 - balance), 1 balanced, 0 as they occur; `weights`
    multiplies them, and `max_share` caps them, as for `_unknown_`. To torch this is a sampler, see `EpochSampler`.
    """

    def __init__(
        self,
        labels: Ints,
        *,
        global_batch: int,
        seed: int = 0,
        balance: float = 1.0,
        weights: Sequence[float] | None = None,
        max_share: Sequence[float] | None = None,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        """`labels` `(N,)` in key order, 0..C-1; `weights` and `max_share` `(C,)`, by default 1.

        Every class needs a clip, or the weight 0. `rank`, `world` and `accumulate` matter to torch's loader only.
        Raises `UsageError` for what cannot be.
        """
        super().__init__(BatchSlice(global_batch=global_batch, accumulate=accumulate, rank=rank, world=world))
        labels = checked_labels(labels)
        classes = max(len(weights) if weights is not None else 0, int(labels.max(initial=-1)) + 1)
        self.class_clips = np.bincount(labels, minlength=classes).astype(np.int64)
        self.seed, self.balance, self.global_batch = seed, balance, global_batch
        self.weights, self.max_share = _per_class(weights, classes), _per_class(max_share, classes)
        share = class_shares(self.class_clips, balance=balance, weights=self.weights, max_share=self.max_share)
        self.quota = block_quota(share)
        self.steps_per_epoch = -(-len(labels) // global_batch)
        self.labels_digest = xxhash.xxh3_64_hexdigest(labels.tobytes())
        self._block_draws = int(self.quota.sum())
        self._tables = self._make_tables(labels)
        self._even = self.quota.max() == 1

    def _make_tables(self, labels: Ints) -> Tables:
        ranges = Ranges.of(np.maximum(self.class_clips, 1))
        block = Ranges.of([self._block_draws])
        return Tables(
            position=np.arange(self._block_draws),
            label_of_slot=np.repeat(np.arange(len(self.quota)), self.quota),
            quota=self.quota,
            clips=self.class_clips,
            by_class=np.argsort(labels, kind="stable"),
            first_clip=np.cumsum(self.class_clips) - self.class_clips,
            **{f"pass_{name}": array for name, array in vars(ranges).items()},
            **{f"block_{name}": array for name, array in vars(block).items()},
        )

    def draws(self, t: Any) -> Draws:
        """Return the draws `t` `(B,)`, whatever came before: O(1) each, or O(block) for a block that is touched."""
        tables = self._tables.beside(t)
        block, position = t // self._block_draws, t % self._block_draws
        label, k = self._labels(tables, block, position)
        pass_number, place = k // tables.clips[label], k % tables.clips[label]
        ranges = Ranges(tables.pass_size, tables.pass_low, tables.pass_high).at(label)
        counter = pass_number * len(self.quota) + label
        place = permute(place, ranges, keyed.fold(self.seed, _PASS), counter)
        return Draws(t, tables.by_class[tables.first_clip[label] + place], filled(t, 1.0))

    def _labels(self, tables: Any, block: Any, position: Any) -> tuple[Any, Any]:
        """Return the class of each draw, and which draw of this class it is, counted from the first ever."""
        if self._even:
            label = tables.label_of_slot[self._slot(tables, block, position)]
            return label, block
        # Draws of a class are counted as they appear, so that a pass ends before the next begins.
        touched, row = distinct(block)
        grid = touched[:, None] + 0 * tables.position, tables.position + 0 * touched[:, None]
        labels = tables.label_of_slot[self._slot(tables, *(part.reshape(-1) for part in grid))].reshape(grid[0].shape)
        label = labels[row, position]
        return label, block * tables.quota[label] + appearance_ranks(labels)[row, position]

    def _slot(self, tables: Any, block: Any, position: Any) -> Any:
        ranges = Ranges(tables.block_size, tables.block_low, tables.block_high).at(0 * block)
        return permute(position, ranges, keyed.fold(self.seed, _SLOT), block)

    def partners(self, t: Any) -> Any:
        """Return the clips `(B,)` that the draws `t` are mixed with: classes by their shares, clips at random."""
        tables = self._tables.beside(t)
        slot = keyed.below(keyed.fold(self.seed, _PARTNER, 0), t, self._block_draws)
        label = tables.label_of_slot[slot]
        place = keyed.below(keyed.fold(self.seed, _PARTNER, 1), t, tables.clips[label])
        return tables.by_class[tables.first_clip[label] + place]

    def real_rows(self, step: int) -> int:  # noqa: ARG002 - every step is full
        """Return the global batch: this sequence has no end."""
        return self.global_batch

    def settings(self) -> dict[str, Any]:
        """Return all that the draws depend on, besides the data."""
        return {
            "kind": "class_balanced",
            "order_version": ORDER_VERSION,
            "seed": self.seed,
            "balance": self.balance,
            "weights": self.weights.tolist(),
            "max_share": self.max_share.tolist(),
            "quota": self.quota.tolist(),
            "global_batch": self.global_batch,
        }


class ExactlyOnceSampler:
    """Every clip exactly once an epoch; the last global batch is filled with rows of weight 0, never with clips."""

    def __init__(
        self, clips: int, *, seed: int, global_batch: int, shuffle: bool = True, order: Ints | None = None
    ) -> None:
        """`order` `(clips,)`: in which order to take them where they are not shuffled, by default by number."""
        if clips == 0:
            raise UsageError("there is no clip to draw: this split is empty")
        self.clips, self.seed, self.global_batch, self.shuffle = clips, seed, global_batch, shuffle
        self.steps_per_epoch = -(-clips // global_batch)
        whole = {f"epoch_{name}": array for name, array in vars(Ranges.of([clips])).items()}
        self._tables = Tables(**whole, **({} if order is None else {"order": order}))

    def draws(self, t: Any) -> Draws:
        """Return the draws `t` `(B,)`; padding rows have weight 0.

        Shuffled, they name the first clips of the epoch, so that batch norm, which knows no weights, sees a natural
        mixture; in order they name its last clip, which has been read already.
        """
        padded = self.steps_per_epoch * self.global_batch
        epoch, position = t // padded, t % padded
        real = position < self.clips
        clip = position % self.clips if self.shuffle else position * real + (self.clips - 1) * ~real
        tables = self._tables.beside(t)
        if self.shuffle:
            ranges = Ranges(tables.epoch_size, tables.epoch_low, tables.epoch_high).at(0 * t)
            clip = permute(clip, ranges, keyed.fold(self.seed, _EPOCH), epoch)
        elif hasattr(tables, "order"):
            clip = tables.order[clip]
        return Draws(t, clip, as_weights(real))

    def partners(self, t: Any) -> Any:
        """Return the clips `(B,)` that the draws `t` are mixed with: any clip, equally likely."""
        return keyed.below(keyed.fold(self.seed, _PARTNER), t, self.clips)

    def real_rows(self, step: int) -> int:
        """Return the number of real rows of a step: fewer than the global batch only at the end of an epoch."""
        first = step % self.steps_per_epoch * self.global_batch
        return min(self.global_batch, self.clips - first)

    def settings(self) -> dict[str, Any]:
        """Return all that the draws depend on, besides the data."""
        return {
            "kind": "exactly_once",
            "order_version": ORDER_VERSION,
            "seed": self.seed,
            "clips": self.clips,
            "shuffle": self.shuffle,
            "global_batch": self.global_batch,
        }


def build_sampler(
    labels: Ints,
    *,
    seed: int,
    balance: float,
    global_batch: int,
    weights: Sequence[float] | None = None,
    max_share: Sequence[float] | None = None,
) -> Sampler:
    """Return the sampler of a training run: `balance` 0, without shares of its own, is plain exactly-once epochs."""
    if is_natural(balance, weights, max_share):
        return ExactlyOnceSampler(len(labels), seed=seed, global_batch=global_batch)
    return ClassBalancedDistributedSampler(
        labels, seed=seed, balance=balance, global_batch=global_batch, weights=weights, max_share=max_share
    )


def is_natural(balance: float, weights: Sequence[float] | None, max_share: Sequence[float] | None) -> bool:
    """Return whether words are to be drawn just as they occur."""
    return balance == 0 and all(share is None or min(share) == max(share) == 1 for share in (weights, max_share))


def _per_class(values: Sequence[float] | None, classes: int) -> NDArray[np.float64]:
    return np.ones(classes) if values is None else np.asarray(values, np.float64)


def checked_labels(labels: Any) -> Ints:
    """Return labels as int64 `(N,)`; raises `UsageError` if they are not classes numbered from 0."""
    array = np.asarray(labels)
    if array.ndim != 1 or (len(array) and not np.issubdtype(array.dtype, np.integer)) or array.min(initial=0) < 0:
        raise UsageError(f"labels should be whole numbers from 0, one for each clip, not {array.dtype} {array.shape}")
    return array.astype(np.int64)
