"""What adding words has cost the old ones, and how well the new ones are known: figures, tables, sentences."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kws_dist.evaluation.interval import wilson_interval
from kws_dist.files import write_whole
from kws_dist.training.add_word import Addition
from kws_dist.training.before_after import Heard

_SURE = 0.05
REPORT_NAME, PAGE_NAME = "add_word.json", "add_word.md"


def figures(addition: Addition, heard: Heard) -> dict[str, Any]:
    """Return the content of `add_word.json`; accuracies have Wilson's 95 % intervals."""
    old = heard.words[: heard.old_words]
    right_before, right_after = heard.before == heard.label, heard.after == heard.label
    taken = heard.after >= heard.old_words
    return {
        "run_dir": str(addition.wanted.run_dir),
        "out": str(addition.wanted.out),
        "root": str(addition.wanted.root),
        "old_words": {
            "split": heard.split,
            **compare(right_before, right_after),
            "taken_for_new_words": share(taken),
            "per_word": {
                word: {
                    "before": share(right_before[heard.label == number]),
                    "after": share(right_after[heard.label == number]),
                    "taken_for_new_words": int(taken[heard.label == number].sum()),
                }
                for number, word in enumerate(old)
            },
        },
        "new_words": {
            word: {
                "train_clips": count["train"],
                "test": share((heard.new_after == heard.new_label)[heard.new_label == number])
                if count["test"]
                else None,
                "old_clips_taken_for_it": share(heard.after == number),
            }
            for number, (word, count) in enumerate(addition.new_counts.items(), heard.old_words)
        },
        "rehearsal_clips_per_word": addition.wanted.rehearsal_clips or "all",
        "left_out_of_unknown": dict(addition.old.left_out),
        "old_clips_are_those_of_the_run": addition.same_data,
    }


def share(right: NDArray[np.bool_]) -> dict[str, Any]:
    """Return how many of the clips `(clips,)` are so, with Wilson's 95 % interval; the accuracy of none is None."""
    correct, n = int(right.sum()), len(right)
    low, high = wilson_interval(correct, n)
    return {"accuracy": correct / n if n else None, "low": low, "high": high, "correct": correct, "n": n}


def compare(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> dict[str, Any]:
    """Compare what two models get right of the same clips `(clips,)`: as shares, and clip by clip.

    `sign_test_p`: how likely at least so uneven a division of the clips on which they differ is by chance alone
    (exact two-sided sign test; McNemar, "Note on the sampling error of the difference between correlated proportions",
    Psychometrika 12 (1947), pages 153-157, is its approximation).
    """
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    tail = sum(math.comb(lost + won, k) for k in range(min(lost, won) + 1))
    now = share(after)
    return {
        "before": share(before),
        "after": now,
        "after_excludes_before": not now["low"] <= float(before.mean()) <= now["high"],
        "right_before_only": lost,
        "right_after_only": won,
        "sign_test_p": min(1.0, tail / 2 ** (lost + won - 1)) if lost + won else 1.0,
    }


def sentences(report: dict[str, Any]) -> list[str]:
    """Say in words what the figures mean."""
    old = report["old_words"]
    before, after, taken = old["before"], old["after"], old["taken_for_new_words"]
    where = "test clips" if old["split"] == "test" else "validation clips, for want of a test split,"
    verdict = "excludes" if old["after_excludes_before"] else "includes"
    change = "no change is proved"
    if old["sign_test_p"] < _SURE:
        change = f"they have become {'better' if after['accuracy'] > before['accuracy'] else 'worse'}"
    said = [
        f"Old words, {before['n']:,} {where}: {_said(before)} before, {_said(after)} after. The interval"
        f" after {verdict} the accuracy before.",
        f"Clip by clip, which sees smaller changes: {old['right_before_only']} were right before only,"
        f" {old['right_after_only']} are right after only; {change} (sign test, p = {old['sign_test_p']:.2g}).",
        f"Clips of old words now taken for a new word: {_said(taken)}.",
    ]
    for word, one in report["new_words"].items():
        if one["test"]:
            said.append(
                f"New word {word!r}, {one['test']['n']} held-out recordings, {one['train_clips']} for training:"
                f" {_said(one['test'])}."
            )
        else:
            said.append(f"New word {word!r}: not tested, all {one['train_clips']} recordings were for training.")
    if not report["old_clips_are_those_of_the_run"]:
        said.append(
            "The old clips are not of the data that the run was trained on: some of those it is tested on may be ones"
            " that it has learnt."
        )
    return said


def _said(one: dict[str, Any]) -> str:
    return (
        f"{one['accuracy']:.4f} ({one['low']:.4f} to {one['high']:.4f} with 95 % confidence,"
        f" {one['correct']:,} of {one['n']:,})"
    )


def rows_of(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table: word, clips, accuracy before, accuracy after, clips taken for a new word."""
    old = report["old_words"]
    rows = [
        (word, f"{one['before']['n']:,}", _cell(one["before"]), _cell(one["after"]), f"{one['taken_for_new_words']:,}")
        for word, one in old["per_word"].items()
    ]
    taken = f"{old['taken_for_new_words']['correct']:,}"
    rows.append(("all old words", f"{old['before']['n']:,}", _cell(old["before"]), _cell(old["after"]), taken))
    for word, one in report["new_words"].items():
        test = one["test"]
        rows.append((f"{word} (new)", f"{test['n']:,}" if test else "0", "", _cell(test) if test else "not tested", ""))
    return rows


def _cell(one: dict[str, Any]) -> str:
    return f"{one['accuracy']:.3f} ({one['low']:.3f}-{one['high']:.3f})" if one["n"] else "no clips"


_COLUMNS = ("word", "clips", "accuracy before", "accuracy after", "as new")
_LEGEND = "accuracies with 95 % intervals; as new: clips of old words now taken for a new one"


def write(report: dict[str, Any], out: Path) -> None:
    """Write the report into the run folder, for programs and for people."""
    write_whole(out / REPORT_NAME, (json.dumps(report, indent=1) + "\n").encode())
    lines = [_COLUMNS, ("---", *["---:"] * (len(_COLUMNS) - 1)), *rows_of(report)]
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
    said = "\n".join(f"- {sentence}" for sentence in sentences(report))
    page = f"# {', '.join(report['new_words'])} added to {report['run_dir']}\n\n{table}\n\n{_LEGEND}\n\n{said}\n"
    write_whole(out / PAGE_NAME, page.encode())


def show(console: Console, report: dict[str, Any], out: Path) -> None:
    """Print the table and what it means."""
    table = Table(*_COLUMNS, box=SIMPLE_HEAD, caption=_LEGEND, caption_justify="left")
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for row in rows_of(report):
        if row[0] == "all old words":
            table.add_section()
        table.add_row(*row)
    console.print(table)
    for sentence in sentences(report):
        console.print(sentence, soft_wrap=True)
    console.print(f"the report is in {out / REPORT_NAME} and {out / PAGE_NAME}", soft_wrap=True)
