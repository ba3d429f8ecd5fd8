"""How words sound: their phonemes, by the synthesiser's own rules, and how far apart two words are.

Phonemes are compared as in ALINE (Kondrak, "A New Algorithm for the Alignment of Phonetic Sequences", NAACL 2000):
the more alike they are made, the less it costs to take one for the other. Its scales of place and manner of
consonants and its weights of them are kept. Its vowels, which are nearly free because they tell nothing about
cognates, are weighted here like consonants: `off` and `if` are two words.
"""

# ruff: noqa: RUF001, RUF003 (IPA has letters that look like others)

import re
from collections.abc import Sequence
from functools import cache

from kws_dist.corpus import espeak

Phonemes = tuple[str, ...]
"""A word: consonants such as `t` and `tʃ`, vowels such as `ɪ` and `aɪ`, in IPA without stress and length."""

_PLACE = {
    "labial": 1.0,
    "labiodental": 0.95,
    "dental": 0.9,
    "alveolar": 0.85,
    "palato-alveolar": 0.75,
    "palatal": 0.7,
    "velar": 0.6,
    "glottal": 0.1,
}
_MANNER = {
    "stop": 1.0,
    "nasal": 1.0,
    "affricate": 0.9,
    "fricative": 0.8,
    "approximant": 0.6,
    "lateral": 0.6,
    "retroflex": 0.6,
}
_VOICELESS = frozenset(["p", "t", "k", "ʔ", "tʃ", "f", "θ", "s", "ʃ", "h", "x", "ʍ"])
_CONSONANTS = {
    symbol: (place, manner)
    for manner, places in {
        "stop": {"labial": "p b", "alveolar": "t d ɾ", "velar": "k ɡ", "glottal": "ʔ"},
        "nasal": {"labial": "m", "alveolar": "n", "velar": "ŋ"},
        "affricate": {"palato-alveolar": "tʃ dʒ"},
        "fricative": {
            "labiodental": "f v",
            "dental": "θ ð",
            "alveolar": "s z",
            "palato-alveolar": "ʃ ʒ",
            "velar": "x",
            "glottal": "h",
        },
        "approximant": {"labial": "w ʍ", "palatal": "j"},
        "lateral": {"alveolar": "l"},
        "retroflex": {"alveolar": "ɹ r"},
    }.items()
    for place, symbols in places.items()
    for symbol in symbols.split()
}
_VOWELS = {  # height from open to close, backness from front to back, roundness: the chart of the IPA
    "i": (1.0, 0.0, 0), "ɪ": (0.85, 0.2, 0), "e": (0.65, 0.0, 0), "ɛ": (0.35, 0.0, 0), "æ": (0.15, 0.0, 0),
    "a": (0.0, 0.25, 0), "ᵻ": (0.85, 0.5, 0), "ə": (0.5, 0.5, 0), "ɜ": (0.35, 0.5, 0), "ɐ": (0.15, 0.5, 0),
    "ʉ": (1.0, 0.5, 1), "u": (1.0, 1.0, 1), "ʊ": (0.85, 0.8, 1), "o": (0.65, 1.0, 1), "ɔ": (0.35, 1.0, 1),
    "ɒ": (0.0, 1.0, 1), "ʌ": (0.35, 0.75, 0), "ɑ": (0.0, 1.0, 0),
}  # fmt: skip
_PHONEME = re.compile(f"tʃ|dʒ|[{''.join(_VOWELS)}]{{1,2}}|.")  # what espeak-ng calls one phoneme can be `aɪɚ`
_MARKS = re.compile("[ˈˌː:ʲ\u0329\u032a\\s]")  # stress, length, palatal, syllabic, dental, the space in a phrase

_DIFFERENT = 1.0  # the cost of any two phonemes that have nothing in common
_SKIPPED = 0.7  # ALINE: 10 for the skip, and half of the 35 that a match would have brought, of 40 for the place


def phonemes(words: Sequence[str], accent: str) -> list[Phonemes]:
    """Return the phonemes of every word in one of `espeak.ACCENTS`; `UsageError` if espeak-ng is not installed."""
    return [split_ipa(text) for text in espeak.ipa(words, accent)]


def split_ipa(text: str) -> Phonemes:
    """Split what `espeak.ipa` returns: `w_ˈɔː_ɾ_ɚ` is `w ɔ ɾ ə ɹ`."""
    plain = _MARKS.sub("", text).replace("ɚ", "əɹ")
    return tuple(phoneme for part in plain.split("_") for phoneme in _PHONEME.findall(part))


def distance(one: Phonemes, other: Phonemes) -> float:
    """Return the least cost of turning one word into the other per phoneme of the longer: 0 (the same) to 1."""
    costs = [_SKIPPED * i for i in range(len(other) + 1)]
    for phoneme in one:
        left, costs[0] = costs[0], costs[0] + _SKIPPED
        for i, another in enumerate(other, 1):
            cost = min(left + substitution_cost(phoneme, another), costs[i] + _SKIPPED, costs[i - 1] + _SKIPPED)
            left, costs[i] = costs[i], cost
    return costs[-1] / max(len(one), len(other), 1)


@cache
def substitution_cost(one: str, other: str) -> float:
    """Return how unlike two phonemes are made: 0 (the same) to 1, which a vowel and a consonant always are."""
    if one == other:
        return 0.0
    if one in _CONSONANTS and other in _CONSONANTS:
        return min(_DIFFERENT, _consonant_cost(one, other))
    if one[0] in _VOWELS and other[0] in _VOWELS:
        # A diphthong goes from its first vowel to its second; a plain vowel stays.
        return (_vowel_cost(one[0], other[0]) + _vowel_cost(one[-1], other[-1])) / 2
    return _DIFFERENT


def _consonant_cost(one: str, other: str) -> float:
    """ALINE's weights: place 40, manner 50; voice, nasal, lateral and retroflex 10 each; 40 is 1 here."""
    (place, manner), (other_place, other_manner) = _CONSONANTS[one], _CONSONANTS[other]
    contrasts = [(one in _VOICELESS) != (other in _VOICELESS)]
    contrasts += [(manner == kind) != (other_manner == kind) for kind in ("nasal", "lateral", "retroflex")]
    place_cost = abs(_PLACE[place] - _PLACE[other_place])
    return place_cost + 1.25 * abs(_MANNER[manner] - _MANNER[other_manner]) + 0.25 * sum(contrasts)


def _vowel_cost(one: str, other: str) -> float:
    height, backness, roundness = (abs(a - b) for a, b in zip(_VOWELS[one], _VOWELS[other], strict=True))
    return 0.55 * height + 0.35 * backness + 0.1 * roundness
