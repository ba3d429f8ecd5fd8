"""Google Speech Commands (Warden, arXiv:1804.03209), or any recordings laid out like it, as a `Source`.

`layout` tells what a name says, `tasks` which recordings are used and as which words, `silence` how silence is cut
from the noise.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kws_dist.corpus.clip import NOISE_SPLIT, Clip, Rejected, Samples
from kws_dist.corpus.download import OFFICIAL, Kind
from kws_dist.corpus.parts import Corpus, Part, canonical_test, places
from kws_dist.corpus.silence import Silence, training_part
from kws_dist.corpus.tasks import Choice, Task, Unknown, check_words, choose, task_called, task_of_words
from kws_dist.corpus.wav import samples_of_wav
from kws_dist.errors import UsageError

_KINDS: tuple[Kind, Kind] = ("main", "test")


class SpeechCommands:
    """The clips of an archive (streamed, never unpacked) or of a folder, and perhaps of the canonical test archive."""

    def __init__(
        self,
        archive: Path | None = None,
        *,
        root: Path | None = None,
        words: Sequence[str] | None = None,
        task: str | None = None,
        unknown: Unknown = "none",
        silence: bool = False,
        test_archive: Path | None = None,
    ) -> None:
        """List the recordings of a named `task`, or of `words` in label order; None is every word, sorted.

        `unknown` and `silence` go with `words`. The clips of `test_archive` take the place of the test split. Raises
        `UsageError` for a word that is not there, `DataError` for an archive that is damaged or hostile.
        """
        corpus = Corpus(archive, root)
        self.task = _task(corpus.words, words, task, unknown=unknown, silence=silence)
        check_words(self.task, corpus.words, str(corpus.container.path))
        own_test = test_archive is None
        choice = choose(self.task, {n: s for n, s in corpus.split_of.items() if own_test or s != "test"})
        self._parts = [corpus.part(choice.words)]
        if test_archive is not None:
            self._parts.append(canonical_test(test_archive, self.task.labels))
        self._place = places(self._parts)
        noise = [name for name, clip in self._parts[0].clips.items() if clip.split == NOISE_SPLIT]
        self._silence = Silence(noise, choice.silence, f"{corpus.container.path}: _background_noise_")
        clips = [*self._silence.clips, *(clip for part in self._parts for clip in part.clips.values())]
        self.clips: tuple[Clip, ...] = tuple(sorted(clips, key=lambda clip: clip.key))
        self.words: tuple[str, ...] = self.task.labels
        refused = [row for part in self._parts for row in part.refused.items()]
        self.rejected: tuple[Rejected, ...] = tuple(Rejected(name=name, reason=why) for name, why in sorted(refused))
        self.provenance: dict[str, Any] = _provenance(self.task, corpus.split_rule, choice, self._parts)
        self.state = "".join(part.container.state(part.names) for part in self._parts)

    @contextmanager
    def staged(self, keys: Collection[str], folder: Path) -> Iterator[None]:
        """One pass over an archive, whatever the number of clips; silence needs all noise recordings."""
        needed = [self._place[key] for key in keys if key not in self._silence]
        if len(needed) < len(keys):
            needed += [(0, name) for name in self._silence.noise]
        with ExitStack() as stack:
            for number, part in enumerate(self._parts):
                names = {name for where, name in needed if where == number}
                stack.enter_context(part.container.staged(sorted(names), folder))
            yield

    def read(self, key: str) -> Samples:
        """Return the samples `(samples,)` of a staged clip; of noise only what training may hear."""
        if key in self._silence:
            return self._silence.read(key, lambda name: self._samples(0, name))
        number, name = self._place[key]
        samples = self._samples(number, name)
        return training_part(samples) if self.task.silence and name in self._silence.noise else samples

    def _samples(self, number: int, name: str) -> Samples:
        return samples_of_wav(self._parts[number].container.read(name), name)


def _task(
    there: Sequence[str], words: Sequence[str] | None, task: str | None, *, unknown: Unknown, silence: bool
) -> Task:
    if task is None:
        return task_of_words(there if words is None else words, unknown=unknown, silence=silence)
    if words is not None or unknown != "none" or silence:
        raise UsageError(f"--task {task} says which words there are; leave out --words, --unknown and --silence")
    return task_called(task)


def _provenance(task: Task, split_rule: str, choice: Choice, parts: Sequence[Part]) -> dict[str, Any]:
    main, *test = (_origin(part, kind) for part, kind in zip(parts, _KINDS, strict=False))
    _check_versions([(task.flag, task.version), *((origin["path"], origin["official"]) for origin in (main, *test))])
    by_rule = "rule" if task.special else "testing list" if split_rule == "lists" else split_rule
    return {
        "kind": "speech-commands",
        **main,
        "split_rule": split_rule,
        "task": task.name or None,
        "unknown": task.unknown,
        "silence": task.silence,
        "test_set": "canonical archive" if test else by_rule,
        "test_archive": test[0] if test else None,
        "notes": choice.notes,
    }


def _check_versions(versions: Sequence[tuple[str, str | None]]) -> None:
    known = [(name, version) for name, version in versions if version]
    if len({version for _, version in known}) > 1:
        which = ", ".join(f"{name} is for version {version}" for name, version in known)
        raise UsageError(f"these do not belong together: {which}; take all of one version")


def _origin(part: Part, kind: Kind) -> dict[str, Any]:
    identity = part.container.identity(part.names)
    versions = (
        version
        for (version, its_kind), archive in OFFICIAL.items()
        if its_kind == kind and archive.sha256 == identity.get("sha256")
    )
    return {"path": part.container.path.resolve().name, **identity, "official": next(versions, None)}
