"""Words that sound like the words to be spotted, so that a model learns what is not one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path

from kws_dist.corpus import espeak
from kws_dist.corpus.phonemes import distance, phonemes
from kws_dist.errors import UsageError

_COMMON_WORDS = Path(__file__).with_name("common_words.txt")
_REFERENCE_ACCENT = "en-us"  # it speaks every r, so it keeps words apart that other accents make alike


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A word that could be taken for a keyword."""

    word: str
    nearest: str
    """The keyword that it is most like."""
    distance: float
    """How unlike they are: above 0, at most 1."""


def near_misses(words: Sequence[str], count: int) -> list[NearMiss]:
    """Return `count` common English words that sound like `words` but are none of them, each word's nearest first.

    Every keyword has its turn, so each gets its share as long as it has candidates. A homophone of a keyword in any
    accent (`know` for `no`, `father` for `farther`) is no near miss, and of two near misses that sound the same only
    one is taken. Raises `UsageError` if there are not as many.
    """
    ranked = _ranked(words, _unlike(words, common_words()))
    there = sum(map(len, ranked.values()))
    if not 0 <= count <= there:
        raise UsageError(f"confusable is {count}: there are {there:,} words to choose from")
    turns = (ranked[word][rank] for rank in numbers() for word in words if rank < len(ranked[word]))
    return [next(turns) for _ in range(count)]


def common_words() -> list[str]:
    """Return the candidates: common English words, mostly of one or two syllables, sorted."""
    return _COMMON_WORDS.read_text(encoding="utf-8").split()


def _unlike(words: Sequence[str], candidates: Sequence[str]) -> list[str]:
    """Leave out what is spelled like one of the words, or sounds like one in some accent."""
    left = sorted(set(candidates) - {word.lower() for word in words})
    for accent in espeak.ACCENTS:
        alike = set(phonemes(words, accent))
        left = [word for word, sound in zip(left, phonemes(left, accent), strict=True) if sound not in alike]
    return left


def _ranked(words: Sequence[str], candidates: Sequence[str]) -> dict[str, list[NearMiss]]:
    """Give every candidate that sounds like no other to the word that it is nearest to, the nearest first."""
    sounds = dict(zip(words, phonemes(words, _REFERENCE_ACCENT), strict=True))
    ranked: dict[str, list[NearMiss]] = {word: [] for word in words}
    different = dict(zip(reversed(phonemes(candidates, _REFERENCE_ACCENT)), reversed(candidates), strict=True))
    for sound, candidate in different.items():
        far = {word: distance(sound, sounds[word]) for word in words}
        nearest = min(words, key=lambda word: far[word])
        ranked[nearest].append(NearMiss(candidate, nearest, far[nearest]))
    for misses in ranked.values():
        misses.sort(key=lambda miss: (miss.distance, miss.word))
    return ranked
