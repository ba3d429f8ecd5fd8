"""What a rank needs before its first batch, as data and ranks grow; what `tools/bench.py scaling` runs.

Index and random-access draws are measured on two sizes and extrapolated by the clip; lanes are run as they are, also
for 10^10 clips, because they look only at the windows that a rank needs.
"""

import hashlib
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from kws_dist.corpus.clip import SAMPLE_RATE_HZ
from kws_dist.data.balanced_lanes import BalancedLanes
from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.lanes import Lanes, LaneSampler
from kws_dist.data.once_lanes import OnceLanes
from kws_dist.data.sampler import ClassBalancedDistributedSampler
from kws_dist.shards.codec import WAV_HEADER_BYTES
from kws_dist.shards.index import ROW, ShardIndex, index_path, pack_index
from kws_dist.shards.meta import FORMAT_VERSION, META_NAME, DatasetMeta, ShardEntry, contents
from kws_dist.shards.read import open_dataset
from kws_dist.shards.record import BLOCK_BYTES

CLIPS = (10**5, 10**8, 10**10)
RANKS = (8, 512, 8192)
SHARD_CLIPS = 3000
WORDS = 35
_ROWS_PER_RANK = 32
_RECORD_BYTES = 69 * BLOCK_BYTES  # a second of 16 kHz WAV, its JSON and their headers


def bench_scaling() -> dict[str, Any]:
    """Return bytes and seconds per clip of the whole index and the draws, and those of a rank's start with lanes."""
    per_clip = {"index": _index_per_clip(), "draws": _draws_per_clip()}
    return {
        "shard_clips": SHARD_CLIPS,
        "per_clip": per_clip,
        "whole": [
            {
                "clips": clips,
                **{f"{part}_{what}": clips * value for part, of in per_clip.items() for what, value in of.items()},
            }
            for clips in CLIPS
        ],
        "lanes": [_lane_start(clips, ranks) for clips in CLIPS for ranks in RANKS if ranks * 4 <= clips],
        "seek": _seek(),
    }


def show(result: dict[str, Any]) -> None:
    """Print the figures as tables."""
    whole = Table("clips", "index, GB", "index, s", "draws, GB", "draws, s", title="everything in every process")
    for row in result["whole"]:
        figures = (row["index_bytes"] / 1e9, row["index_s"], row["draws_bytes"] / 1e9, row["draws_s"])
        whole.add_row(f"{row['clips']:.0e}", *(f"{figure:,.3g}" for figure in figures))
    lanes = Table(
        "clips",
        "ranks",
        "lanes",
        "windows of a rank",
        "their shards, GB",
        "memory, MB",
        "first batch, s",
        title="lanes",
    )
    for row in result["lanes"]:
        numbers = (row["rank_windows"], row["window_bytes"] / 1e9, row["bytes"] / 1e6, row["first_batch_s"])
        lanes.add_row(
            f"{row['clips']:.0e}", str(row["ranks"]), str(row["lanes"]), *(f"{number:,.3g}" for number in numbers)
        )
    Console().print(whole, lanes)


def _index_per_clip() -> dict[str, float]:
    """Open made-up datasets of two sizes, without any audio, and return what one more clip costs."""
    small, large = 10, 30
    with tempfile.TemporaryDirectory() as folder:
        figures = []
        for shards in (small, large):
            root = Path(folder) / str(shards)
            _write_indexes(root, shards)
            file_bytes = sum(path.stat().st_size for path in root.iterdir())
            figures.append((file_bytes, *_cost(lambda root=root: open_dataset(root, check_sizes=False).rows("train"))))
    step = (np.subtract(*figures[::-1]) / ((large - small) * SHARD_CLIPS)).tolist()
    return dict(zip(("file_bytes", "bytes", "s"), step, strict=True))


