"""Google Speech Commands (Warden, arXiv:1804.03209), or any recordings laid out like it.

The layout: `<word>/<speaker>_nohash_<n>.wav`, `_background_noise_/*.wav`, and two lists that say which clips are
for validation and for testing. Without the lists the hash rule of the data set's authors gives the split.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from kws_dist.corpus.clip import NOISE_SPLIT, NOISE_WORD, Clip, Rejected, Samples
from kws_dist.corpus.container import Container, Look, is_hidden
from kws_dist.corpus.tar import TarArchive
from kws_dist.corpus.tree import Tree
from kws_dist.corpus.wav import samples_of_wav
from kws_dist.errors import DataError, UsageError

LIST_OF_SPLIT = {"val": "validation_list.txt", "test": "testing_list.txt"}
_VAL_PERCENT, _TEST_PERCENT = 10.0, 10.0
_MAX_CLIPS_PER_WORD = 2**27 - 1  # the constant of the original rule; any other gives another split


class SpeechCommands:
    """The clips of an archive (streamed, never unpacked) or of a folder; a `Source`."""

    def __init__(
        self, archive: Path | None = None, *, root: Path | None = None, words: Sequence[str] | None = None
    ) -> None:
        """List the recordings. `words` gives the vocabulary in label order; None is every word, sorted.

        Raises `UsageError` for a word that is not there, `DataError` for an archive that is damaged or hostile.
        """
        self._container = _container(archive, root)
        lists: dict[str, bytes] = {}
        listing = self._container.scan(_keep_in(lists, LIST_OF_SPLIT.values()))
        names = [name for name in listing.size_bytes if _is_recording(name)]
        self.words: tuple[str, ...] = _vocabulary(words, names, self._container.path)
        splits, rule = _splits(names, lists, self._container.path)
        chosen = {*self.words, NOISE_WORD}
        clips = {n: _clip(n, splits, listing.size_bytes[n]) for n in names if _word(n) in chosen}
        self.clips: tuple[Clip, ...] = tuple(sorted(clips.values(), key=lambda clip: clip.key))
        self._name_of_key = _by_key(clips, self._container.path)
        used = [*clips, *lists]
        self.provenance: dict[str, Any] = {
            "kind": "speech-commands",
            "path": self._container.path.resolve().name,
            **self._container.identity(used),
            "split_rule": rule,
        }
        self.state = self._container.state(used)
        self.rejected: tuple[Rejected, ...] = tuple(
            Rejected(name=name, reason=reason) for name, reason in sorted(listing.refused.items())
        )

    def staged(self, keys: Collection[str], folder: Path) -> AbstractContextManager[None]:
        """One pass over an archive, whatever the number of clips."""
        return self._container.staged([self._name_of_key[key] for key in keys], folder)

    def read(self, key: str) -> Samples:
        """Return the samples `(samples,)` of a staged clip."""
        name = self._name_of_key[key]
        return samples_of_wav(self._container.read(name), f"{self._container.path}: {name}")


def which_set(name: str) -> str:
    """Return the split of a recording by the hash rule of the data set's authors, which keeps a speaker in one.

    TensorFlow, examples/speech_commands/input_data.py, `which_set`, with 10 % for validation and for testing.
    """
    speaker = re.sub(r"_nohash_.*$", "", PurePosixPath(name).name)
    hashed = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (_MAX_CLIPS_PER_WORD + 1)
    percent = hashed * (100.0 / _MAX_CLIPS_PER_WORD)
    if percent < _VAL_PERCENT:
        return "val"
    return "test" if percent < _VAL_PERCENT + _TEST_PERCENT else "train"


def _container(archive: Path | None, root: Path | None) -> Container:
    if archive is not None and root is None:
        return TarArchive(archive)
    if root is not None and archive is None:
        return Tree(root)
    raise UsageError("pass either --archive FILE.tar.gz or --root DIR")


def _keep_in(kept: dict[str, bytes], names: Collection[str]) -> Look:
    def look(name: str) -> Callable[[IO[bytes]], None] | None:
        return (lambda file: kept.__setitem__(name, file.read())) if name in names else None

    return look


def _is_recording(name: str) -> bool:
    path = PurePosixPath(name)
    return len(path.parts) > 1 and path.suffix.lower() == ".wav" and not is_hidden(name)


def _word(name: str) -> str:
    return name.partition("/")[0]


def _vocabulary(asked: Sequence[str] | None, names: Sequence[str], path: Path) -> tuple[str, ...]:
    """Return the words in label order, having made sure that each is there once and lies where it should."""
    deeper = next((name for name in names if name.count("/") > 1), None)
    if deeper:
        raise DataError(f"{path}: {deeper!r} is not <word>/<recording>.wav; pack the word folders at the top")
    there = sorted({_word(name) for name in names} - {NOISE_WORD})
    if not there:
        raise DataError(f"{path}: no recordings named <word>/<recording>.wav in it")
    words = tuple(there if asked is None else asked)
    missing = [word for word in words if word not in there]
    if missing or not words:
        what = "no word given" if not words else f"no recordings of {', '.join(map(repr, missing))}"
        raise UsageError(f"--words: {what} in {path}; the words there are: {', '.join(there)}")
    twice = next((word for word in words if words.count(word) > 1), None)
    if twice:
        raise UsageError(f"--words: {twice!r} is given twice")
    return words


def _splits(names: Sequence[str], content: dict[str, bytes], path: Path) -> tuple[dict[str, str], str]:
    """Return the split of every recording, and the rule it came from: `lists` or `which_set`."""
    lists = {s: file for s, file in LIST_OF_SPLIT.items() if file in content}
    if not lists:
        return {name: which_set(name) for name in names}, "which_set"
    if len(lists) < len(LIST_OF_SPLIT):
        raise DataError(f"{path}: {' and '.join(LIST_OF_SPLIT.values())} belong together, and one is missing")
    listed = {split: _lines(content[file], f"{path}: {file}") for split, file in lists.items()}
    both = sorted(listed["val"] & listed["test"])
    if both:
        raise DataError(f"{path}: {both[0]!r} is in both lists, so it has no split")
    if not (listed["val"] | listed["test"]) & set(names):
        raise DataError(f"{path}: {' and '.join(LIST_OF_SPLIT.values())} name none of the recordings in it")
    splits = {n: "val" if n in listed["val"] else "test" if n in listed["test"] else "train" for n in names}
    return splits, "lists"


def _lines(content: bytes, name: str) -> set[str]:
    try:
        return {line.strip().removeprefix("./") for line in content.decode().splitlines() if line.strip()}
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not a text file: {error}") from error


def _clip(name: str, splits: dict[str, str], size_bytes: int) -> Clip:
    word = _word(name)
    speaker, marked, _ = PurePosixPath(name).name.partition("_nohash_")
    noise = word == NOISE_WORD
    return Clip(
        key=re.sub(r"[^A-Za-z0-9_/-]", "_", name[: -len(".wav")]),
        word=word,
        speaker=speaker if marked and not noise else "",
        split=NOISE_SPLIT if noise else splits[name],
        size_bytes=size_bytes,
    )


def _by_key(clips: dict[str, Clip], path: Path) -> dict[str, str]:
    name_of_key: dict[str, str] = {}
    for name, clip in clips.items():
        other = name_of_key.setdefault(clip.key, name)
        if other != name:
            raise DataError(f"{path}: {other!r} and {name!r} would both be called {clip.key!r}; rename one")
    return name_of_key
