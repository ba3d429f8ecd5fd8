"""Many shards at once, each by one of several processes, none of which outlives the one that started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from kws_dist.corpus.clip import Source
from kws_dist.errors import DataError
from kws_dist.shards.plan import Plan, ShardPlan
from kws_dist.shards.shard_writer import write_shard

_POLL_S = 0.1

_job: Any = None  # source, plan, folder and counter of this worker process; a pool gives its tasks no other place


def write_shards(
    source: Source,
    plan: Plan,
    shards: Sequence[ShardPlan],
    out: Path,
    *,
    workers: int,
    on_clips: Callable[[int], None],
) -> None:
    """Write shards of a staged source with so many processes; `on_clips` hears of clips that are done."""
    if workers == 1 or len(shards) <= 1:
        for shard in shards:
            write_shard(source, plan, shard, out, lambda: on_clips(1))
        return
    context = multiprocessing.get_context("spawn")  # a fork could copy a lock that a thread of this process holds
    done, jobs = context.Value("Q", 0), context.Queue()
    workers = min(workers, len(shards))
    # Not as an argument of the process: writing that would wait for ever for a process that dies before it reads.
    job = bytes(ForkingPickler.dumps((source, plan, out)))
    for _ in range(workers):
        jobs.put(job)
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(jobs, done))
    try:
        futures = [pool.submit(_write, shard.name) for shard in shards]
        _follow(futures, done, on_clips)
    except BrokenProcessPool as error:
        raise DataError(
            f"{out}: a worker process ended, perhaps for want of memory; the same command continues, with fewer"
            " --workers if need be"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        jobs.cancel_join_thread()


def _follow(futures: list[Future[None]], done: Any, on_clips: Callable[[int], None]) -> None:
    told, left = 0, set(futures)
    while left:
        finished, left = wait(left, timeout=_POLL_S)
        on_clips(done.value - told)
        told = done.value
        for future in finished:
            future.result()  # raises what the worker raised


def _begin(jobs: Any, done: Any) -> None:
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    source, plan, out = ForkingPickler.loads(jobs.get())  # pyright: ignore[reportAttributeAccessIssue]
    by_name = {shard.name: shard for shard in plan.shards}
    _job = source, plan, by_name, out, done


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a worker"
    parent.join()
    os._exit(1)


def _write(name: str) -> None:
    source, plan, by_name, out, done = _job

    def on_clip() -> None:
        with done.get_lock():
            done.value += 1

    write_shard(source, plan, by_name[name], out, on_clip)
