"""New words beside old ones: recordings of the new, clips of the old from finished shards, as one `Source`."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from kws_dist.corpus.audio import SUFFIXES
from kws_dist.corpus.clip import NOISE_SPLIT, NOISE_WORD, SPLITS, UNKNOWN_WORD, Clip, Rejected, Samples, Source
from kws_dist.corpus.container import is_hidden
from kws_dist.corpus.folder import open_folder
from kws_dist.corpus.look_through import look_through, suffix_of
from kws_dist.corpus.open_container import open_container
from kws_dist.corpus.word_folders import layout_of
from kws_dist.errors import ClipError, DataError, UsageError
from kws_dist.shards.read import Dataset, Rows, pcm_of, verify_record

KIND = "added words"
LEAST_TO_TEST = 8
"""With fewer recordings of a word all are for training."""
FEW = 5
"""With fewer recordings of a word a warning is due."""

_TESTED, _NOT_TESTED = "80/0/20", "100/0/0"
_SAMPLE_BYTES = 2
_ADDED = "added"  # what the keys of new recordings begin with, so that none is that of an old clip


@dataclass(frozen=True, kw_only=True)
class OldClips:
    """The clips of the old words that are kept, and why others are not."""

    place: dict[Clip, tuple[Rows, int]]
    """Where each of them is."""
    left_out: Counter[str]
    """Clips of the new words among `_unknown_`, by split: they are no longer unknown."""
    untold: int
    """Clips of `_unknown_` of which the key does not tell the word, so that it may be a new one."""


def open_new(root: Path, *, clip_seconds: float, speaker_from: str | None, split: str | None) -> list[Source]:
    """List the recordings of the new words in a folder or an archive with one folder for each, as several sources.

    Where neither folders nor `split` (such as `80/0/20`) say it, a fifth of a word's recordings is for the test, at
    least two, if there are eight or more of it; else none. Raises `UsageError` if there are no recordings.
    """

    def listed(words: Sequence[str] | None, shares: str | None) -> Source:
        return open_folder(root, words=words, speaker_from=speaker_from, split=shares, clip_seconds=clip_seconds)

    if split is not None or _has_splits(root):
        return [listed(None, split)]
    counts = counts_of([listed(None, _NOT_TESTED)])
    enough = [word for word in counts if counts[word].total() >= LEAST_TO_TEST]
    too_few = [word for word in counts if word not in enough]
    return [listed(words, shares) for words, shares in ((enough, _TESTED), (too_few, _NOT_TESTED)) if words]


def counts_of(new: Sequence[Source]) -> dict[str, Counter[str]]:
    """Return how many recordings of each new word are in each split; the words are sorted."""
    counts: dict[str, Counter[str]] = {word: Counter() for word in sorted(w for source in new for w in source.words)}
    for clip in (clip for source in new for clip in source.clips if clip.word != NOISE_WORD):
        counts[clip.word][clip.split] += 1
    return counts


def check_new_words(counts: dict[str, Counter[str]], known: Collection[str], root: Path, run_dir: Path) -> None:
    """Raise `UsageError` for words that the run knows already, and for those without a recording to train on."""
    again = [word for word in counts if word in known]
    if again:
        raise UsageError(
            f"--root {root}: --run_dir {run_dir} knows {', '.join(again)} already; take it out, or to train with more"
            " recordings of known words make shards of all and begin with this run: --init_from"
        )
    for word, count in counts.items():
        if not count["train"]:
            raise UsageError(f"--root {root}: there is no recording of {word!r} to train on, only {dict(count)}")


def choose_old(
    dataset: Dataset, words: Sequence[str], new_words: Collection[str], *, clips_per_word: int, seed: int
) -> OldClips:
    """Choose the clips of the old `words` that go along: all held-out ones, all noise, and of the training clips
    `clips_per_word` of each word, drawn by the seed; 0 is all.

    Clips of the `new_words` among `_unknown_` are left out, however the case of their folder is spelt.
    """
    tells, new = _keys_tell_words(dataset.meta["source"]), {word.casefold() for word in new_words}
    place: dict[Clip, tuple[Rows, int]] = {}
    left_out, untold = Counter[str](), 0
    for split in (*dataset.splits, NOISE_SPLIT):
        rows = dataset.rows(split)
        of_word: defaultdict[str, list[int]] = defaultdict(list)
        for row, (key, label) in enumerate(zip(rows.keys, rows.label.tolist(), strict=True)):
            word = NOISE_WORD if split == NOISE_SPLIT else dataset.words[label]
            folder = key.removeprefix(f"{_ADDED}/").partition("/")[0]
            if word == UNKNOWN_WORD and tells and folder.casefold() in new:
                left_out[split] += 1
                continue
            untold += word == UNKNOWN_WORD and (not tells or folder == UNKNOWN_WORD)
            of_word[word].append(row)
        for word in (NOISE_WORD,) if split == NOISE_SPLIT else words:
            chosen = of_word[word]
            if split == "train" and clips_per_word:
                chosen = sorted(chosen, key=lambda row: _place_of(rows.keys[row], seed))[:clips_per_word]
            place |= {_clip(rows, row, word, split): (rows, row) for row in chosen}
    gone = set(words) - {clip.word for clip in place if clip.split == "train"}
    if gone:
        raise UsageError(f"{dataset.root}: of {', '.join(sorted(gone))} it has no training clips but of new words")
    return OldClips(place=place, left_out=left_out, untold=untold)


class Joined:
    """Old clips and new recordings; a `Source`. Noise among the new recordings is left out."""

    def __init__(
        self,
        dataset: Dataset,
        old: OldClips,
        new: Sequence[Source],
        words: Sequence[str],
        *,
        about: dict[str, Any],
        skip_damaged: bool = False,
    ) -> None:
        """`words`: old and new in label order. `about`: what `dataset.json` is to say, besides whence the clips come.

        `skip_damaged`: leave damaged clips out, listed in rejected.jsonl, instead of raising `DataError`.
        """
        self.words = tuple(words)
        self._new = {
            f"{_ADDED}/{clip.key}": (source, clip) for source in new for clip in source.clips if clip.split in SPLITS
        }
        self._old = {clip.key: where for clip, where in old.place.items()}
        self._skip_damaged = skip_damaged
        renamed = [_renamed(clip, key) for key, (_, clip) in self._new.items()]
        self.clips: tuple[Clip, ...] = tuple(sorted([*old.place, *renamed], key=lambda clip: clip.key))
        self.rejected: tuple[Rejected, ...] = tuple(sorted({*new[0].rejected}, key=lambda row: (row.name, row.reason)))
        self.provenance: dict[str, Any] = {
            "kind": KIND,
            **about,
            "left_out_of_unknown": dict(old.left_out),
            "silence": dataset.meta["source"].get("silence", False),  # by the rule, so that training draws it anew
            "old": {"path": str(dataset.root), "digest": dataset.digest, "source": dataset.meta["source"]},
            "new": [source.provenance for source in new],
        }
        self.state = " ".join([dataset.digest, *(source.state for source in new)])

    @contextmanager
    def staged(self, keys: Collection[str], folder: Path) -> Iterator[None]:
        """Make the new recordings readable in any order; the old clips always are."""
        by_source: dict[int, tuple[Source, list[str]]] = {}
        for key in set(keys).intersection(self._new):
            source, clip = self._new[key]
            by_source.setdefault(id(source), (source, []))[1].append(clip.key)
        with ExitStack() as stack:
            for source, its_keys in by_source.values():
                stack.enter_context(source.staged(its_keys, folder))
            yield

    def read(self, key: str) -> Samples:
        """Return the samples `(samples,)` of a staged clip; an old one is checked against its index."""
        if key in self._new:
            source, clip = self._new[key]
            return source.read(clip.key)
        rows, row = self._old[key]
        path = rows.shard_paths[rows.shard[row]]
        try:
            with path.open("rb") as file:
                file.seek(int(rows.record_offset[row]))
                record = file.read(int(rows.record_bytes[row]))
            verify_record(rows, row, record)
        except (OSError, DataError) as error:
            damage = f"{path} cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
            raise (ClipError if self._skip_damaged else DataError)(damage) from None
        return pcm_of(rows, row, record)


def _has_splits(root: Path) -> bool:
    forms, faults = look_through(
        open_container(root, "--root"), lambda name: suffix_of(name) in SUFFIXES and not is_hidden(name)
    )
    return layout_of([*forms, *faults], (), f"--root {root}").has_splits


def _keys_tell_words(source: dict[str, Any]) -> bool:
    """Whether the first folder of a key is the word that was spoken, also of a clip that counts as unknown."""
    while source["kind"] == KIND:
        source = source["old"]["source"]
    return source["kind"] == "speech-commands"


def _clip(rows: Rows, row: int, word: str, split: str) -> Clip:
    size_bytes = _SAMPLE_BYTES * int(rows.n_samples[row])
    return Clip(key=rows.keys[row], word=word, speaker=rows.speaker[row], split=split, size_bytes=size_bytes)


def _renamed(clip: Clip, key: str) -> Clip:
    return Clip(key=key, word=clip.word, speaker=clip.speaker, split=clip.split, size_bytes=clip.size_bytes)


def _place_of(key: str, seed: int) -> tuple[int, str]:
    return xxhash.xxh3_64_intdigest(f"rehearsal:{seed}:{key}".encode()), key
