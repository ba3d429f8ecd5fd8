"""Words that sound alike: phonemes from the synthesiser, distances that agree with the ear, near misses in `Synth`."""

# ruff: noqa: RUF001 (IPA has letters that look like others)

import hashlib
import pickle
import random
from collections import Counter

import numpy as np
import pytest
from tiny_corpus import read_all

from kws_dist.corpus import espeak
from kws_dist.corpus.clip import SPLITS, UNKNOWN_WORD, Clip
from kws_dist.corpus.confusable import common_words, near_misses
from kws_dist.corpus.phonemes import distance, phonemes, split_ipa, substitution_cost
from kws_dist.corpus.synth import Synth
from kws_dist.errors import DataError, UsageError

pytest.importorskip("espeakng_loader")

WORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]


def far(one: str, other: str) -> float:
    return distance(*phonemes([one, other], "en-us"))


def test_the_phonemes_of_a_word_have_no_stress_and_no_length() -> None:
    said = phonemes(["stop", "chair", "water", "little", "fire", "hey there, it's me", "2"], "en-us")
    assert ["-".join(word) for word in said] == [
        "s-t-ɑ-p", "tʃ-ɛ-ɹ", "w-ɔ-ɾ-ə-ɹ", "l-ɪ-ɾ-ə-l", "f-aɪ-ə-ɹ", "h-eɪ-ð-ɛ-ɹ-ɪ-t-s-m-i", "t-u",
    ]  # fmt: skip
    assert split_ipa("b_ˈʌ_ʔ_n̩") == ("b", "ʌ", "ʔ", "n")
    assert phonemes([], "en-us") == []


def test_phonemes_carry_no_state_from_one_word_to_the_next() -> None:
    words = common_words()[::7]
    together = dict(zip(words, espeak.ipa(words, "en-gb"), strict=True))
    shuffled = random.Random(0).sample(words, len(words))
    assert dict(zip(shuffled, espeak.ipa(shuffled, "en-gb"), strict=True)) == together
    assert all(espeak.ipa([word], "en-gb") == [together[word]] for word in words[::20])


def test_an_accent_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DataError, match="fr"):
        espeak.ipa(["yes"], "fr")


@pytest.mark.parametrize("accent", sorted(espeak.ACCENTS))
def test_every_phoneme_of_the_common_words_is_known(accent: str) -> None:
    """A phoneme that is in neither table would be as far from its like as from any other."""
    there = {phoneme for word in phonemes(common_words(), accent) for phoneme in word}
    assert all(any(substitution_cost(one, near) < 1 for near in ("t", "s", "ə")) for one in there)


def test_a_distance_is_0_for_the_same_sound_symmetric_and_at_most_1() -> None:
    words = common_words()[::40]
    sounds = phonemes(words, "en-us")
    for one in sounds:
        for other in sounds:
            assert 0 <= distance(one, other) <= 1
            assert distance(one, other) == pytest.approx(distance(other, one))
            assert (distance(one, other) == 0) == (one == other)
    assert far("no", "know") == 0
    assert distance((), ("t",)) == pytest.approx(0.7)
    assert distance((), ()) == 0


@pytest.mark.parametrize(
    ("word", "nearer", "farther"),
    [
        ("go", "doe", "see"),  # stops in another place, against other sounds
        ("go", "goat", "goldfish"),
        ("stop", "stock", "stick"),
        ("stop", "top", "up"),
        ("left", "lift", "loud"),
        ("bed", "bad", "bird"),  # neighbouring vowels
        ("two", "do", "moo"),  # voicing is less than nasality and place
        ("down", "town", "brown"),
    ],
)
def test_words_that_sound_more_alike_are_nearer(word: str, nearer: str, farther: str) -> None:
    assert 0 < far(word, nearer) < far(word, farther)


def test_the_common_words_are_plain_sorted_unique_and_many() -> None:
    words = common_words()
    assert words == sorted(set(words))
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    assert 1_500 <= len(words) <= 2_500
    syllables = [sum(phoneme[0] in "aeiouæɐɑɒɔəɛɜɪʊʌᵻ" for phoneme in word) for word in phonemes(words, "en-us")]
    assert np.mean(np.array(syllables) <= 2) > 0.95


def test_near_misses_are_the_nearest_words_spread_over_the_keywords() -> None:
    misses = near_misses(WORDS, 100)
    assert len({miss.word for miss in misses}) == 100
    assert set(Counter(miss.nearest for miss in misses).values()) == {10}
    for miss in misses:
        assert (
            miss.distance == pytest.approx(min(far(miss.word, word) for word in WORDS)) == far(miss.word, miss.nearest)
        )
    for word in WORDS:
        own = [miss.distance for miss in misses if miss.nearest == word]
        assert own == sorted(own)
    assert [miss.nearest for miss in misses[:10]] == WORDS
    assert {"yet", "town", "lift", "stock", "goat", "cup"} <= {miss.word for miss in misses}
    assert near_misses(WORDS, 30) == misses[:30]


