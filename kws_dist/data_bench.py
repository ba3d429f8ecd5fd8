"""How fast raw clips come out of shards, in whichever way they are read; what `tools/bench.py data` runs."""

import importlib.util
import io
import os
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data import Dataset as TorchDataset

from kws_dist.data.clip_reader import ClipPolicy, Ints
from kws_dist.data.sampler import ClassBalancedDistributedSampler
from kws_dist.data.store import Residency, open_store
from kws_dist.shards.codec import Codec, decode
from kws_dist.shards.read import Rows, open_dataset

_DRAWN_AT_ONCE = 4096  # as the device workers do
_SHUFFLE_CLIPS = 1000  # webdataset's shuffle buffer, as in its guides
_NO_WEBDATASET = "webdataset is not installed, so it is left out: pip install webdataset"

Way = Callable[[], Iterator[Tensor]]
"""Starts to read: yields batches of samples, int16 `(about batch, clip_samples)`, without end."""


def bench_data(root: Path, *, rounds: int, batch: int, clips: int) -> dict[str, Any]:
    """Read `clips` clips of the training split in every way, in turns, `rounds` times; rates are medians.

    Everything is on the CPU and the files have been read before, so what is compared is the way from the memory that
    holds the files to a batch. `device` and `host` include the draws of a class-balanced sampler, `memcpy` is one
    large tensor copied to another by torch's threads.
    """
    dataset = open_dataset(root)
    rows, policy = dataset.rows("train"), ClipPolicy(clip_samples=dataset.sample_rate_hz, long="start")
    ways = ways_to_read(rows, policy, batch)
    for way in ways.values():
        _clips_per_s(way, len(rows))  # from now on all files are in memory, and all clips have been checked
    turns = [{name: _clips_per_s(way, clips) for name, way in ways.items()} for _ in range(rounds)]
    speed = {name: statistics.median(turn[name] for turn in turns) for name in ways}
    return {
        "root": str(root),
        "codec": rows.codec,
        "row_bytes": policy.row_bytes,
        "clips": clips,
        "batch": batch,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "cores": _cores(),
        "clips_per_s": speed,
        "to_memcpy": _ratios(turns, "memcpy"),
        "to_webdataset": _ratios(turns, _best(speed, "webdataset")),
        "to_map_style": _ratios(turns, _best(speed, "map-style")),
    }


def show(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    size = f"{result['clips']:,} clips of {result['row_bytes']:,} bytes"
    table = Table(title=f"{size}, batch {result['batch']}, {result['cores']} cores")
    table.add_column("", no_wrap=True)
    for column in ("clips/s", "of memcpy", "of webdataset", "of map-style"):
        table.add_column(column, justify="right")
    for name, speed in result["clips_per_s"].items():
        ratios = [result[to].get(name) for to in ("to_memcpy", "to_webdataset", "to_map_style")]
        table.add_row(name, f"{speed:,.0f}", *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios))
    console = Console()
    console.print(table)
    if not result["to_webdataset"]:
        console.print(_NO_WEBDATASET)


def ways_to_read(rows: Rows, policy: ClipPolicy, batch: int) -> dict[str, Way]:
    """Return this project's ways to read the clips, a copy of memory to compare with, and those of others."""
    return _our_ways(rows, policy, batch) | _map_style_ways(rows, policy, batch) | _webdataset_ways(rows, policy, batch)


def _clips_per_s(way: Way, clips: int) -> float:
    batches, read = way(), 0
    next(batches)  # worker processes have started
    started_s = time.perf_counter()
    while read < clips:
        read += len(next(batches))
    return read / (time.perf_counter() - started_s)


def _ratios(turns: list[dict[str, float]], to: str | None) -> dict[str, float]:
    """Return the rate of every way divided by that of one, which ran beside it; the median of the turns."""
    if to is None:
        return {}
    return {name: statistics.median(turn[name] / turn[to] for turn in turns) for name in turns[0]}


def _best(speed: dict[str, float], kind: str) -> str | None:
    return max((name for name in speed if name.startswith(kind)), key=speed.__getitem__, default=None)


