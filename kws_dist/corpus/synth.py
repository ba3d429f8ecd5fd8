"""A corpus that needs no download: words spoken by the espeak-ng synthesiser in many voices.

A voice is a speaker, and a speaker is in one split only, so validation and test are done on voices never heard in
training. Clips are made when they are read, and each is a pure function of seed, word, voice and repetition.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice
from itertools import count as numbers
from pathlib import Path
from typing import Any

from kws_dist.corpus import espeak
from kws_dist.corpus.clip import NOISE_SPLIT, NOISE_WORD, SPLITS, UNKNOWN_WORD, Clip, Rejected, Samples
from kws_dist.corpus.confusable import NearMiss, near_misses
from kws_dist.corpus.synth_clip import CLIP_SAMPLES, Utterance, manner_of, render, uniforms
from kws_dist.corpus.synth_noise import NOISE_SAMPLES, NOISES, noise
from kws_dist.errors import UsageError

_VOICE_NAMES = (
    "Alex Andrea Andy Annie AnxiousAndy Denis Diogo Gene Henrique Hugo Jacky Lee Marco Mario Michael Mike "
    "Mr_serious Nguyen RicishayMax Storm Tweaky adam anika antonio aunty belinda boris croak david ed edward "
    "f1 f2 f3 f4 f5 fast grandma grandpa gustave iven iven2 iven3 iven4 john klatt klatt3 klatt4 "
    "linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max miguel mike2 norbert pablo paul pedro quincy rob robert sandro "
    "shelby steph travis victor zac"
)
VOICES = tuple(_VOICE_NAMES.split())
"""The speakers: espeak-ng's voice variants, with `_` for a space, but without

- those that hardly sound human: whisper, whisperf, Alicia (all breath), Demonic, UniRobot, anikaRobot, robosoft to
  robosoft8, and announcer, RicishayMax2 and RicishayMax3, whose echo says the word twice;
- ian and kaukovalta, of which a model of human speech (97 % on people it never heard) understood 70 % and 53 %,
  against 90 % of all voices;
- Reed and caleb, whose noise cannot be seeded, so that they sound different on each run;
- near copies of a voice that is kept, which would carry a training speaker into the test split: Gene2, benjamin,
  edward2, klatt2, klatt5, klatt6, michel, steph2, steph3.
"""

_WORD = re.compile(r"[A-Za-z0-9' -]*[A-Za-z0-9][A-Za-z0-9' -]*")

Speakers = dict[str, list[str]]
"""Split -> its voices."""


class Synth:
    """A `Source` of synthesised words and of six background noises.

    `voices` speakers of `VOICES` are dealt to train, val and test in the proportions of `split_shares`; each word
    has `per_word` clips, spread evenly over the speakers. With `confusable`, so many words that sound like the
    words, but are none of them, are spoken as `_unknown_`: together as often, and by the same speakers, as a word.
    Raises `UsageError` if espeak-ng is not installed, if a word cannot be spoken, or if the numbers leave a split
    without a word or a confusable word without a clip.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        voices: int = len(VOICES),
        per_word: int = 200,
        seed: int = 0,
        split_shares: tuple[int, int, int] = (80, 10, 10),
        confusable: int = 0,
    ) -> None:
        _check_words(words)
        self._keywords = tuple(words)
        self._seed = seed
        self._parameters = {"voices": voices, "per_word": per_word, "seed": seed, "split_shares": [*split_shares]}
        self._speakers = _dealt(voices, split_shares, seed)
        _check_spread(self._speakers, per_word)
        self._near_misses = _near_misses(words, confusable, per_word)
        self._utterances: dict[str, Utterance] = {}
        clips = [_noise_clip(name) for name in NOISES]
        for word in words:
            clips += self._clips_of(word, per_word)
        if self._near_misses:
            clips += self._unknown_clips(per_word)
        self._clips = sorted(clips, key=lambda clip: clip.key)

    @property
    def clips(self) -> Sequence[Clip]:
        """All clips, sorted by key."""
        return self._clips

    @property
    def words(self) -> Sequence[str]:
        """The vocabulary in label order, `_unknown_` before the words."""
        return (UNKNOWN_WORD, *self._keywords) if self._near_misses else self._keywords

    @property
    def provenance(self) -> dict[str, Any]:
        """The synthesiser's version and the parameters, which together determine every clip."""
        about = {"kind": "synth", "espeak_ng": espeak.version(), "words": [*self._keywords], **self._parameters}
        if self._near_misses:
            about["near_misses"] = [[miss.word, miss.nearest, round(miss.distance, 3)] for miss in self._near_misses]
        return about

    @property
    def rejected(self) -> Sequence[Rejected]:
        """Nothing is ever left out."""
        return ()

    @property
    def state(self) -> str:
        """`provenance` says all."""
        return ""

    def staged(self, keys: Collection[str], folder: Path) -> AbstractContextManager[None]:  # noqa: ARG002
        """Prepare the synthesiser; clips are made when they are read."""
        espeak.prepare()
        return nullcontext()

    def read(self, key: str) -> Samples:
        """Return the samples of a clip: `(16000,)` for a word, `(480000,)` for a noise.

        Raises `DataError` naming word and voice if a word cannot be said within a second.
        """
        if key in self._utterances:
            return render(self._utterances[key])
        return self._noise(key.removeprefix(f"{NOISE_WORD}/"))

    def _noise(self, name: str) -> Samples:
        return noise(name, seed=self._seed, vocabulary=self._keywords, voices=self._speakers["train"])

    def _clips_of(self, word: str, per_word: int) -> Iterator[Clip]:
        order = _speaking_order(self._speakers, self._seed, word)
        turns: Counter[str] = Counter()
        for turn in range(per_word):
            split, voice = order[turn % len(order)]
            utterance = Utterance(self._seed, word, voice, turns[voice])
            turns[voice] += 1
            yield self._clip(f"{_folder(word)}/{_mark(utterance)}", utterance, word, split)

    def _unknown_clips(self, count: int) -> Iterator[Clip]:
        """Every near miss is spoken before one is spoken again, then in another order, so by another voice."""
        order = _speaking_order(self._speakers, self._seed, UNKNOWN_WORD)
        near = [miss.word for miss in self._near_misses]
        rounds = (_shuffled(near, "near misses", self._seed, number) for number in numbers())
        repetitions: Counter[tuple[str, str]] = Counter()
        for turn, word in enumerate(islice(chain.from_iterable(rounds), count)):
            split, voice = order[turn % len(order)]
            utterance = Utterance(self._seed, word, voice, repetitions[word, voice])
            repetitions[word, voice] += 1
            yield self._clip(f"{UNKNOWN_WORD}/{word}_{_mark(utterance)}", utterance, UNKNOWN_WORD, split)

    def _clip(self, key: str, utterance: Utterance, word: str, split: str) -> Clip:
        self._utterances[key] = utterance
        return Clip(key=key, word=word, speaker=utterance.voice, split=split, size_bytes=2 * CLIP_SAMPLES)