def test_a_word_that_sounds_like_a_keyword_in_any_accent_is_no_near_miss() -> None:
    near = {miss.word for miss in near_misses([*WORDS, "Two", "farther", "Worship"], 1_500)}
    assert not near & {*WORDS, "worship", "know", "write", "rite", "wright", "to", "too", "two", "farther", "father"}


def test_of_near_misses_that_sound_the_same_one_is_enough() -> None:
    near = [miss.word for miss in near_misses(WORDS, 1_500)]
    assert len(set(phonemes(near, "en-us"))) == 1_500


def test_more_near_misses_than_there_are_words_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="confusable is 5000: there are 2,"):
        near_misses(["yes"], 5_000)


# In a synthesised corpus.

SETTINGS = {"voices": 20, "per_word": 40, "seed": 3}


@pytest.fixture(scope="module")
def source() -> Synth:
    return Synth(WORDS[:3], **SETTINGS, confusable=15)


def unknown(source: Synth) -> list[Clip]:
    return [clip for clip in source.clips if clip.word == UNKNOWN_WORD]


def test_without_confusable_words_the_clips_are_those_of_earlier_versions() -> None:
    clips = repr(Synth(["yes", "no"], voices=5, per_word=6, seed=3).clips)
    expected = "848140456408764ae71abec3e5da4a9f861668fa62c1625dab88450c16a19170"  # of the version before them
    assert hashlib.sha256(clips.encode()).hexdigest() == expected


def test_the_other_clips_are_what_they_are_without_confusable_words(source: Synth) -> None:
    plain = Synth(WORDS[:3], **SETTINGS)
    others = [clip for clip in source.clips if clip.word != UNKNOWN_WORD]
    assert others == list(plain.clips)
    keys = [clip.key for clip in others[:: len(others) // 12]]
    assert any(key.endswith("babble") for key in keys)
    want, got = read_all(plain, keys), read_all(source, keys)
    assert all(np.array_equal(want[key], got[key]) for key in keys)


def test_unknown_words_come_first_and_are_as_many_as_a_keyword_in_every_split(source: Synth) -> None:
    assert source.words == (UNKNOWN_WORD, *WORDS[:3])
    counts = {word: Counter(clip.split for clip in source.clips if clip.word == word) for word in source.words}
    assert set(counts[UNKNOWN_WORD]) == set(SPLITS)
    assert all(count == counts[UNKNOWN_WORD] for count in counts.values())


def test_every_near_miss_is_spoken_about_equally_often_by_many_voices(source: Synth) -> None:
    clips = unknown(source)
    spoken = Counter(clip.key.split("/")[1].split("_")[0] for clip in clips)
    assert len(spoken) == 15
    assert max(spoken.values()) - min(spoken.values()) <= 1
    assert set(Counter(clip.speaker for clip in clips).values()) == {2}
    assert len({clip.key for clip in clips}) == 40


def test_no_voice_of_an_unknown_word_is_in_another_split(source: Synth) -> None:
    split_of = {clip.speaker: clip.split for clip in source.clips if clip.word in WORDS}
    assert all(split_of[clip.speaker] == clip.split for clip in unknown(source))


def test_the_key_of_an_unknown_clip_names_the_word_and_the_audio_is_that_word(source: Synth) -> None:
    key = next(clip.key for clip in unknown(source) if clip.key.startswith("_unknown_/yet_"))
    [samples] = read_all(source, [key]).values()
    assert samples.shape == (16_000,)
    word = Synth(["yet"], **SETTINGS)
    same_voice = [clip.key for clip in word.clips if clip.key.split("/")[1] == key.removeprefix("_unknown_/yet_")]
    assert len(same_voice) == 1
    np.testing.assert_array_equal(samples, word.read(same_voice[0]))


def test_the_provenance_lists_the_near_misses(source: Synth) -> None:
    about = source.provenance
    assert about["words"] == WORDS[:3]
    assert len(about["near_misses"]) == 15
    word, nearest, apart = about["near_misses"][0]
    assert (word, nearest) == ("yet", "yes")
    assert 0 < apart < 0.2
    assert "near_misses" not in Synth(WORDS[:3], **SETTINGS).provenance


def test_a_corpus_with_confusable_words_can_be_sent_to_other_processes(source: Synth) -> None:
    key = unknown(source)[0].key
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read(key), source.read(key))


@pytest.mark.parametrize("confusable", [-1, 41])
def test_more_confusable_words_than_clips_is_wrong_use(confusable: int) -> None:
    with pytest.raises(UsageError, match=f"confusable is {confusable}: .*at most 40"):
        Synth(WORDS, **SETTINGS, confusable=confusable)


def test_every_near_miss_of_the_ten_words_can_be_said_in_a_second() -> None:
    source = Synth(WORDS, voices=3, per_word=100, confusable=100)
    keys = [clip.key for clip in unknown(source)]
    assert all(np.abs(samples.astype(int)).max() > 10_000 for samples in read_all(source, keys).values())
