"""Words cut out of utterances: where a clip begins and ends, and which words are drawn as `_unknown_`."""

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from kws_dist.corpus.clip import SAMPLE_RATE_HZ
from kws_dist.corpus.recordings import Span
from kws_dist.corpus.utterances import Utterance
from kws_dist.errors import ClipError

_SHORTEST_S = 0.01  # a frame of the aligner; nobody says a word in less


class Occurrence(NamedTuple):
    """A word in an utterance."""

    utterance: Utterance
    place: int
    """Which of its words."""

    @property
    def word(self) -> str:
        """As `folded` returns it."""
        return self.utterance.alignment.words[self.place]

    @property
    def start_s(self) -> float:
        """When it begins."""
        return self.utterance.alignment.starts_s[self.place]

    @property
    def mark(self) -> str:
        """What no other word of the corpus is called: `84-121123-0000-00490`, the utterance and the start in ms."""
        return f"{self.utterance.id}-{int(1000 * self.start_s + 0.5):05d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """How words are cut out."""

    margin_s: float
    """How much is kept before and after a word."""
    clip_s: float
    """How long a clip may be."""
    crop: bool
    """Whether a longer word is cropped to its loudest part; otherwise it is an error."""

    def span(self, occurrence: Occurrence) -> Span:
        """Return where the clip of a word lies: the word with its margins, of which nothing but the word is promised.

        A margin ends at the ends of the utterance and in the middle of the neighbouring word, so that no more than
        half of another word is ever heard, and it is shortened, on both sides alike, where the clip would be too
        long. Raises `ClipError`, with the reason alone, for a word that cannot be a clip.
        """
        utterance, place = occurrence
        starts_s, ends_s = utterance.alignment.starts_s, utterance.alignment.ends_s
        start_s, end_s = starts_s[place], min(ends_s[place], utterance.seconds)
        if end_s - start_s < _SHORTEST_S:
            raise ClipError(f"the word lasts {max(0.0, end_s - start_s):.3f} s by its alignment, as no word does")
        if round((end_s - start_s) * SAMPLE_RATE_HZ) > round(self.clip_s * SAMPLE_RATE_HZ):
            if self.crop:
                return Span(name=utterance.name, start_s=start_s, end_s=end_s, loudest=True)
            raise ClipError(f"the word lasts {end_s - start_s:.2f} s, longer than a clip of {self.clip_s:g} s")
        first_s = (starts_s[place - 1] + ends_s[place - 1]) / 2 if place else 0.0
        last_s = (starts_s[place + 1] + ends_s[place + 1]) / 2 if place + 1 < len(starts_s) else utterance.seconds
        before_s = start_s - max(first_s, start_s - self.margin_s)
        after_s = min(last_s, utterance.seconds, end_s + self.margin_s) - end_s
        room_s = max(0.0, self.clip_s - (end_s - start_s))
        share = min(1.0, room_s / (before_s + after_s)) if before_s + after_s else 1.0
        return Span(name=utterance.name, start_s=start_s - share * before_s, end_s=end_s + share * after_s)


def drawn(utterances: Sequence[Utterance], keywords: Collection[str], cut: Cut) -> Iterator[tuple[Occurrence, Span]]:
    """Yield the words that are no keywords, and can be clips, in the order in which they are to be drawn.

    No word comes twice before every other word has come once, and so on: the words are to be many and different. The
    rest is decided by a hash of each one's mark, so it depends on neither order nor seed.
    """
    hashes, words, owners, places = array("Q"), array("q"), array("q"), array("q")  # not objects: there are millions
    number: dict[str, int] = {}
    for owner, utterance in enumerate(utterances):
        for place, word in enumerate(utterance.alignment.words):
            if word not in keywords:
                hashes.append(xxhash.xxh3_64_intdigest(Occurrence(utterance, place).mark.encode()))
                words.append(number.setdefault(word, len(number)))
                owners.append(owner)
                places.append(place)
    for i in _draw_order(np.array(words), np.array(hashes)):
        occurrence = Occurrence(utterances[owners[i]], places[i])
        try:
            yield occurrence, cut.span(occurrence)
        except ClipError:
            continue


def _draw_order(words: NDArray[np.int64], hashes: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Return the order `(occurrences,)` of words, given as numbers."""
    by_word = np.lexsort((hashes, words))
    first = np.flatnonzero(np.diff(words[by_word], prepend=-1))  # where each word begins
    turn = np.arange(len(by_word)) - np.repeat(first, np.diff(first, append=len(by_word)))
    return by_word[np.lexsort((hashes[by_word], turn))]
