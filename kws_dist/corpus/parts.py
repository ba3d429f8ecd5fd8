"""The containers that a Speech Commands source is put together from: the corpus itself, and a test set of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kws_dist.corpus.clip import NOISE_WORD, Clip
from kws_dist.corpus.container import Container
from kws_dist.corpus.layout import LIST_OF_SPLIT, clip_of, keep_in, recordings_among, split_of_names, word_of
from kws_dist.corpus.tar import TarArchive
from kws_dist.corpus.tree import Tree
from kws_dist.errors import DataError, UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A container, and what is used of it."""

    container: Container
    clips: dict[str, Clip]
    """By name of the recording."""
    refused: dict[str, str]
    """Files that are left out, and why."""
    lists: list[str] = field(default_factory=list)
    """Names of the other files used."""

    @property
    def names(self) -> list[str]:
        """All files used."""
        return [*self.clips, *self.lists]


class Corpus:
    """The recordings that are there, before any is chosen."""

    def __init__(self, archive: Path | None, root: Path | None) -> None:
        self.container = _container(archive, root)
        self._lists: dict[str, bytes] = {}
        self._listing = self.container.scan(keep_in(self._lists, LIST_OF_SPLIT.values()))
        names = recordings_among(self._listing.size_bytes, self.container.path)
        self.split_of, self.split_rule = split_of_names(names, self._lists, self.container.path)
        self.words = sorted({word_of(name) for name in names} - {NOISE_WORD})

    def part(self, words: Mapping[str, str]) -> Part:
        """Return the recordings `words`, a word for each name."""
        clips = {
            name: clip_of(name, word=word, split=self.split_of[name], size_bytes=self._listing.size_bytes[name])
            for name, word in words.items()
        }
        return Part(container=self.container, clips=clips, refused=self._listing.refused, lists=[*self._lists])


def canonical_test(path: Path, labels: Sequence[str]) -> Part:
    """Return the clips of a canonical test archive: `<label>/<recording>.wav` for every label, all of them for test.

    Their names may end in `.wav.wav`. Raises `UsageError` naming the labels that it has no folder for.
    """
    if not path.is_file():
        raise UsageError(f"--test_archive {path}: there is no such file")
    container = TarArchive(path)
    listing = container.scan()
    names = recordings_among(listing.size_bytes, path)
    there = {word_of(name) for name in names}
    missing = [label for label in labels if label not in there]
    if missing:
        raise UsageError(
            f"--test_archive {path}: it has no folder {', '.join(map(repr, missing))}, which the task needs;"
            f" the folders there are: {', '.join(sorted(there))}"
        )
    clips = {
        name: clip_of(name, word=word_of(name), split="test", size_bytes=listing.size_bytes[name])
        for name in names
        if word_of(name) in labels
    }
    return Part(container=container, clips=clips, refused=listing.refused)


def places(parts: Sequence[Part]) -> dict[str, tuple[int, str]]:
    """Return where every clip lies, by key: the number of its part, and its name.

    Raises `DataError` for a key that comes twice.
    """
    found: dict[str, tuple[int, str]] = {}
    for number, part in enumerate(parts):
        for name, clip in part.clips.items():
            other_number, other = found.setdefault(clip.key, (number, name))
            if number != other_number:
                raise DataError(
                    f"{part.container.path}: {name!r} is a test recording, and {parts[other_number].container.path}"
                    f" has it as {parts[other_number].clips[other].split}; a test set must not be trained on"
                )
            if name != other:
                raise DataError(
                    f"{part.container.path}: {other!r} and {name!r} would both be called {clip.key!r}; rename one"
                )
    return found


def _container(archive: Path | None, root: Path | None) -> Container:
    if archive is not None and root is None:
        return TarArchive(archive)
    if root is not None and archive is None:
        return Tree(root)
    raise UsageError("pass either --archive FILE.tar.gz or --root DIR")
