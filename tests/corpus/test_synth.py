"""The synthesised corpus: the same bytes always, one second each, no voice in two splits, words that can be told."""

import hashlib
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import read_all

from kws_dist.corpus import espeak
from kws_dist.corpus.clip import NOISE_SPLIT, SPLITS, Clip, Samples
from kws_dist.corpus.synth import VOICES, Synth
from kws_dist.errors import DataError, UsageError

pytest.importorskip("espeakng_loader")

WORDS = ("yes", "no", "stop", "left")


def small() -> Synth:
    return Synth(WORDS, voices=20, per_word=30, seed=3)


@pytest.fixture(scope="module")
def source() -> Synth:
    return small()


@pytest.fixture(scope="module")
def audio(source: Synth) -> dict[str, Samples]:
    return read_all(source)


def spoken(source: Synth) -> list[Clip]:
    return [clip for clip in source.clips if clip.split != NOISE_SPLIT]


def fingerprint(audio: dict[str, Samples]) -> str:
    return hashlib.sha256(b"".join(key.encode() + audio[key].tobytes() for key in sorted(audio))).hexdigest()


def test_clips_are_sorted_and_keys_are_unique_and_plain(source: Synth) -> None:
    keys = [clip.key for clip in source.clips]
    assert keys == sorted(set(keys))
    assert all(character.isalnum() or character in "_-/" for key in keys for character in key)


def test_each_word_has_its_clips_spread_evenly_over_the_voices(source: Synth) -> None:
    for word in WORDS:
        turns = Counter(clip.speaker for clip in source.clips if clip.word == word)
        assert sum(turns.values()) == 30
        assert len(turns) == 20
        assert max(turns.values()) - min(turns.values()) <= 1


def test_no_voice_is_in_two_splits_and_every_word_is_in_each_split(source: Synth) -> None:
    splits_of: dict[str, set[str]] = defaultdict(set)
    for clip in spoken(source):
        splits_of[clip.speaker].add(clip.split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    for word in WORDS:
        assert {clip.split for clip in source.clips if clip.word == word} == set(SPLITS)


def test_a_clip_is_one_second_of_int16_neither_silent_nor_clipped(source: Synth, audio: dict[str, Samples]) -> None:
    for clip in spoken(source):
        samples = audio[clip.key]
        assert samples.dtype == np.int16
        assert samples.shape == (16_000,)
        assert samples.nbytes == clip.size_bytes
        assert 0.4 * 32_768 < np.abs(samples.astype(int)).max() < 0.95 * 32_768
        loud = np.flatnonzero(np.abs(samples.astype(int)) > 0.1 * 32_768)
        assert loud[-1] - loud[0] > 0.05 * 16_000  # the vowel of a quick "up" lasts 0.07 s


def test_clips_of_one_voice_and_word_differ() -> None:
    many = Synth(["yes"], voices=3, per_word=30)
    spoken_by_one = [clip for clip in many.clips if clip.speaker == many.clips[-1].speaker]
    sounds = {samples.tobytes() for _, samples in read_all(many, [clip.key for clip in spoken_by_one]).items()}
    assert len(sounds) == len(spoken_by_one) == 10
    assert len({clip.key.split("_")[-2] for clip in spoken_by_one}) > 2  # accents


def test_reading_in_another_order_gives_the_same_bytes(audio: dict[str, Samples]) -> None:
    order = np.random.default_rng(0).permutation(sorted(audio))[:40]
    again = small()
    for key in order:
        [(got, samples)] = read_all(again, [str(key)]).items()
        assert got == key
        np.testing.assert_array_equal(samples, audio[got])


def test_another_process_gives_the_same_bytes(audio: dict[str, Samples]) -> None:
    program = "import test_synth as t; print(t.fingerprint(t.read_all(t.small())))"
    # Freshly allocated memory is filled with a byte other than zero, so that a read of it would show.
    environment = {**os.environ, "MALLOC_PERTURB_": "165", "PYTHONPATH": str(Path(__file__).parents[1])}
    assert output_of(program, environment) == fingerprint(audio)


def output_of(program: str, environment: dict[str, str] | None = None) -> str:
    """Run a Python program in a process of its own, in the folder of this file."""
    command = [sys.executable, "-c", program]
    folder = Path(__file__).parent
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_threads_may_read_at_the_same_time(audio: dict[str, Samples]) -> None:
    keys = sorted(audio)[-24:]
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(lambda part: read_all(small(), part), [keys[i::4] for i in range(4)])
    for part in parts:
        for key, samples in part.items():
            np.testing.assert_array_equal(samples, audio[key])


def test_the_seed_changes_voices_and_sounds() -> None:
    one, other = (Synth(["yes"], voices=5, per_word=5, seed=seed) for seed in (1, 2))
    assert {clip.key for clip in one.clips} != {clip.key for clip in other.clips}


def test_every_voice_can_say_a_word_in_every_accent() -> None:
    assert {name.replace("_", " ") for name in VOICES} <= espeak.voices()
    for accent in espeak.ACCENTS:
        sound = espeak.speak("yes", espeak.Manner(accent=accent, voice="f2"))
        assert np.abs(sound.astype(int)).max() > 5_000


def test_an_unknown_voice_is_an_error_not_the_default_voice() -> None:
    with pytest.raises(DataError, match="nobody"):
        espeak.speak("yes", espeak.Manner(accent="en-us", voice="nobody"))


def test_words_are_told_apart_in_voices_never_heard(source: Synth, audio: dict[str, Samples]) -> None:
    """The nearest mean spectrogram of the training voices names the word far better than chance (1 in 4)."""
    pictures = {clip.key: picture(audio[clip.key]) for clip in spoken(source)}
    means = {
        word: np.mean([pictures[c.key] for c in source.clips if c.word == word and c.split == "train"], axis=0)
        for word in WORDS
    }
    held_out = [clip for clip in spoken(source) if clip.split != "train"]
    right = [
        min(WORDS, key=lambda word: float(np.square(pictures[clip.key] - means[word]).sum())) == clip.word
        for clip in held_out
    ]
    assert np.mean(right) > 0.6


def picture(samples: Samples) -> np.ndarray:
    """Log energies `(25, 20)` of 25 stretches of the word and 20 bands up to 8 kHz, around their mean."""
    loud = np.flatnonzero(np.abs(samples.astype(int)) > 0.02 * 32_768)
    word = samples[loud[0] : loud[-1]].astype(float)
    starts = np.linspace(0, word.size - 640, 25).astype(int)
    frames = np.stack([word[start : start + 640] for start in starts]) * np.hanning(640)
    power = np.square(np.abs(np.fft.rfft(frames)))[:, 1:]
    edges = np.geomspace(4, 321, 21).astype(int) - 1
    bands = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e4)
    return bands - bands.mean()


