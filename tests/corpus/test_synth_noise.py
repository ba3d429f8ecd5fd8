"""The synthesised background noises: six kinds, long enough, loud enough, true to their names, without the words."""

import numpy as np
import pytest
from tiny_corpus import read_all

from kws_dist.corpus import synth_noise
from kws_dist.corpus.clip import NOISE_SPLIT, NOISE_WORD, Clip, Samples
from kws_dist.corpus.synth import Synth
from kws_dist.corpus.synth_noise import NOISES, noise

pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [clip for clip in Synth(["yes"], voices=3, per_word=3).clips if clip.split == NOISE_SPLIT]


@pytest.fixture(scope="module")
def audio(clips: list[Clip]) -> dict[str, Samples]:
    return read_all(Synth(["yes"], voices=3, per_word=3), [clip.key for clip in clips])


def test_there_are_six_noises_of_20_to_60_seconds(clips: list[Clip], audio: dict[str, Samples]) -> None:
    assert [clip.key for clip in clips] == [f"{NOISE_WORD}/{name}" for name in NOISES]
    assert len({samples.tobytes() for samples in audio.values()}) == 6
    for clip in clips:
        samples = audio[clip.key]
        assert clip.word == NOISE_WORD
        assert samples.dtype == np.int16
        assert samples.nbytes == clip.size_bytes
        assert 20 * 16_000 <= samples.size <= 60 * 16_000


def test_no_noise_is_faint_clipped_or_silent_for_long(audio: dict[str, Samples]) -> None:
    for samples in audio.values():
        assert np.abs(samples.astype(int)).max() == pytest.approx(0.5 * 32_768, rel=0.01)
        loudness = samples.reshape(-1, 16_000).astype(float).std(axis=1)  # of each second
        assert loudness.min() > 0.001 * 32_768


@pytest.mark.parametrize(("name", "fall_db"), [("white", 0), ("pink", 9), ("brown", 18)])
def test_coloured_noises_fall_by_0_3_and_6_db_an_octave(name: str, fall_db: float, audio: dict[str, Samples]) -> None:
    power = np.square(np.abs(np.fft.rfft(audio[f"{NOISE_WORD}/{name}"].astype(float))))
    hz = np.linspace(0, 8_000, power.size)
    at_500_hz, at_4_khz = (power[(hz > f / 1.4) & (hz < f * 1.4)].mean() for f in (500, 4_000))
    assert 10 * np.log10(at_500_hz / at_4_khz) == pytest.approx(fall_db, abs=1)


def test_nobody_in_the_babble_says_a_word_of_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    say = synth_noise.say
    monkeypatch.setattr(synth_noise, "say", lambda word, *rest: (said.append(word), say(word, *rest))[1])
    vocabulary = ["Water", "window", "yellow"]
    noise("babble", seed=0, vocabulary=vocabulary, voices=["f2", "m1"])
    assert len(set(said)) > 20
    assert not {word.lower() for word in vocabulary} & set(said)
