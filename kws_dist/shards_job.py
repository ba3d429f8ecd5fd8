"""From a source of recordings to a finished folder of shards: what `tools/make_shards.py` runs, and what it shows."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from kws_dist import shards_display as show
from kws_dist.corpus.clip import Source
from kws_dist.corpus.download import OFFICIAL, default_cache, fetch
from kws_dist.corpus.tasks import TASKS
from kws_dist.errors import UsageError
from kws_dist.shards.codec import Codec
from kws_dist.shards.plan import Plan, make_plan
from kws_dist.shards.write import merge_dataset, write_dataset, write_part

CONSOLE = Console(markup=False, highlight=False)


@dataclass(frozen=True, kw_only=True)
class Output:
    """What every source has in common."""

    out: Path
    """Folder for the shards and dataset.json. The same command continues an unfinished folder."""
    codec: Codec = "wav"
    """How the audio is stored; flac takes about half the room and more time."""
    shard_clips: int = 2000
    """Most clips in one shard."""
    workers: int = 0
    """Processes that write shards; 0 is one for each processor core."""
    task_index: int | None = None
    """Which part this job makes, counted from 0, when several jobs share the work; `merge` then finishes it."""
    task_count: int = 1
    """How many jobs share the work."""
    seed: int = 0
    """Decides how clips are dealt over shards; for synthesised speech also the voices. No split depends on it else."""
    dry_run: bool = False
    """List the recordings, show what would be written, write nothing."""
    debug: bool = False
    """Show the traceback of an error."""


def listing() -> AbstractContextManager[Any]:
    """Say, on a terminal, that recordings are being listed."""
    return CONSOLE.status("listing the recordings")


def make(build: Callable[[], Source], kind: str, output: Output) -> None:
    """List the recordings of a source and write them, or this job's part of them; shows how it goes."""
    part = _part(output)
    started_s = time.perf_counter()
    source = build()
    show.print_listing(CONSOLE, source)
    plan = make_plan(source, shard_clips=output.shard_clips, seed=output.seed, codec=output.codec)
    if output.dry_run:
        show.print_plan(CONSOLE, source)
        return
    about = {
        "task": kind if kind in TASKS else f"{kind} {len(source.words)} words",
        "command": ["python", *_without_part(sys.argv)],
        "workers": _workers(output.workers),
    }
    if part is not None:
        _write_part(source, plan, output.out, part, about)
        return
    with show.clips_bar(CONSOLE, total=len(source.clips)) as on_clips:
        written = write_dataset(source, plan, output.out, on_clips=on_clips, **about)
    show.print_summary(CONSOLE, written, output.out, seconds=time.perf_counter() - started_s)


def _write_part(source: Source, plan: Plan, out: Path, part: tuple[int, int], about: dict[str, Any]) -> None:
    index, count = part
    shards = plan.shards[index::count]
    with show.clips_bar(CONSOLE, total=sum(len(shard.clips) for shard in shards)) as on_clips:
        write_part(source, plan, out, part=part, on_clips=on_clips, **about)
    CONSOLE.print(
        f"part {index} of {count}: {len(shards)} of {len(plan.shards)} shards; when all parts are there:"
        f" python tools/make_shards.py merge --out {out}",
        soft_wrap=True,
    )


def _part(output: Output) -> tuple[int, int] | None:
    if output.task_index is None and output.task_count == 1:
        return None
    if output.task_index is None or not 0 <= output.task_index < output.task_count:
        raise UsageError(
            f"--task_index {output.task_index} --task_count {output.task_count}: the index of a part is 0 to"
            f" {output.task_count - 1}; pass both"
        )
    return output.task_index, output.task_count


def _without_part(arguments: Sequence[str]) -> list[str]:
    """Return a command line without what differs between the jobs that share the work."""
    kept, skip = list[str](), False
    for argument in arguments:
        name = argument.partition("=")[0].replace("-", "_")
        if name in ("__task_index", "__task_count"):
            skip = "=" not in argument
        elif skip:
            skip = False
        else:
            kept.append(argument)
    return kept


def _workers(asked: int) -> int:
    if asked < 0:
        raise UsageError(f"--workers {asked}: 0 for one for each core, or a number of processes")
    return asked or len(os.sched_getaffinity(0))


def merge_parts(out: Path, workers: int) -> None:
    """Put together what several jobs have written, and show it."""
    started_s = time.perf_counter()
    written = merge_dataset(out, workers=_workers(workers))
    show.print_summary(CONSOLE, written, out, seconds=time.perf_counter() - started_s)


def fetched(version: str, base_url: str, cache: Path | None, with_test: bool) -> tuple[Path, Path | None]:
    """Download the archive of a version, and the canonical test archive if wanted."""
    paths = []
    for kind in ("main", "test") if with_test else ("main",):
        official = OFFICIAL[version, kind]
        with show.download_bar(CONSOLE, official.name, official.size_bytes) as on_progress:
            paths.append(fetch(official, cache or default_cache(), base_url=base_url, on_progress=on_progress))
    return paths[0], paths[1] if with_test else None