def _our_ways(rows: Rows, policy: ClipPolicy, batch: int) -> dict[str, Way]:
    """Read in true global random order: any clip may come next to any other."""
    residencies: tuple[Residency, ...] = ("device", "host")
    stores = {
        residency: open_store(rows, policy, residency=residency, device=torch.device("cpu"))
        for residency in residencies
    }
    drawn = list(islice(_drawn(rows, batch), 256))
    some = stores["device"].gather(np.arange(min(len(rows), 8192)))
    ways: dict[str, Way] = {"memcpy": lambda: _memcpy(some)}
    for name, store in stores.items():
        ways[name] = lambda store=store: map(store.gather, _drawn(rows, batch))
        ways[f"{name}, gather alone"] = lambda store=store: map(store.gather, cycle(drawn))
    return ways


def _memcpy(pcm: Tensor) -> Iterator[Tensor]:
    copy = torch.empty_like(pcm)
    while True:
        yield copy.copy_(pcm)


def _drawn(rows: Rows, batch: int) -> Iterator[Ints]:
    """Yield the clip numbers of batches, without end."""
    sampler = ClassBalancedDistributedSampler(rows.label, seed=0, global_batch=batch)
    batches_at_once = max(_DRAWN_AT_ONCE // batch, 1)
    for first in count(0, batches_at_once * batch):
        draws = sampler.draws(np.arange(first, first + batches_at_once * batch))
        yield from draws.clip.reshape(batches_at_once, batch)


def _row(audio: bytes, codec: Codec, clip_samples: int) -> Tensor:
    """Decode an audio file and pad it, as a user's own `Dataset` would."""
    samples = torch.zeros(clip_samples, dtype=torch.int16)
    decoded = torch.tensor(decode(audio, codec)[:clip_samples])
    samples[: len(decoded)] = decoded
    return samples


class _ClipFiles(TorchDataset[Tensor]):
    """A map-style dataset: one clip at a time, read from its place in its shard."""

    def __init__(self, rows: Rows, clip_samples: int) -> None:
        self._rows, self._clip_samples = rows, clip_samples
        self._files: dict[int, io.FileIO] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, clip: int) -> Tensor:
        shard = int(self._rows.shard[clip])
        if shard not in self._files:
            self._files[shard] = self._rows.shard_paths[shard].open("rb", buffering=0)
        size, offset = int(self._rows.audio_bytes[clip]), int(self._rows.audio_offset[clip])
        audio = os.pread(self._files[shard].fileno(), size, offset)
        return _row(audio, self._rows.codec, self._clip_samples)


def _map_style_ways(rows: Rows, policy: ClipPolicy, batch: int) -> dict[str, Way]:
    def read(workers: int) -> Iterator[Tensor]:
        clips = _ClipFiles(rows, policy.clip_samples)
        order = RandomSampler(clips, replacement=True, num_samples=1 << 40)
        return iter(DataLoader(clips, batch, sampler=order, num_workers=workers))

    return {f"map-style, {workers} workers": lambda workers=workers: read(workers) for workers in (0, _cores())}


def _webdataset_ways(rows: Rows, policy: ClipPolicy, batch: int) -> dict[str, Way]:
    if importlib.util.find_spec("webdataset") is None:
        return {}
    from webdataset.compat import WebDataset

    paths = [str(path) for path in rows.shard_paths]

    def read(workers: int) -> Iterator[Tensor]:
        stream: Any = WebDataset(paths, shardshuffle=len(paths))  # its types do not say what its stages return
        audio = stream.repeat().shuffle(_SHUFFLE_CLIPS).to_tuple(rows.codec)
        batches = audio.map_tuple(lambda file: _row(file, rows.codec, policy.clip_samples)).batched(batch)
        return (pcm for (pcm,) in DataLoader(batches, batch_size=None, num_workers=workers))

    most = min(_cores(), len(paths))  # a worker without a shard would be an error
    return {f"webdataset, {workers} workers": lambda workers=workers: read(workers) for workers in (0, most)}


def _cores() -> int:
    return len(os.sched_getaffinity(0))
