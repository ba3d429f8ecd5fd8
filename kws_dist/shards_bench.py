"""How fast recordings become shards, and how fast shards are verified; what `tools/bench.py shards` runs."""

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from kws_dist.corpus.clip import SAMPLE_RATE_HZ
from kws_dist.corpus.folder import open_folder
from kws_dist.shards.codec import encode
from kws_dist.shards.plan import make_plan
from kws_dist.shards.verify import verify
from kws_dist.shards.write import write_dataset

_WORDS, _SPEAKERS = 20, 500


def bench_shards(folder: Path, *, clips: int, rounds: int) -> dict[str, Any]:
    """Time listing and writing a folder of 1-second WAVs by one process and by one for each core, and verifying.

    The files have just been written, so they are read from memory and not from the disk.
    """
    root, cores = folder / "wavs", len(os.sched_getaffinity(0))
    with _timed() as making:
        _make_wavs(root, clips)
    runs: list[dict[str, float]] = []
    for turn in range(rounds):
        seconds = {f"list and write, {n} processes": _written_s(root, folder / f"{turn}-{n}", n) for n in {1, cores}}
        with _timed() as verifying:
            verified = verify(folder / f"{turn}-{cores}", workers=cores)
        assert not verified.faults, verified.faults
        seconds[f"verify, {cores} threads"] = verifying()
        for n in {1, cores}:
            shutil.rmtree(folder / f"{turn}-{n}")
        runs.append(seconds)
    speed = {name: clips / statistics.median(run[name] for run in runs) for name in runs[0]}
    return {"clips": clips, "cores": cores, "rounds": rounds, "wavs_made_s": making(), "clips_per_s": speed}


def show(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    table = Table("", "clips/s", title=f"{result['clips']:,} clips on {result['cores']} cores")
    for name, speed in result["clips_per_s"].items():
        table.add_row(name, f"{speed:,.0f}")
    Console().print(table)


def _make_wavs(root: Path, clips: int) -> None:
    """Write noise, each file a little different, under so many words and speakers."""
    samples = np.random.default_rng(0).integers(-3000, 3000, SAMPLE_RATE_HZ).astype(np.int16)
    for number in range(clips):
        word, speaker = number % _WORDS, number // _WORDS % _SPEAKERS
        path = root / f"word{word:02d}" / f"speaker{speaker:03d}_{number:06d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples[:2] = number & 0x7FFF, number >> 15
        path.write_bytes(encode(samples, "wav"))


def _written_s(root: Path, out: Path, workers: int) -> float:
    with _timed() as writing:
        source = open_folder(root, speaker_from="^(speaker[0-9]+)_")
        plan = make_plan(source, shard_clips=1000, seed=0)
        write_dataset(source, plan, out, task="bench", command=["bench"], workers=workers)
    return writing()


@contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    started_s, ended_s = time.perf_counter(), list[float]()
    yield lambda: ended_s[0] - started_s
    ended_s.append(time.perf_counter())
