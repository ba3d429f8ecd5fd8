"""Make shards of recordings: `python tools/make_shards.py speech-commands --archive FILE.tar.gz --out data/sc`."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from kws_dist.corpus.clip import NOISE_SPLIT, SPLITS, Source
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.errors import UsageError, main_guard
from kws_dist.shards.plan import make_plan
from kws_dist.shards.write import Written, write_dataset

SHARD_CLIPS = 2000
_HEARTBEAT_S = 10.0  # between lines of progress in a log file


def speech_commands(
    out: Path,
    archive: Path | None = None,
    root: Path | None = None,
    words: str = "",
    shard_clips: int = SHARD_CLIPS,
    seed: int = 0,
    debug: bool = False,
) -> int:
    """Make shards of the Speech Commands archive, or of recordings laid out like it.

    Args:
        out: Folder for the shards and dataset.json. The same command continues an unfinished folder.
        archive: The .tar.gz as it is downloaded; it is streamed, never unpacked.
        root: A folder with the same layout, instead of an archive.
        words: The vocabulary in label order, separated by commas; all words of the archive if left out.
        shard_clips: Most clips in one shard.
        seed: Decides how clips are dealt over shards.
        debug: Show the traceback of an error.
    """

    def build() -> Source:
        return SpeechCommands(archive, root=root, words=_word_list(words))

    return main_guard(lambda: _make(build, "speech-commands", out, shard_clips, seed), debug)


def synth(
    out: Path,
    words: str,
    voices: int | None = None,
    per_word: int = 200,
    shard_clips: int = SHARD_CLIPS,
    seed: int = 0,
    debug: bool = False,
) -> int:
    """Make shards of words spoken by a speech synthesiser, with nothing to download.

    Args:
        out: Folder for the shards and dataset.json. The same command continues an unfinished folder.
        words: The vocabulary in label order, separated by commas.
        voices: How many speakers, each in one split only; all the synthesiser has if left out.
        per_word: Clips of each word, all splits together.
        shard_clips: Most clips in one shard.
        seed: Decides the voices and how clips are dealt over shards.
        debug: Show the traceback of an error.
    """

    def build() -> Source:
        from kws_dist.corpus.synth import Synth  # needs the optional synthesiser

        chosen = {} if voices is None else {"voices": voices}
        return Synth(_word_list(words) or [], per_word=per_word, seed=seed, **chosen)

    return main_guard(lambda: _make(build, "synth", out, shard_clips, seed), debug)


def _word_list(words: str) -> list[str] | None:
    if not words.strip():
        return None
    chosen = [word.strip() for word in words.split(",")]
    if not all(chosen):
        raise UsageError(f"--words {words!r}: a word is missing between two commas")
    return chosen


def _make(build: Callable[[], Source], kind: str, out: Path, shard_clips: int, seed: int) -> None:
    console = Console(markup=False, highlight=False)
    started_s = time.perf_counter()
    with console.status("listing the recordings"):
        source = build()
    plan = make_plan(source, shard_clips=shard_clips, seed=seed)
    counts = [sum(clip.split == split for clip in source.clips) for split in (*SPLITS, NOISE_SPLIT)]
    console.print(f"{len(source.words)} words, train/val/test/noise = {'/'.join(map(str, counts))} clips")
    task = f"{kind} {len(source.words)} words"
    with _progress(console, total=len(source.clips)) as on_clips:
        written = write_dataset(source, plan, out, task=task, command=["python", *sys.argv], on_clips=on_clips)
    _print_summary(console, written, out, seconds=time.perf_counter() - started_s)


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many clips are done: a bar on a terminal, a line now and then in a log file."""
    if console.is_terminal:
        columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("writing", total=total)
            yield lambda clips: bar.advance(task, clips)
        return
    done, next_line_s = 0, time.perf_counter() + _HEARTBEAT_S

    def on_clips(clips: int) -> None:
        nonlocal done, next_line_s
        done += clips
        if time.perf_counter() > next_line_s:
            console.print(f"{done}/{total} clips")
            next_line_s = time.perf_counter() + _HEARTBEAT_S

    yield on_clips


def _print_summary(console: Console, written: Written, out: Path, seconds: float) -> None:
    meta = written.meta
    table = Table("word", *SPLITS)
    for column in table.columns[1:]:
        column.justify = "right"
    for word in meta.words:
        table.add_row(word, *(f"{meta.clips_per_word[split][word]:,}" for split in SPLITS))
    table.add_section()
    table.add_row("all", *(f"{meta.clips[split]:,}" for split in SPLITS))
    console.print(table)
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


def main() -> int:
    """Run the subcommand that the command line names."""
    commands = {"speech-commands": speech_commands, "synth": synth}
    return tyro.extras.subcommand_cli_from_dict(
        commands, description=__doc__, use_underscores=True, config=(tyro.conf.FlagCreatePairsOff,)
    )


if __name__ == "__main__":
    raise SystemExit(main())
