"""A user's own recordings where they are, named by a list that says what is spoken in them, as a `Source`."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kws_dist.corpus.audio import AudioForm
from kws_dist.corpus.clip import NOISE_WORD, Rejected
from kws_dist.corpus.look_through import look_through
from kws_dist.corpus.manifest_rows import Row, read_rows
from kws_dist.corpus.naming import Part
from kws_dist.corpus.recordings import Long, Recordings
from kws_dist.corpus.splits import SPLIT_NAMES, split_of_name
from kws_dist.corpus.takes import Take, Wishes, recordings_of
from kws_dist.corpus.tree import FileList
from kws_dist.errors import UsageError

_EXAMPLES = 3
_ROUNDING_S = 0.01
"""How far beyond the end of a recording a part may end: people round to a hundredth of a second."""


def open_manifest(
    csv: Path | None = None,
    jsonl: Path | None = None,
    *,
    words: Sequence[str] | None = None,
    split: str | None = None,
    long: Long = "crop",
    clip_seconds: float = 1.0,
) -> Recordings:
    """List the recordings that a file names: `path, word`, and where wanted `start, end` (s), `speaker`, `split`.

    Paths are relative to the folder of the list, or absolute. `words`: the vocabulary in label order; None is every
    word, sorted. `split`: shares such as `80/10/10`, where the list does not say it. Rows that cannot be used are in
    `rejected`, as `list.csv:12`. Raises `UsageError` if none is left, or if what is left contradicts itself.
    """
    if (csv is None) == (jsonl is None):
        raise UsageError("pass either --csv FILE or --jsonl FILE")
    path, flag = (csv, "--csv") if csv is not None else (jsonl, "--jsonl")
    assert path is not None, "one of them is given"
    where = f"{flag} {path}"
    rows = read_rows(path, flag)
    names = {row.line: _name_of(row.path, path.parent) for row in rows.good}
    container = FileList(path, names.values())
    forms, faults = look_through(container, lambda _: True)
    takes, rejected = _takes(rows.good, names, forms, faults)
    rejected += [(line, fault, "") for line, fault in rows.bad.items()]
    listed = [Rejected(name=f"{path.name}:{line}", reason=fault, word=word) for line, fault, word in sorted(rejected)]
    if all(take.word == NOISE_WORD for take in takes.values()):
        raise UsageError(_nothing(where, listed))
    _check_given(takes, where)
    wishes = Wishes(
        where=where,
        words=words,
        split=split,
        long=long,
        clip_seconds=clip_seconds,
        speakers_from="the speakers",
        splits_from="split column",
    )
    about = {"kind": "manifest", "ignored_columns": rows.other_fields}
    return recordings_of(container, list(takes.values()), listed, wishes, about)


def _name_of(text: str, folder: Path) -> str:
    """Return the path of a file as the same text however the list writes it, relative to the list where it can be."""
    path = posixpath.normpath(text)
    inside = f"{folder.absolute()}/"
    return path.removeprefix(inside) if path.startswith(inside) else path


def _takes(
    rows: Sequence[Row], names: Mapping[int, str], forms: Mapping[str, AudioForm], faults: Mapping[str, str]
) -> tuple[dict[int, Take], list[tuple[int, str, str]]]:
    """Return the takes by line, and the lines that cannot be used with what is wrong and the word."""
    takes: dict[int, Take] = {}
    rejected: list[tuple[int, str, str]] = []
    line_of: dict[Part, int] = {}
    for row in rows:
        name = names[row.line]
        fault = faults.get(name) or _fault_of_part(row, forms[name])
        first = row.line if fault else line_of.setdefault((name, row.start_s, row.end_s), row.line)
        if fault or first != row.line:
            rejected.append((row.line, fault or f"it is the same as line {first}", row.word))
            continue
        takes[row.line] = Take(
            name=name,
            base=name,
            word=row.word,
            form=forms[name],
            speaker="" if row.word == NOISE_WORD else row.speaker,
            split="" if row.word == NOISE_WORD else row.split,
            start_s=row.start_s,
            end_s=row.end_s,
        )
    return takes, rejected


def _fault_of_part(row: Row, form: AudioForm) -> str | None:
    for name, second in (("start", row.start_s), ("end", row.end_s or 0.0)):
        if second > form.seconds + (_ROUNDING_S if name == "end" else 0.0):
            return f"its {name} {second:g} s lies beyond the end of the recording, {form.seconds:.3f} s"
    return None


def _check_given(takes: dict[int, Take], where: str) -> None:
    """Put the splits under their usual names; raises `UsageError` unless all rows have one, or none has."""
    spoken = {line: take for line, take in takes.items() if take.word != NOISE_WORD}
    if not any(take.split for take in spoken.values()):
        return
    for line, take in spoken.items():
        split = split_of_name(take.split)
        if not take.split:
            raise UsageError(f"{where}: line {line} has no split and others have one; fill in all of them or none")
        if split is None:
            raise UsageError(f"{where}: line {line}: there is no split {take.split!r}; write {', '.join(SPLIT_NAMES)}")
        takes[line] = replace(take, split=split)


def _nothing(where: str, rejected: Sequence[Rejected]) -> str:
    if not rejected:
        return f"{where}: it names no recordings of words"
    examples = "; ".join(f"{row.name}: {row.reason}" for row in rejected[:_EXAMPLES])
    return f"{where}: no recordings to use: {len(rejected):,} were left out ({examples})"