def _noise_clip(name: str) -> Clip:
    key = f"{NOISE_WORD}/{name}"
    return Clip(key=key, word=NOISE_WORD, speaker="", split=NOISE_SPLIT, size_bytes=2 * NOISE_SAMPLES)


def _mark(utterance: Utterance) -> str:
    return f"{utterance.voice}_{manner_of(utterance).accent}_{utterance.repetition:03d}"


def _near_misses(words: Sequence[str], confusable: int, per_word: int) -> list[NearMiss]:
    if not 0 <= confusable <= per_word:
        raise UsageError(
            f"confusable is {confusable}: {UNKNOWN_WORD} has as many clips as a word, {per_word}, so at least 0 and"
            f" at most {per_word} words can be spoken in it"
        )
    return near_misses(words, confusable) if confusable else []


def _folder(word: str) -> str:
    return re.sub(r"[^a-z0-9-]", "_", word.lower())


def _check_words(words: Sequence[str]) -> None:
    if not words:
        raise UsageError("synthesised speech needs at least one word, such as yes,no")
    first: dict[str, str] = {}
    for word in words:
        if not _WORD.fullmatch(word):
            raise UsageError(f"cannot synthesise {word!r}: a word is made of the letters a-z, digits, spaces, ' and -")
        if _folder(word) in first:
            raise UsageError(f"the words {first[_folder(word)]!r} and {word!r} are the same: name each word once")
        first[_folder(word)] = word


def _shuffled(items: Sequence[str], *key: int | str) -> list[str]:
    order: list[int] = uniforms(len(items), "shuffle", *key).argsort().tolist()
    return [items[i] for i in order]


def _dealt(voices: int, shares: tuple[int, int, int], seed: int) -> Speakers:
    """Choose that many voices and give each to one split."""
    if not len(SPLITS) <= voices <= len(VOICES):
        raise UsageError(
            f"voices is {voices}: at least {len(SPLITS)} are needed, one for each split, and there are {len(VOICES)}"
        )
    if min(shares) < 1:
        raise UsageError(f"split_shares is {shares}: train, val and test each need a share of at least 1")
    missing = {name.replace("_", " ") for name in VOICES} - espeak.voices()
    if missing:
        raise UsageError(
            f"the installed espeak-ng lacks the voices {', '.join(sorted(missing))}: "
            "pip install --upgrade espeakng-loader"
        )
    chosen = _shuffled(VOICES, "voices", seed)[:voices]
    val = max(1, round(voices * shares[1] / sum(shares)))
    test = max(1, round(voices * shares[2] / sum(shares)))
    if val + test >= voices:
        raise UsageError(f"split_shares {shares} leave none of {voices} voices for train: ask for more voices")
    return {"test": chosen[:test], "val": chosen[test : test + val], "train": chosen[test + val :]}


def _speaking_order(speakers: Speakers, seed: int, word: str) -> list[tuple[str, str]]:
    """All (split, voice) in an order of which every beginning has the splits about in proportion."""
    order = []
    for split, voices in speakers.items():
        for rank, voice in enumerate(_shuffled(voices, "order", seed, word)):
            order.append(((rank + 0.5) / len(voices), split, voice))
    return [(split, voice) for _, split, voice in sorted(order)]


def _check_spread(speakers: Speakers, per_word: int) -> None:
    order = [split for split, _ in _speaking_order(speakers, 0, "")]
    needed = 1 + max(order.index(split) for split in SPLITS)
    if per_word < needed:
        raise UsageError(
            f"per_word is {per_word}: with {len(order)} voices each word needs at least {needed} clips "
            "to be in train, val and test"
        )
