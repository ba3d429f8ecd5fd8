"""From settings to draws: which sampler a run has."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kws_dist.config import Config
from kws_dist.data.balanced_lanes import build_lanes
from kws_dist.data.clip_reader import disk_order
from kws_dist.data.lanes import Lanes
from kws_dist.data.once_lanes import OnceLanes
from kws_dist.data.quota import block_quota, class_shares
from kws_dist.data.sampler import Sampler, build_sampler, is_natural
from kws_dist.errors import UsageError
from kws_dist.shards.read import Rows

Ints = NDArray[np.int64]

_LARGEST_RESERVOIR_CLIPS = 100_000  # 3.2 GB of one-second clips


def training_sampler(config: Config, rows: Rows, words: Sequence[str], *, streams: bool) -> Sampler:
    """Return the sampler of a run on the training clips `rows`, whose labels number `words`.

    `streams`: shards are fetched while they are used, so that draws have to be of a few shards at a time.
    """
    data, seed, batch = config.data, config.seed, config.train.global_batch
    weights = _by_word(data.weights, words, "--data.weights")
    max_share = _by_word(data.max_share, words, "--data.max_share")
    _refuse_words_without_clips(rows.label, words, weights)
    if not streams:
        return build_sampler(
            rows.label, seed=seed, balance=data.balance, global_batch=batch, weights=weights, max_share=max_share
        )
    lanes = Lanes.plan(
        clips=len(rows),
        shards=len(rows.shard_paths),
        global_batch=batch,
        lanes=data.lanes,
        window_shards=data.window_shards,
    )
    order = disk_order(rows)
    if is_natural(data.balance, weights, max_share):
        return OnceLanes(lanes, seed=seed, clip_at=order)
    share = _shares(config, rows, words)
    # A window holds whole blocks: one that is longer than its group would go through the group several times.
    quota = block_quota(share, longest_draws=len(rows) // lanes.groups)
    sampler = build_lanes(lanes, rows.label, order, seed=seed, quota=quota)
    kept = len(sampler.reservoir_clips())
    if kept > _LARGEST_RESERVOIR_CLIPS:
        rare = ", ".join(words[label] for label in sampler.reservoir)
        raise UsageError(
            f"--data.window_shards {data.window_shards}: windows are so small that some lack {rare}, of which {kept:,}"
            " clips would have to be kept in memory: choose larger windows, or fewer --data.lanes"
        )
    return sampler


def class_weights(config: Config, rows: Rows, words: Sequence[str]) -> Tensor | None:
    """Return what losses are multiplied by for `--train.class_weights`, `(C,)` float32, or None for nothing.

    A word's weight is the inverse of its share of all draws, scaled so that the mean over all draws is 1.
    """
    if config.train.class_weights == "none":
        return None
    share = _shares(config, rows, words)
    drawn = share > 0
    weights = np.divide(1.0, share * drawn.sum(), out=np.zeros_like(share), where=drawn)
    return torch.from_numpy(weights).float()


def _shares(config: Config, rows: Rows, words: Sequence[str]) -> NDArray[np.float64]:
    """Return each word's share of all draws `(C,)`."""
    data = config.data
    return class_shares(
        np.bincount(rows.label, minlength=len(words)),
        balance=data.balance,
        weights=np.array(_by_word(data.weights, words, "--data.weights")),
        max_share=np.array(_by_word(data.max_share, words, "--data.max_share")),
    )


def _by_word(values: Mapping[str, float], words: Sequence[str], flag: str) -> list[float]:
    """Return the value of each word, 1 where none is given."""
    for word in values:
        if word not in words:
            near = get_close_matches(word, words, 1)
            hint = f"did you mean {near[0]}?" if near else f"the words are {', '.join(words)}"
            raise UsageError(f"{flag} {word}: the data have no such word; {hint}")
    return [values.get(word, 1.0) for word in words]


def _refuse_words_without_clips(labels: Ints, words: Sequence[str], weights: Sequence[float]) -> None:
    clips = np.bincount(labels, minlength=len(words))
    for word, count, weight in zip(words, clips, weights, strict=True):
        if count == 0 and weight > 0:
            raise UsageError(
                f"there is no training clip of {word!r}: make shards that have some, or pass --data.weights {word} 0"
            )
