"""LibriSpeech (Panayotov et al., ICASSP 2015), or recordings named like its: whole utterances, with their alignments.

The layout is `SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac`; a single subset may lie without its folder.
"""

import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from kws_dist.corpus.alignments import Alignment, Alignments
from kws_dist.corpus.audio import SUFFIXES, AudioForm, audio_form
from kws_dist.corpus.clip import Rejected
from kws_dist.corpus.container import Container, is_hidden
from kws_dist.corpus.wav import HEAD_BYTES
from kws_dist.errors import ClipError

_NAME = re.compile(r"[^-]+-[^-]+-[^-]+")
_ROUNDING_S = 0.01  # an aligner's frame: by as much an alignment may end after the recording


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """A recording whose words are known."""

    name: str
    """The file in the container."""
    id: str
    """`SPEAKER-CHAPTER-NUMBER`."""
    subset: str
    """The folder that holds the speaker's; empty if there is none."""
    seconds: float
    alignment: Alignment

    @property
    def speaker(self) -> str:
        """Who speaks."""
        return self.id.partition("-")[0]


def list_utterances(
    container: Container, alignments: Alignments, keywords: Mapping[str, str]
) -> tuple[list[Utterance], list[Rejected]]:
    """Return every recording that can be used, sorted by name, and what cannot be.

    `keywords` are the folded words to be found, with the words as the user writes them: each that is lost with its
    utterance is rejected by itself.
    """
    forms: dict[str, AudioForm | str] = {}
    listing = container.scan(lambda name: _examiner(name, alignments, forms))
    utterances: dict[str, Utterance] = {}
    rejected = [Rejected(name=name, reason=why) for name, why in listing.refused.items() if _is_audio(name)]
    for name in filter(_is_audio, listing.size_bytes):
        key = _id(name)
        found = alignments.of_utterance.get(key)
        form = forms.get(name, "")
        if found is None or key in utterances or not _NAME.fullmatch(key):
            rejected += _unaligned(name, key, alignments, utterances)
        elif isinstance(form, str) or found.end_s > form.seconds + _ROUNDING_S:
            reason = form if isinstance(form, str) else _beyond(found, form.seconds)
            rejected += _with_keywords(name, reason, found, keywords)
        else:
            utterances[key] = Utterance(name, key, _subset(name, key), form.seconds, found)
    heard = {_id(name) for name in listing.size_bytes if _is_audio(name)}
    return list(utterances.values()), rejected + _unheard(alignments, heard, keywords)


def _is_audio(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not is_hidden(name)


def _id(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def _subset(name: str, key: str) -> str:
    speaker, chapter = [*key.split("-"), ""][:2]
    folders = name.split("/")[:-1]
    for folder in (chapter, speaker):
        if folders[-1:] == [folder]:
            folders.pop()
    return folders[-1] if folders else ""


def _examiner(
    name: str, alignments: Alignments, forms: dict[str, AudioForm | str]
) -> Callable[[IO[bytes]], None] | None:
    """Look into the aligned recordings for their form, or for why they cannot be read."""

    def examine(file: IO[bytes]) -> None:
        try:
            forms[name] = _form(file, name)
        except ClipError as error:
            forms[name] = str(error).removeprefix(f"{name}: ")

    return examine if _is_audio(name) and _id(name) in alignments.of_utterance else None


def _form(file: IO[bytes], name: str) -> AudioForm:
    """Read the beginning of a FLAC file, which says all; `audio_form` would read all of the file."""
    head = file.read(HEAD_BYTES)
    if head.startswith(b"fLaC"):
        with suppress(ClipError):  # a picture before the samples can be larger
            return audio_form(io.BytesIO(head), len(head), name)
    content = head + file.read()
    return audio_form(io.BytesIO(content), len(content), name)


def _unaligned(name: str, key: str, alignments: Alignments, heard: Collection[str]) -> list[Rejected]:
    if not _NAME.fullmatch(key):
        return [Rejected(name=name, reason="it is not called SPEAKER-CHAPTER-NUMBER, so nobody knows who speaks")]
    if key in heard:
        return [Rejected(name=name, reason=f"another recording is called {key} as well")]
    if key in alignments.unusable:
        return []  # the alignment is rejected already, by its own name
    return [Rejected(name=name, reason=f"there is no alignment of {key}")]


def _beyond(found: Alignment, seconds: float) -> str:
    return f"it lasts {seconds:.2f} s, and its alignment ({found.where}) goes on to {found.end_s:.2f} s"


def _with_keywords(name: str, reason: str, found: Alignment, keywords: Mapping[str, str]) -> list[Rejected]:
    """Reject an utterance: a row for every keyword in it, one row if there is none."""
    rows = [
        Rejected(name=at(name, start_s), reason=reason, word=keywords[word])
        for word, start_s in zip(found.words, found.starts_s, strict=True)
        if word in keywords
    ]
    return rows or [Rejected(name=name, reason=reason)]


def at(name: str, start_s: float) -> str:
    """Return what a word in a recording is called in a list of what was left out."""
    return f"{name} at {start_s:.3f} s"


def _unheard(alignments: Alignments, heard: Collection[str], keywords: Mapping[str, str]) -> list[Rejected]:
    """One row for each chapter with alignments but no recordings: who has one subset often has all alignments."""
    chapters: dict[str, list[str]] = defaultdict(list)
    for key in sorted(set(alignments.of_utterance) - set(heard)):
        chapters[key.rpartition("-")[0]].append(key)
    rows = []
    for keys in chapters.values():
        counts = Counter(word for key in keys for word in alignments.of_utterance[key].words)
        lost = sum(counts[word] for word in keywords)
        rows.append(
            Rejected(
                name=alignments.of_utterance[keys[0]].where,
                reason=f"there is no recording of {keys[0]}"
                + (f" nor of {len(keys) - 1} more utterances of its chapter" if len(keys) > 1 else "")
                + f"; {lost} of the wanted words are in {'them' if len(keys) > 1 else 'it'}",
            )
        )
    return rows
