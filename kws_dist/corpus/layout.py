"""How Google Speech Commands is laid out: what the name of a recording says, and which split it is in.

`<word>/<speaker>_nohash_<n>.wav`, `_background_noise_/*.wav`, and two lists that say which clips are for validation
and for testing. Without the lists the hash rule of the data set's authors gives the split.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO

from kws_dist.corpus.clip import NOISE_SPLIT, NOISE_WORD, SILENCE_WORD, UNKNOWN_WORD, Clip
from kws_dist.corpus.container import Look, is_hidden
from kws_dist.errors import DataError

LIST_OF_SPLIT = {"val": "validation_list.txt", "test": "testing_list.txt"}
_VAL_PERCENT, _TEST_PERCENT = 10.0, 10.0
_MAX_CLIPS_PER_WORD = 2**27 - 1  # the constant of the original rule; any other gives another split


def which_set(name: str) -> str:
    """Return the split of a recording by the hash rule of the data set's authors, which keeps a speaker in one.

    TensorFlow, examples/speech_commands/input_data.py, `which_set`, with 10 % for validation and for testing.
    """
    speaker = re.sub(r"_nohash_.*$", "", _file(name))
    hashed = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (_MAX_CLIPS_PER_WORD + 1)
    percent = hashed * (100.0 / _MAX_CLIPS_PER_WORD)
    if percent < _VAL_PERCENT:
        return "val"
    return "test" if percent < _VAL_PERCENT + _TEST_PERCENT else "train"


def split_of_names(names: Sequence[str], lists: Mapping[str, bytes], path: Path) -> tuple[dict[str, str], str]:
    """Return the split of every recording, `noise` for noise, and the rule it came from: `lists` or `which_set`.

    `lists`: the content of those of the two lists that are there. Raises `DataError` if they contradict themselves.
    """
    noise = {name: NOISE_SPLIT for name in names if word_of(name) == NOISE_WORD}
    there = {split: file for split, file in LIST_OF_SPLIT.items() if file in lists}
    if not there:
        return {name: which_set(name) for name in names} | noise, "which_set"
    if len(there) < len(LIST_OF_SPLIT):
        raise DataError(f"{path}: {' and '.join(LIST_OF_SPLIT.values())} belong together, and one is missing")
    listed = {split: _lines(lists[file], f"{path}: {file}") for split, file in there.items()}
    both = sorted(listed["val"] & listed["test"])
    if both:
        raise DataError(f"{path}: {both[0]!r} is in both lists, so it has no split")
    if not (listed["val"] | listed["test"]) & set(names):
        raise DataError(f"{path}: {' and '.join(LIST_OF_SPLIT.values())} name none of the recordings in it")
    splits = {n: "val" if n in listed["val"] else "test" if n in listed["test"] else "train" for n in names}
    return splits | noise, "lists"


def keep_in(kept: dict[str, bytes], names: Collection[str]) -> Look:
    """Return a `Look` that puts the content of the named files into `kept`."""

    def look(name: str) -> Callable[[IO[bytes]], None] | None:
        return (lambda file: kept.__setitem__(name, file.read())) if name in names else None

    return look


def recordings_among(names: Collection[str], path: Path) -> list[str]:
    """Return the names of recordings; raises `DataError` if there are none, or if one lies where it should not."""
    recordings = [name for name in names if _is_recording(name)]
    deeper = next((name for name in recordings if name.count("/") > 1), None)
    if deeper:
        raise DataError(f"{path}: {deeper!r} is not <word>/<recording>.wav; pack the word folders at the top")
    if all(word_of(name) == NOISE_WORD for name in recordings):
        raise DataError(f"{path}: no recordings named <word>/<recording>.wav in it")
    return recordings


def word_of(name: str) -> str:
    """Return the word that a recording is a folder of."""
    return name.partition("/")[0]


def clip_of(name: str, *, word: str, split: str, size_bytes: int) -> Clip:
    """Return the clip that a recording is, with `word` as its label."""
    return Clip(
        key=re.sub(r"[^A-Za-z0-9_/-]", "_", name[: -len(".wav")]),
        word=word,
        speaker="" if split == NOISE_SPLIT or word == SILENCE_WORD else _speaker(name),
        split=split,
        size_bytes=size_bytes,
    )


def _speaker(name: str) -> str:
    """Return who spoke; `_unknown_/bed_3ff840aa_nohash_0.wav.wav` is how the canonical test archives name others."""
    speaker, marked, _ = _file(name).partition("_nohash_")
    if word_of(name) == UNKNOWN_WORD:
        speaker = re.sub(r"^[a-z]+_(?=[0-9a-f]{8}$)", "", speaker)
    return speaker if marked else ""


def _is_recording(name: str) -> bool:
    return "/" in name and name.lower().endswith(".wav") and not is_hidden(name)


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _lines(content: bytes, name: str) -> set[str]:
    try:
        return {line.strip().removeprefix("./") for line in content.decode().splitlines() if line.strip()}
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not a text file: {error}") from error
