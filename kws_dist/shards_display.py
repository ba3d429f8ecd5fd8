"""What a person sees while shards are made: progress, and in the end what is in them and what was left out."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from kws_dist.corpus.clip import NOISE_SPLIT, SPLITS, Rejected, Source
from kws_dist.shards.meta import REJECTED_NAME
from kws_dist.shards.write import Written

_REFRESH_S = 0.1
_HEARTBEAT_S = 10.0  # between lines of progress in a log file
_EXAMPLES = 5


@contextmanager
def clips_bar(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many clips are written; yields the function that hears of more of them."""
    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    done = 0
    with _progress(console, columns, total, lambda done: f"{done}/{total} clips") as at:

        def on_clips(more: int) -> None:
            nonlocal done
            done += more
            at(done, total)

        yield on_clips


@contextmanager
def download_bar(console: Console, name: str, size_bytes: int) -> Iterator[Callable[[int, int], None]]:
    """Show how far a download is; yields the function that hears of bytes done and bytes in all."""
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    started_s, first = time.perf_counter(), -1

    def line(done: int) -> str:
        rate = (done - first) / max(time.perf_counter() - started_s, 1e-9)
        left = f", {(size_bytes - done) / rate:.0f} s left" if rate > 0 else ""
        return f"{name}: {done / 1e6:,.1f} of {size_bytes / 1e6:,.1f} MB, {rate / 1e6:.1f} MB/s{left}"

    with _progress(console, columns, size_bytes, line, transient=True) as at:

        def on_progress(done: int, total: int) -> None:
            nonlocal first
            first = done if first < 0 else first
            at(done, total)

        yield on_progress
    console.print(f"{name}: {size_bytes / 1e6:,.1f} MB, its SHA-256 is the published one", soft_wrap=True)


@contextmanager
def _progress(
    console: Console,
    columns: Sequence[ProgressColumn],
    total: int,
    line: Callable[[int], str],
    *,
    transient: bool = False,
) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal, a line now and then in a log file; yields a function of what is done, and of all."""
    if console.is_terminal:
        # Without a thread of its own, which a worker process must not be forked beside.
        with Progress(*columns, console=console, auto_refresh=False, transient=transient) as bar:
            task, last_s = bar.add_task("", total=total), 0.0

            def draw(done: int, total: int) -> None:
                nonlocal last_s
                if time.perf_counter() - last_s > _REFRESH_S or done == total:
                    last_s = time.perf_counter()
                    bar.update(task, completed=done, total=total, refresh=True)

            yield draw
        return
    next_line_s = time.perf_counter() + _HEARTBEAT_S

    def at(done: int, _: int) -> None:
        nonlocal next_line_s
        if time.perf_counter() > next_line_s:
            console.print(line(done), soft_wrap=True)
            next_line_s = time.perf_counter() + _HEARTBEAT_S

    yield at


def print_listing(console: Console, source: Source) -> None:
    """Say what was found before anything is written."""
    counts = Counter(clip.split for clip in source.clips)
    numbers = "/".join(f"{counts[split]:,}" for split in (*SPLITS, NOISE_SPLIT))
    console.print(f"{len(source.words)} words, train/val/test/noise = {numbers} clips")
    conversions: dict[str, Any] = source.provenance.get("conversions", {})
    parts = [f"{number:,} {what.replace('_', ' ')}" for what, number in conversions.items() if number]
    if parts:
        console.print(", ".join(parts))
    if conversions.get("speakers", 0) is None:
        console.print(
            "speakers are not known, so a voice may be in several splits: --speaker_from finds them", soft_wrap=True
        )
    if leaked := source.provenance.get("speakers_in_several_splits"):
        console.print(f"speakers in more than one split: {leaked}", style="yellow", soft_wrap=True)


def print_plan(console: Console, source: Source) -> None:
    """Show what would be written, and what would be left out."""
    per_word = {split: Counter(clip.word for clip in source.clips if clip.split == split) for split in SPLITS}
    console.print(_table(source.words, per_word, source.rejected))
    print_rejected(console, source.rejected)


def print_summary(console: Console, written: Written, out: Path, seconds: float) -> None:
    """Show what a dataset holds, what was left out, and how long it took."""
    meta = written.meta
    console.print(_table(meta.words, meta.clips_per_word, written.rejected))
    print_rejected(console, written.rejected, out / REJECTED_NAME)
    clips, size_bytes = sum(meta.clips.values()), sum(entry.bytes for entry in meta.shards)
    console.print(
        f"{out}: {len(meta.shards)} shards, {size_bytes / 1e6:,.1f} MB, with {meta.clips[NOISE_SPLIT]} noise clips",
        soft_wrap=True,
    )
    console.print(f"digest {meta.digest}", soft_wrap=True)
    if written.was_complete:
        console.print(f"it was complete already; every byte of it was checked ({seconds:.1f} s)")
    else:
        kept = f"; {written.kept_shards} shards were there already" if written.kept_shards else ""
        console.print(f"{seconds:.1f} s, {clips / seconds:,.0f} clips/s{kept}")


def print_rejected(console: Console, rejected: Sequence[Rejected], path: Path | None = None) -> None:
    """Say how many recordings were left out, and why the first of them."""
    if not rejected:
        return
    where = f"; all are in {path}" if path else ""
    console.print(f"{len(rejected):,} left out{where}", style="yellow", soft_wrap=True)
    for row in rejected[:_EXAMPLES]:
        reason = row.reason if row.name in row.reason else f"{row.name}: {row.reason}"
        console.print(f"  {reason}", soft_wrap=True)


def _table(words: Sequence[str], per_word: dict[str, Any], rejected: Iterable[Rejected]) -> Table:
    splits = [split for split in SPLITS if any(per_word[split].values())]
    left_out = Counter(row.word for row in rejected)
    table = Table("word", *splits, *(["left out"] if left_out else []))
    for column in table.columns[1:]:
        column.justify = "right"
    for word in words:
        numbers = [per_word[split][word] for split in splits] + ([left_out[word]] if left_out else [])
        table.add_row(word, *(f"{number:,}" for number in numbers))
    elsewhere = sum(number for word, number in left_out.items() if word not in words)
    if elsewhere:
        table.add_row("(of no word here)", *("" for _ in splits), f"{elsewhere:,}")
    table.add_section()
    totals = [sum(per_word[split].values()) for split in splits] + ([left_out.total()] if left_out else [])
    table.add_row("all", *(f"{number:,}" for number in totals))
    return table