@pytest.mark.parametrize(
    ("words", "settings", "says"),
    [
        ([], {}, "at least one word"),
        (["yes", "no", "yes"], {}, "each word once"),
        (["Yes", "yes"], {}, "each word once"),
        (["caf\u00e9"], {}, "cannot synthesise"),
        (["-"], {}, "cannot synthesise"),
        (["<b>"], {}, "cannot synthesise"),
        (["yes"], {"voices": 2}, "at least 3"),
        (["yes"], {"voices": 10_000}, f"there are {len(VOICES)}"),
        (["yes"], {"per_word": 2, "voices": 40}, "needs at least"),
        (["yes"], {"split_shares": (80, 20, 0)}, "at least 1"),
        (["yes"], {"split_shares": (1, 50, 50), "voices": 4}, "more voices"),
    ],
)
def test_wrong_use_is_said_in_one_sentence(words: list[str], settings: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        Synth(words, **settings)
    assert "\n" not in str(caught.value)


def test_the_least_per_word_that_the_message_names_is_enough() -> None:
    with pytest.raises(UsageError, match=r"at least (\d+) clips") as caught:
        Synth(WORDS, per_word=1)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    source = Synth(WORDS, per_word=least)
    for word in WORDS:
        assert {clip.split for clip in source.clips if clip.word == word} == set(SPLITS)


def test_a_word_too_long_for_a_second_is_named_with_its_voice() -> None:
    source = Synth(["the quick brown fox jumps over the lazy dog again and again"], voices=3, per_word=3)
    with pytest.raises(DataError, match=r"the quick brown fox.*does not fit.*voice"):
        source.read(source.clips[-1].key)


def test_a_phrase_of_several_words_is_hurried_into_a_second() -> None:
    source = Synth(["hey there it's me"], voices=3, per_word=3)
    key = source.clips[-1].key
    samples = source.read(key)
    assert key.startswith("hey_there_it_s_me/")
    assert samples.shape == (16_000,)


def test_without_the_package_the_message_says_how_to_install_it() -> None:
    program = (
        "import sys; sys.modules['espeakng_loader'] = None\n"
        "from kws_dist.corpus.synth import Synth\n"
        "from kws_dist.errors import UsageError\n"
        "try: Synth(['yes'])\n"
        "except UsageError as error: print(error)\n"
    )
    message = output_of(program)
    assert "pip install 'kws_dist[quickstart]'" in message
    assert "\n" not in message


def test_generation_is_fast_enough_for_a_first_try(source: Synth) -> None:
    keys = [clip.key for clip in spoken(source)]
    start = time.perf_counter()
    count = len(read_all(source, keys))
    clips_per_s = count / (time.perf_counter() - start)
    print(f"{clips_per_s:.0f} clips/s")
    assert clips_per_s > 30  # several hundred on an idle core; a busy machine must not fail it
