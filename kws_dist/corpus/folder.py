"""A user's own recordings in folders, one for each word, as a `Source`."""

import re
from collections.abc import Sequence
from pathlib import Path

from kws_dist.corpus.audio import SUFFIXES, UNREADABLE_SUFFIXES, AudioForm
from kws_dist.corpus.clip import NOISE_WORD, Rejected
from kws_dist.corpus.container import is_hidden
from kws_dist.corpus.look_through import look_through, suffix_of
from kws_dist.corpus.naming import fault_of_word
from kws_dist.corpus.open_container import open_container
from kws_dist.corpus.recordings import Long, Recordings
from kws_dist.corpus.takes import Take, Wishes, recordings_of
from kws_dist.corpus.word_folders import Layout, Place, layout_of
from kws_dist.errors import UsageError

_AUDIO = frozenset((*SUFFIXES, *UNREADABLE_SUFFIXES))
_NO_WORD = "it lies in no word's folder"
_EXAMPLES = 3


def open_folder(
    root: Path,
    *,
    words: Sequence[str] | None = None,
    speaker_from: str | None = None,
    split: str | None = None,
    long: Long = "crop",
    clip_seconds: float = 1.0,
) -> Recordings:
    """List the recordings in a folder, a `.zip` or a `.tar.gz`.

    `words`: the vocabulary in label order; None is every word, sorted. `speaker_from`: a regular expression that
    finds the speaker in the path below the word's folder. `split`: shares such as `80/10/10`, where no folders
    `train`, `val`, `test` around the words say it. What cannot be used is in `rejected`. Raises `UsageError` if
    nothing is left, or if what is left contradicts itself.
    """
    where = f"--root {root}"
    pattern = _pattern(speaker_from)
    container = open_container(root, "--root")
    forms, faults = look_through(container, _is_recording)
    layout = layout_of([*forms, *faults], words or (), where)
    takes: list[Take] = []
    rejected: list[Rejected] = []
    for name in sorted([*forms, *faults]):
        place = layout.place_of(name)
        fault = faults.get(name) or (_NO_WORD if place is None else fault_of_word(place.word))
        if place is None or fault:
            word, split_name = (place.word, place.split) if place else ("", "")
            rejected.append(Rejected(name=name, reason=fault or _NO_WORD, word=word, split=split_name))
        else:
            takes.append(_take(name, layout, place, forms[name], pattern))
    if all(take.word == NOISE_WORD for take in takes):
        raise UsageError(_nothing(where, rejected))
    _check_speakers([take for take in takes if take.word != NOISE_WORD and not take.speaker], speaker_from)
    wishes = Wishes(
        where=where,
        words=words,
        split=split,
        long=long,
        clip_seconds=clip_seconds,
        speakers_from="--speaker_from",
        splits_from="folders",
    )
    return recordings_of(container, takes, rejected, wishes, {"kind": "folder", "speaker_from": speaker_from})


def _is_recording(name: str) -> bool:
    return suffix_of(name) in _AUDIO and not is_hidden(name)


def _take(name: str, layout: Layout, place: Place, form: AudioForm, pattern: re.Pattern[str] | None) -> Take:
    found = pattern.search(place.below) if pattern and place.word != NOISE_WORD else None
    speaker = (found.group(1 if found.re.groups else 0) or "") if found else ""
    base = layout.base_of(name)
    return Take(name=name, base=base, word=place.word, form=form, speaker=speaker, split=place.split)


def _pattern(speaker_from: str | None) -> re.Pattern[str] | None:
    try:
        return None if speaker_from is None else re.compile(speaker_from)
    except re.error as error:
        raise UsageError(f"--speaker_from {speaker_from!r}: not a regular expression ({error})") from error


def _check_speakers(unknown: Sequence[Take], speaker_from: str | None) -> None:
    if speaker_from is not None and unknown:
        examples = ", ".join(take.name for take in unknown[:_EXAMPLES])
        raise UsageError(
            f"--speaker_from {speaker_from!r}: it finds no speaker in {len(unknown):,} recordings, e.g. {examples}; it"
            " is searched in what comes after the word's folder"
        )


def _nothing(where: str, rejected: Sequence[Rejected]) -> str:
    why = "there are none"
    if rejected:
        examples = "; ".join(f"{row.name}: {row.reason}" for row in rejected[:_EXAMPLES])
        why = f"{len(rejected):,} were left out ({examples})"
    return (
        f"{where}: no recordings to use: {why}. Put them into a folder for each word, like yes/anything.wav, or like"
        " train/yes/anything.wav and test/yes/anything.wav; WAV, FLAC, OGG, Opus and MP3 are read"
    )
