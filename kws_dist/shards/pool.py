"""Many shards at once, each by one of several processes, none of which outlives the one that started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kws_dist.corpus.clip import Source
from kws_dist.errors import DataError
from kws_dist.shards.plan import Plan, ShardPlan
from kws_dist.shards.shard_writer import write_shard

_POLL_S = 0.1

_job: Any = None  # what `_begin` was given in this worker process; a pool has no other place for it


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
    # Forked, so that they are there at once and share what they read; no thread may hold a lock here, so the caller
    # has none.
    context = multiprocessing.get_context("fork")
    done, stop = context.Value("Q", 0), context.Value("b", 0)
    job = (source, plan, shards, out, done, stop)
    pool = ProcessPoolExecutor(min(workers, len(shards)), context, initializer=_begin, initargs=job)
    try:
        _follow([pool.submit(_write, number) for number in range(len(shards))], done, on_clips)
    except BrokenProcessPool as error:
        raise DataError(
            f"{out}: a worker process was killed, perhaps for want of memory; the same command continues, with fewer"
            " --workers if need be"
        ) from error
    finally:
        stop.value = 1
        with _undisturbed():
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no second Ctrl-C end the wait for the workers, who stop after the clip in hand."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _follow(futures: list[Future[None]], done: Any, on_clips: Callable[[int], None]) -> None:
    told, left = 0, set(futures)
    while left:
        finished, left = wait(left, timeout=_POLL_S)
        now = done.value
        on_clips(now - told)
        told = now
        for future in finished:
            future.result()  # raises what the worker raised


def _begin(*job: Any) -> None:
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a worker"
    parent.join()
    os._exit(1)


class _Stopped(Exception):
    """The parent wants no more clips."""


def _write(number: int) -> None:
    source, plan, shards, out, done, stop = _job

    def on_clip() -> None:
        if stop.value:
            raise _Stopped
        with done.get_lock():
            done.value += 1

    write_shard(source, plan, shards[number], out, on_clip)
