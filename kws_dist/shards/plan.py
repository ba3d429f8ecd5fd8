"""Which clip goes into which shard, and where in it: a pure function of the clips, the shard size and the seed."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from kws_dist.corpus.clip import NOISE_SPLIT, NOISE_WORD, SPLITS, Clip, Source
from kws_dist.errors import DataError, UsageError
from kws_dist.shards.codec import Codec
from kws_dist.shards.record import KEY

NOISE_CLIPS_PER_SHARD = 16  # noise recordings last a minute or more, a word one second


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard to be: its file name and its clips in the order they are written."""

    name: str
    split: str
    clips: tuple[Clip, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides the bytes of a dataset, except the audio."""

    shards: tuple[ShardPlan, ...]
    words: tuple[str, ...]
    seed: int
    codec: Codec
    id: str
    """A hash of the above and of the source's checksum; 32 hex digits. Equal ids promise equal shards."""

    def label(self, clip: Clip) -> int:
        """Index of the clip's word in the vocabulary; -1 for noise."""
        return -1 if clip.split == NOISE_SPLIT else self.words.index(clip.word)


def make_plan(source: Source, *, shard_clips: int, seed: int, codec: Codec = "wav") -> Plan:
    """Deal the clips of every split over shards of at most `shard_clips` clips."""
    if shard_clips < 1:
        raise UsageError(f"--shard_clips {shard_clips}: a shard holds at least 1 clip")
    words = tuple(source.words)
    _check_clips(source.clips, words)
    shards: list[ShardPlan] = []
    for split in (*SPLITS, NOISE_SPLIT):
        clips = [clip for clip in source.clips if clip.split == split]
        most = NOISE_CLIPS_PER_SHARD if split == NOISE_SPLIT else shard_clips
        dealt = deal(clips, shard_count=-(-len(clips) // most), seed=seed)
        shards += (ShardPlan(f"{split}-{i:06d}.tar", split, tuple(hand)) for i, hand in enumerate(dealt))
    rows = [(shard.name, [(c.key, c.word, c.speaker) for c in shard.clips]) for shard in shards]
    identity = json.dumps([rows, words, seed, codec, _without_paths(source.provenance)], sort_keys=True)
    return Plan(tuple(shards), words, seed, codec, hashlib.sha256(identity.encode()).hexdigest()[:32])


def _without_paths(about: Any) -> Any:
    """Leave out where things lie, so that a renamed archive is still the same archive."""
    if not isinstance(about, dict):
        return about
    return {name: _without_paths(value) for name, value in about.items() if name != "path"}


def deal(clips: Sequence[Clip], *, shard_count: int, seed: int) -> list[list[Clip]]:
    """Deal clips like cards, word after word, so that shards differ by at most one clip, and by one per word.

    Each word's clips are first put in an order that depends on nothing but the seed and their keys. Inside a
    shard, clip i of the m clips of a word stands at (i + u) / m of the way, u uniform in [0, 1): every prefix of
    a shard then holds its words in the shard's proportions, within one clip.
    """
    by_word: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: (_uniform(f"{seed}:{clip.key}"), clip.key)):
        by_word[clip.word].append(clip)
    hands: list[list[Clip]] = [[] for _ in range(shard_count)]
    for turn, clip in enumerate(clip for word in sorted(by_word) for clip in by_word[word]):
        hands[turn % shard_count].append(clip)
    return [_spread(hand, seed) for hand in hands]


def _spread(hand: Sequence[Clip], seed: int) -> list[Clip]:
    total, seen = Counter(clip.word for clip in hand), Counter[str]()
    placed: list[tuple[float, str, Clip]] = []
    for clip in hand:
        place = (seen[clip.word] + _uniform(f"{seed}:place:{clip.key}")) / total[clip.word]
        placed.append((place, clip.key, clip))
        seen[clip.word] += 1
    return [clip for _, _, clip in sorted(placed, key=lambda row: row[:2])]


def _uniform(text: str) -> float:
    return xxhash.xxh3_64_intdigest(text.encode()) / 2.0**64


def _check_clips(clips: Sequence[Clip], words: Sequence[str]) -> None:
    """Hold a source to what `Clip` promises, since everything after this builds on it."""
    if not any(clip.split in SPLITS for clip in clips):
        raise DataError("the source has no clips")
    if not words or len(set(words)) < len(words):
        raise DataError(f"the source's vocabulary is empty or names a word twice: {', '.join(words)}")
    known, keys = set(words), set[str]()
    for clip in clips:
        expected = {NOISE_WORD} if clip.split == NOISE_SPLIT else known
        faults = {
            "its key may hold only letters, digits, _ - and /": not KEY.fullmatch(clip.key),
            "its key is used twice": clip.key in keys,
            f"there is no split {clip.split!r}": clip.split not in (*SPLITS, NOISE_SPLIT),
            f"its word {clip.word!r} is not in the vocabulary": clip.word not in expected,
            "its word or speaker holds characters that cannot be printed": not clip.word.isprintable()
            or not clip.speaker.isprintable(),
        }
        for fault, found in faults.items():
            if found:
                raise DataError(f"clip {clip.key!r}: {fault}")
        keys.add(clip.key)
