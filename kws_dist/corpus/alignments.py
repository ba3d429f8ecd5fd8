"""Word alignments of LibriSpeech: which word is said when in which utterance, in the two forms there are.

- `SPEAKER-CHAPTER.alignment.txt` (C. Jemine's condensed form), a line for each utterance: its name, its words, empty
  for silence, and when each ends; a word begins where what is before it ends:
  `84-121123-0000 ",GO,,DO,YOU,HEAR," "0.490,0.890,1.270,1.380,1.490,2.000,2.4"`;
- `UTTERANCE.TextGrid` (of the Montreal Forced Aligner) with a tier `words`, or `SPEAKER - words`.
"""

import hashlib
import math
import re
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from kws_dist.corpus.clip import Rejected
from kws_dist.corpus.container import is_hidden
from kws_dist.corpus.open_container import open_container
from kws_dist.corpus.textgrid import Interval, interval_tier
from kws_dist.errors import UsageError

_NOT_WORDS = frozenset(["", "<eps>", "sil", "sp", "<sil>", "<unk>", "spn"])  # what aligners write where no word is
_PLAIN, _GRID = ".alignment.txt", ".textgrid"
_LINE = re.compile(r'(\S+)\s+"([^"]*)"\s+"([^"]*)"')
_WORD_TIER = re.compile(r"(.* - )?words?", re.IGNORECASE)
_ROUNDING_S = 1e-6  # by as much intervals may overlap that were meant to meet


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """The words of an utterance, in 25 bytes each: LibriSpeech has ten million."""

    where: str
    """The file in the folder, with the line if it has one for each utterance."""
    words: tuple[str, ...]
    """As `folded` returns them, without silence and what the aligner did not know."""
    starts_s: Sequence[float]
    ends_s: Sequence[float]
    end_s: float
    """The end of the last word or of the silence after it."""


@dataclass(slots=True)
class Alignments:
    """All that a folder or an archive holds."""

    of_utterance: dict[str, Alignment] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)
    """Utterances that are aligned in a way that cannot be read."""
    rejected: list[Rejected] = field(default_factory=list)
    sha256: str = ""
    """Of the contents of the files, wherever they lie."""


def folded(word: str) -> str:
    """Return what is the same for every way to write a word: `DON'T` and `Don't`, with any apostrophe, are one."""
    return sys.intern(word.strip().casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def read_alignments(path: Path) -> Alignments:
    """Read all alignments in a folder or an archive; where an utterance has both forms, the first is used.

    Lines and files that make no sense are in `rejected`, by name. Raises `UsageError` if there are no alignments.
    """
    plain, grids = Alignments(), Alignments()
    digests: list[bytes] = []

    def look(name: str) -> Callable[[IO[bytes]], None] | None:
        read = _reader(name)

        def examine(file: IO[bytes]) -> None:
            content = file.read()
            digests.append(hashlib.sha256(content).digest())
            if read is not None:
                read(name, content, plain if read is _read_plain else grids)

        return examine if read is not None else None

    listing = open_container(path, "--alignments").scan(look)
    refused = [Rejected(name=name, reason=why) for name, why in listing.refused.items() if _reader(name)]
    together = Alignments(
        of_utterance={**grids.of_utterance, **plain.of_utterance},
        unusable=plain.unusable | grids.unusable,
        rejected=[*plain.rejected, *grids.rejected, *refused],
        sha256=hashlib.sha256(b"".join(sorted(digests))).hexdigest(),
    )
    if not together.of_utterance:
        why = f" ({together.rejected[0].name}: {together.rejected[0].reason})" if together.rejected else ""
        raise UsageError(
            f"--alignments {path}: no word alignments that can be read{why};"
            " they are called SPEAKER-CHAPTER.alignment.txt or UTTERANCE.TextGrid"
        )
    return together


def alignment(where: str, intervals: Iterable[Interval]) -> Alignment:
    """Return the words among the intervals; raises `ValueError` if they are not one after the other."""
    words, starts_s, ends_s, end_s = [], array("d"), array("d"), 0.0
    for text, start_s, stop_s in intervals:
        if not end_s - _ROUNDING_S <= start_s <= stop_s < math.inf:
            raise ValueError(f"its times do not increase: {text!r} is from {start_s:g} to {stop_s:g} s")
        end_s = stop_s
        word = folded(text)
        if word not in _NOT_WORDS:
            words.append(word)
            starts_s.append(start_s)
            ends_s.append(stop_s)
    return Alignment(where, tuple(words), starts_s, ends_s, end_s)


_Read = Callable[[str, bytes, Alignments], None]


def _reader(name: str) -> _Read | None:
    if is_hidden(name):
        return None
    if name.lower().endswith(_PLAIN):
        return _read_plain
    return _read_grid if name.lower().endswith(_GRID) else None


def _read_plain(name: str, content: bytes, into: Alignments) -> None:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        into.rejected.append(Rejected(name=name, reason=f"it is not a text file ({error})"))
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{name}:{number}"
            _keep(into, where, line.split()[0], lambda where=where, line=line: alignment(where, _entries(line)))


def _read_grid(name: str, content: bytes, into: Alignments) -> None:
    def read() -> Alignment:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        tier = interval_tier(text, lambda tier_name: _WORD_TIER.fullmatch(tier_name) is not None)
        found = alignment(name, tier.intervals)
        return replace(found, end_s=max(found.end_s, tier.end_s))

    _keep(into, name, name.rpartition("/")[2][: -len(_GRID)], read)


def _keep(into: Alignments, where: str, utterance: str, read: Callable[[], Alignment]) -> None:
    """Keep what `read` returns as the alignment of the utterance; what cannot be kept is rejected."""
    if utterance in into.of_utterance:
        reason = f"{utterance} is aligned already, by {into.of_utterance[utterance].where}"
        into.rejected.append(Rejected(name=where, reason=reason))
        return
    try:
        into.of_utterance[utterance] = read()
    except ValueError as error:  # also a UnicodeDecodeError
        into.rejected.append(Rejected(name=where, reason=str(error)))
        into.unusable.add(utterance)


def _entries(line: str) -> list[Interval]:
    """Return what a line in the plain form says."""
    parts = _LINE.fullmatch(line.strip())
    if parts is None:
        raise ValueError('it is not a line of the form: UTTERANCE ",WORD,..." "END,END,..."')
    words, times = parts[2].split(","), parts[3].split(",")
    if len(words) != len(times):
        raise ValueError(f"{len(words)} words, counting silences, and {len(times)} times")
    try:
        ends_s = [float(time) for time in times]
    except ValueError as error:
        raise ValueError(f"a time is not a number ({error})") from error
    return [Interval(*entry) for entry in zip(words, [0.0, *ends_s[:-1]], ends_s, strict=True)]
