"""What a person reads of a checkup: what is in the folder, what is odd about the recordings, what is wrong."""

import shlex
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kws_dist.corpus.clip import SPLITS
from kws_dist.shards.checkup import Checkup
from kws_dist.shards.examine import Clips
from kws_dist.shards.figures import balance, per_word, speakers
from kws_dist.shards.findings import Finding
from kws_dist.shards.meta import DatasetMeta

_EXAMPLES = 10  # of one kind; --json lists them all
_ERROR, _WARNING, _GOOD = "bold red", "yellow", "green"


def print_checkup(console: Console, checkup: Checkup) -> None:
    """Show everything but the verdict."""
    verified = checkup.verified
    if verified.meta is not None:
        console.print(f"{verified.root}: {_about(verified.meta)}", soft_wrap=True)
    if checkup.clips:
        _print_contents(console, checkup.clips)
        _print_findings(console, checkup.findings, speakers_known=speakers(checkup.clips)["speakers"] > 0)
    if verified.faults:
        _print_some(console, Text("faults", style=_ERROR), [fault.sentence for fault in verified.faults])
    if verified.meta is None:
        console.print("the recordings were not examined: only dataset.json says which words they are\n", soft_wrap=True)
    elif verified.faults:
        console.print(f"the command in dataset.json: {shlex.join(verified.meta.command)}\n", soft_wrap=True)


def print_verdict(console: Console, checkup: Checkup) -> None:
    """Say in one line how it is."""
    verified, wrong = checkup.verified, checkup.wrong
    shards = _counted(len(verified.shards), "shard")
    if verified.faults:
        verdict = f"{_counted(len(verified.faults), 'fault')} in {shards}"
    else:
        verdict = f"all {verified.clips:,} clips of {shards} are as they were written"
    if wrong:
        verdict += f"; wrong: {', '.join(f'{finding.title} ({len(finding.items):,})' for finding in wrong)}"
    speed = f"{checkup.verify_s:.2f} s, {verified.clips / checkup.verify_s:,.0f} clips/s"
    console.print(f"verified in {speed}; examined in {checkup.examine_s:.2f} s", style="dim", soft_wrap=True)
    console.print(Text(verdict, style="bold green" if checkup.is_fine else _ERROR), soft_wrap=True)


def simple_table(columns: Sequence[str], right: Sequence[str] = ()) -> Table:
    """Make a table with a rule below its head and no other lines; the columns named in `right` are aligned there."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def _about(meta: DatasetMeta) -> str:
    size_bytes = sum(entry.bytes for entry in meta.shards)
    shards = f"{_counted(len(meta.shards), 'shard')} of {meta.codec}, {size_bytes / 1e6:,.1f} MB"
    return f"{meta.task}, {shards}, digest {meta.digest}"


def _print_contents(console: Console, clips: Clips) -> None:
    words = per_word(clips)
    splits = [split for split in SPLITS if (clips.split == split).any()]
    length, loudness = "seconds\n min   mid   max", "dBFS\n min  mid  max"
    table = simple_table(["word", *splits, length, loudness], right=[*splits, length, loudness])
    for word, row in words.items():
        counts = [f"{row['clips'][split]:,}" if split in row["clips"] else "" for split in splits]
        table.add_row(word, *counts, _spread(row["length_s"], "{:5.2f}"), _spread(row["level_dbfs"], "{:4.0f}"))
    console.print(table)
    for split, row in balance(clips).items():
        few, many = f"{row['rarest_clips']:,}", f"{row['commonest_clips']:,}"
        uneven = f"{few} ({row['rarest']}) to {many} ({row['commonest']}) clips of a word, {row['ratio']:.2f} to 1"
        console.print(f"{split}: {uneven if few != many else f'{few} clips of each word'}", soft_wrap=True)
    console.print(_speakers(speakers(clips)), soft_wrap=True)


def _print_findings(console: Console, findings: Sequence[Finding], *, speakers_known: bool) -> None:
    table = simple_table(["looked for", "found", "clips"], right=["clips"])
    for finding in findings:
        found = Text("WRONG", style=_ERROR) if finding.is_error else Text("warning", style=_WARNING)
        if not finding.items:
            found = Text("nothing", style=_GOOD)
        if finding.kind == "speaker_in_two_splits" and not speakers_known:
            found = Text("not known", style=_WARNING)
        table.add_row(finding.title, found, f"{len(finding.keys):,}" if finding.keys else "")
    console.print(table)
    for finding in findings:
        if finding.items:
            title = Text(finding.title, style=_ERROR if finding.is_error else _WARNING)
            title.append(f": {finding.rule}", style="not bold default")
            _print_some(console, title, [item.what for item in finding.items])


def _print_some(console: Console, title: Text, lines: Sequence[str]) -> None:
    console.print(title, soft_wrap=True)
    for line in lines[:_EXAMPLES]:
        console.print(f"  {line}", soft_wrap=True)
    if len(lines) > _EXAMPLES:
        console.print(f"  and {len(lines) - _EXAMPLES:,} more; --json lists them all", style="dim", soft_wrap=True)
    console.print()


def _speakers(counts: dict[str, int]) -> str:
    if not counts["speakers"]:
        return "speakers: none are known, so one who is in two splits cannot be seen"
    unknown = f"; of {counts['clips_without']:,} clips the speaker is not known" if counts["clips_without"] else ""
    return f"speakers: {counts['speakers']:,}{unknown}"


def _spread(values: Sequence[float] | None, form: str) -> str:
    return " ".join(map(form.format, values)) if values else ""


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