def _write_indexes(root: Path, shards: int) -> None:
    root.mkdir()
    words = [f"word{number:02d}" for number in range(WORDS)]
    made, entries = [], []
    for shard in range(shards):
        rows = np.zeros(SHARD_CLIPS, ROW)
        place = np.arange(SHARD_CLIPS)
        rows["record_offset"], rows["record_bytes"] = place * _RECORD_BYTES, _RECORD_BYTES
        rows["audio_offset"] = rows["record_offset"] + BLOCK_BYTES
        rows["n_samples"], rows["audio_bytes"] = SAMPLE_RATE_HZ, 2 * SAMPLE_RATE_HZ + WAV_HEADER_BYTES
        rows["label"], rows["speaker"] = place % WORDS, place
        keys = tuple(f"{words[row % WORDS]}/{shard:08x}_nohash_{row}" for row in range(SHARD_CLIPS))
        index = ShardIndex(rows, keys, tuple(f"{shard:04x}{row:04x}" for row in range(SHARD_CLIPS)), "0" * 32)
        name, data = f"train-{shard:06d}.tar", pack_index(index)
        index_path(root / name).write_bytes(data)
        made.append(("train", index))
        sha256 = hashlib.sha256(data).hexdigest()
        entries.append(
            ShardEntry(
                name=name, split="train", clips=SHARD_CLIPS, bytes=index.shard_bytes, sha256="", index_sha256=sha256
            )
        )
    meta = DatasetMeta(
        format_version=FORMAT_VERSION, task="made up", words=words, sample_rate_hz=SAMPLE_RATE_HZ, codec="wav",
        shards=entries, rejected=0, rejected_sha256="", source={}, command=[], seed=0, plan="0" * 32,
        **contents(made, words),
    )  # fmt: skip
    (root / META_NAME).write_bytes(meta.to_json())


def _draws_per_clip() -> dict[str, float]:
    """Return what one more clip costs a sampler in random access."""
    figures = []
    for clips in (10**5, 10**6):
        labels = np.arange(clips) % WORDS
        figures.append(_cost(lambda labels=labels: ClassBalancedDistributedSampler(labels, global_batch=1120)))
    step = (np.subtract(*figures[::-1]) / (10**6 - 10**5)).tolist()
    return dict(zip(("bytes", "s"), step, strict=True))


def _lane_start(clips: int, ranks: int) -> dict[str, Any]:
    """Let one rank, somewhere in a long run, make its first batch, and say what that took."""
    batch = BatchSlice(global_batch=_ROWS_PER_RANK * ranks, rank=ranks // 3, world=ranks)
    shards = -(-clips // SHARD_CLIPS)
    lanes = Lanes.plan(clips=clips, shards=shards, global_batch=batch.global_batch, lanes=max(64, ranks))
    t = batch.step_numbers(10**6)

    def start() -> tuple[LaneSampler, list[range]]:
        # Fewer clips in a group than there are words: then every clip once.
        balanced = clips > lanes.groups * WORDS
        quota = np.ones(WORDS, np.int64)
        sampler = BalancedLanes(lanes, _labels, seed=0, quota=quota) if balanced else OnceLanes(lanes, seed=0)
        sampler.draws(t)
        now, soon = sampler.windows(t)
        return sampler, now + soon

    held_bytes, first_batch_s = _cost(start)
    windows = start()[1]
    touched = {shard for window in windows for shard in (window.start // SHARD_CLIPS, (window.stop - 1) // SHARD_CLIPS)}
    return {
        "clips": clips,
        "ranks": ranks,
        "lanes": lanes.lanes,
        "rank_windows": len(windows),
        "window_bytes": len(touched) * SHARD_CLIPS * _RECORD_BYTES,
        "bytes": held_bytes,
        "first_batch_s": first_batch_s,
    }


def _labels(places: range) -> NDArray[np.int64]:
    """Labels of data that are nowhere: dealt evenly, as shards are."""
    return np.arange(places.start, places.stop) % WORDS


def _seek() -> dict[str, float]:
    """Return seconds of the draws of one batch near the beginning of a run and 10^12 draws later."""
    sampler = ClassBalancedDistributedSampler(np.arange(10**6) % WORDS, global_batch=1120, balance=0.5)
    return {
        str(start): _cost(lambda start=start: sampler.draws(np.arange(start, start + 1120)))[1] for start in (0, 10**12)
    }


def _cost(make: Callable[[], Any]) -> tuple[int, float]:
    """Return the bytes that what `make` returns holds, and the least seconds of three calls."""
    seconds = []
    for _ in range(3):
        started_s = time.perf_counter()
        make()
        seconds.append(time.perf_counter() - started_s)
    tracemalloc.start()
    try:
        kept = make()
        held_bytes, _ = tracemalloc.get_traced_memory()
        del kept
    finally:
        tracemalloc.stop()
    return held_bytes, min(seconds)
