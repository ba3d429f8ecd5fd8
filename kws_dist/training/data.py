"""From settings to clips: the dataset, wherever it lies, and the store of each split."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kws_dist.config import DataConfig
from kws_dist.corpus.clip import NOISE_SPLIT
from kws_dist.data.clip_reader import ClipPolicy
from kws_dist.data.received import Patience
from kws_dist.data.remote_dataset import open_remote
from kws_dist.data.shard_cache import ShardCache
from kws_dist.data.share import ALONE, Share
from kws_dist.data.store import Store, free_bytes, open_store, read_noise
from kws_dist.data.stream_store import StreamStore
from kws_dist.errors import DataError, UsageError
from kws_dist.shards.read import Dataset, Rows, open_dataset

T = TypeVar("T")

_CACHE_FOLDER = "~/.cache/kws_dist"
_HELD_OUT_SHARE = 0.1  # of the cache, for each split that is only evaluated on
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True)
class Data:
    """A dataset opened for training or evaluation."""

    dataset: Dataset
    stores: dict[str, Store]
    """By split."""
    noise: list[torch.Tensor]
    """Noise recordings, int16 `(samples,)` each, for training only."""
    skipped_noise: list[str]
    """Damaged noise recordings that were left out."""
    cache: ShardCache | None = None
    """Where shards are that came from a URL."""

    @property
    def skipped_keys(self) -> list[str]:
        """Damaged clips and noise recordings that were left out."""
        return [key for store in self.stores.values() for key in store.skipped_keys] + self.skipped_noise

    @property
    def streams(self) -> bool:
        """Whether shards are fetched while they are used."""
        return any(isinstance(store, StreamStore) for store in self.stores.values())

    def close(self) -> None:
        """Stop fetching, and let others have the shards in the cache."""
        for store in self.stores.values():
            if isinstance(store, StreamStore):
                store.close()
        if self.cache:
            self.cache.close()


@dataclass(frozen=True)
class Ranks:
    """What opening data needs to know of the other ranks."""

    share: Share = ALONE
    per_machine: int = 1
    """Ranks that use the disk of this machine."""
    gather: Callable[[Any], list[Any]] = lambda own: [own]
    """Return what the ranks call it with, small things, in the order of the ranks."""

    def agreed(self, do: Callable[[], T]) -> T:
        """Call `do`, which exchanges nothing; where it fails on any rank, raise that error on all of them.

        So no rank waits for another that has given up.
        """
        result, error = None, None
        try:
            result = do()
        except (UsageError, DataError) as own:
            error = own
        failed = next((other for other in self.gather(error) if other), None)
        if failed:
            raise failed
        return result  # pyright: ignore[reportReturnType] - there is one if there is no error


def open_data(
    config: DataConfig,
    device: torch.device,
    splits: tuple[str, ...],
    *,
    words: tuple[str, ...] = (),
    ranks: Ranks | None = None,
    warn: Callable[[str], None] = print,
) -> Data:
    """Open the shards and load the clips of the splits that exist, or get ready to fetch them.

    `words`: the vocabulary of a model, whose numbering the labels are to follow; by default the dataset's own.
    """
    _check(config)
    ranks = ranks or Ranks()
    dataset, cache = ranks.agreed(lambda: _open_dataset(config, ranks, warn))
    if len({*ranks.gather(dataset.digest)}) > 1:
        raise DataError(f"{config.shards}: not the same data on all machines; bring them up to date and try again")
    streams = cache is not None and _streams(config, dataset, splits)
    if cache and not streams:
        ranks.agreed(lambda: cache.hold(_shard_names(dataset, splits)))
    policy = ClipPolicy(
        clip_samples=round(config.clip_seconds * dataset.sample_rate_hz),
        pad=config.pad,
        long=config.long,
        on_bad_clip=config.on_bad_clip,
    )
    stores: dict[str, Store] = {}
    for split in splits:
        if split in dataset.splits:
            rows = dataset.rows(split)
            rows = replace(rows, label=match_labels(rows.label, dataset.words, words or dataset.words))
            if cache and streams and not ranks.agreed(lambda: _held(cache, dataset, split, config)):  # noqa: B023
                stores[split] = StreamStore(rows, policy, device, cache, threads=config.fetch_threads)
            else:
                stores[split] = _load(rows, policy, config, device, ranks)
    noise, skipped_noise = ([], [])
    if "train" in stores:
        noise, skipped_noise = ranks.agreed(lambda: _read_noise(config, dataset, cache))
    return Data(dataset, stores, noise, skipped_noise, cache)


def _open_dataset(config: DataConfig, ranks: Ranks, warn: Callable[[str], None]) -> tuple[Dataset, ShardCache | None]:
    """Open a folder as it is, and what lies at a URL or is to be streamed through a cache."""
    if not config.shards:
        raise UsageError("--data.shards is missing: name a folder that tools/make_shards.py made")
    if config.residency != "stream" and not _is_url(config.shards):
        return open_dataset(Path(config.shards), check_sizes=config.on_bad_clip != "skip"), None
    return open_remote(
        config.shards,
        Path(config.cache_dir or _CACHE_FOLDER).expanduser(),
        limit_bytes=round(config.cache_gb * 1e9),
        sharers=ranks.per_machine,
        patience=Patience(attempts=config.fetch_attempts),
        on_warning=warn,
    )


def _check(config: DataConfig) -> None:
    for name in ("clip_seconds", "cache_gb", "device_memory_share", "fetch_threads", "fetch_attempts"):
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"--data.{name} {value} should be a finite number above 0")


def _read_noise(config: DataConfig, dataset: Dataset, cache: ShardCache | None) -> tuple[list[torch.Tensor], list[str]]:
    if cache:
        cache.hold(_shard_names(dataset, (NOISE_SPLIT,)))
    return read_noise(dataset.rows(NOISE_SPLIT), config.on_bad_clip)


def _is_url(shards: str) -> bool:
    return bool(_SCHEME.match(shards)) and not Path(shards).exists()


def _streams(config: DataConfig, dataset: Dataset, splits: tuple[str, ...]) -> bool:
    """Whether shards are fetched while they are used: where that is asked for, or the cache cannot hold them all."""
    needed_bytes = _size_bytes(dataset, _shard_names(dataset, (*splits, NOISE_SPLIT)))
    return config.residency == "stream" or (config.residency == "auto" and needed_bytes > config.cache_gb * 0.9e9)


def _held(cache: ShardCache, dataset: Dataset, split: str, config: DataConfig) -> bool:
    """Fetch the shards of a held-out split whole, and keep them, if they are small beside the cache."""
    names = _shard_names(dataset, (split,))
    if split == "train" or _size_bytes(dataset, names) > config.cache_gb * 1e9 * _HELD_OUT_SHARE:
        return False
    cache.hold(names)
    return True


def _size_bytes(dataset: Dataset, names: list[str]) -> int:
    wanted = set(names)
    return sum(entry["bytes"] for entry in dataset.meta["shards"] if entry["name"] in wanted)


def _shard_names(dataset: Dataset, splits: tuple[str, ...]) -> list[str]:
    return [entry["name"] for entry in dataset.meta["shards"] if entry["split"] in splits]


def _load(rows: Rows, policy: ClipPolicy, config: DataConfig, device: torch.device, ranks: Ranks) -> Store:
    return open_store(
        rows,
        policy,
        residency="auto" if config.residency == "stream" else config.residency,
        device=device,
        # Clips that are left out have to be agreed on, wherever they live.
        share=ranks.share if config.device_share or config.on_bad_clip == "skip" else ALONE,
        device_memory_share=config.device_memory_share,
        memory_bytes=min(ranks.gather(free_bytes(device) // (ranks.per_machine if device.type == "cpu" else 1))),
    )


def match_labels(labels: NDArray[np.int64], words: tuple[str, ...], model_words: tuple[str, ...]) -> NDArray[np.int64]:
    """Translate labels that number `words` into those that number `model_words`: by word, never by number."""
    spoken = [words[label] for label in np.unique(labels)]
    unknown = [word for word in spoken if word not in model_words]
    if unknown:
        raise UsageError(
            f"the data hold {len(unknown)} words that the model does not know: {', '.join(unknown)};"
            f" it knows {', '.join(model_words)}"
        )
    number = [model_words.index(word) if word in model_words else -1 for word in words]
    return np.array(number, np.int64)[labels]
