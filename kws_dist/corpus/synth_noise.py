"""Six background noises made with numpy, so that noise augmentation needs no recordings."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kws_dist.corpus.clip import SAMPLE_RATE_HZ, Samples
from kws_dist.corpus.synth_clip import CLIP_SAMPLES, Utterance, manner_of, say, to_pcm, uniforms

NOISE_SAMPLES = 30 * SAMPLE_RATE_HZ
"""Every noise lasts half a minute."""
NOISES = ("babble", "brown", "gusts", "hum", "pink", "white")

_PEAK = 0.5  # of full scale
_LOWEST_HZ = 20.0  # below it the spectra are flat: nothing is heard there, and brown noise would be all drift
_GUSTS_S = 2.0  # how fast the loudness of the gusts changes
_HUM_HARMONICS = 12
_TALK_WORDS = 400  # words spoken in half a minute of babble: about eight people at once
_TALK_DISTINCT = 100
_TALK = (
    "about after again always animal another answer around because before better between brother butter "
    "century children city close color country different dinner early earth enough evening family father "
    "finger follow forest friend garden general group happen history hundred important island kitchen "
    "language letter machine matter minute morning mother mountain music nation never number office "
    "orange other paper pattern people picture power problem question quick remember river science season "
    "second sentence simple sister special station story summer system table teacher together travel "
    "under usual valley village voice water weather window winter woman world yellow"
)


def noise(name: str, *, seed: int, vocabulary: Sequence[str], voices: Sequence[str]) -> Samples:
    """Return the noise of that name, one of `NOISES`: `(NOISE_SAMPLES,)`.

    The babble is spoken by `voices` in words that are not in the vocabulary.
    """
    if name == "babble":
        wave = _babble(seed, vocabulary, voices)
    elif name == "hum":
        wave = _hum(seed)
    elif name == "gusts":
        wave = _coloured(seed, name, exponent=1.0) * _slow_loudness(seed)
    else:
        wave = _coloured(seed, name, exponent={"white": 0.0, "pink": 1.0, "brown": 2.0}[name])
    return to_pcm(_PEAK * wave / np.abs(wave).max())


def _coloured(seed: int, name: str, *, exponent: float) -> NDArray[np.float64]:
    """Noise whose power falls as 1 / frequency^exponent."""
    spectrum = np.fft.rfft(2.0 * uniforms(NOISE_SAMPLES, "noise", seed, name) - 1.0)
    frequency_hz = np.fft.rfftfreq(NOISE_SAMPLES, 1.0 / SAMPLE_RATE_HZ)
    spectrum *= np.maximum(frequency_hz, _LOWEST_HZ) ** (-exponent / 2.0)
    spectrum[0] = 0.0
    return np.fft.irfft(spectrum, NOISE_SAMPLES)


def _slow_loudness(seed: int) -> NDArray[np.float64]:
    """A gain between 0.05 and 1 that changes smoothly, as wind and passing cars do."""
    seconds = np.arange(NOISE_SAMPLES) / SAMPLE_RATE_HZ
    knots = uniforms(int(seconds[-1] / _GUSTS_S) + 2, "gusts", seed)
    left = (seconds / _GUSTS_S).astype(int)
    ease = 0.5 - 0.5 * np.cos(np.pi * (seconds / _GUSTS_S - left))
    return 0.05 + 0.95 * (knots[left] + ease * (knots[left + 1] - knots[left]))


def _hum(seed: int) -> NDArray[np.float64]:
    """Mains hum of 50 Hz with harmonics of falling strength, and a little hiss."""
    seconds = np.arange(NOISE_SAMPLES) / SAMPLE_RATE_HZ
    phases, strengths = uniforms(2 * _HUM_HARMONICS, "hum", seed).reshape(2, -1)
    wave = 0.02 * (2.0 * uniforms(NOISE_SAMPLES, "noise", seed, "hum") - 1.0)
    for harmonic in range(1, _HUM_HARMONICS + 1):
        strength = (0.3 + strengths[harmonic - 1]) / harmonic
        wave += strength * np.sin(2.0 * np.pi * (50.0 * harmonic * seconds + phases[harmonic - 1]))
    return wave


def _babble(seed: int, vocabulary: Sequence[str], voices: Sequence[str]) -> NDArray[np.float64]:
    known = {word.lower() for word in vocabulary}
    words = [word for word in _TALK.split() if word not in known]
    chosen = uniforms(2 * _TALK_DISTINCT, "talk", seed).reshape(-1, 2)
    spoken = []
    for place, (word, voice) in enumerate(chosen):
        utterance = Utterance(seed, words[int(word * len(words))], voices[int(voice * len(voices))], place)
        spoken.append(say(utterance.word, manner_of(utterance), CLIP_SAMPLES))
    wave = np.zeros(NOISE_SAMPLES)
    for which, when in uniforms(2 * _TALK_WORDS, "babble", seed).reshape(-1, 2):
        sound = spoken[int(which * len(spoken))]
        start = int(when * NOISE_SAMPLES)
        wave[np.arange(start, start + sound.size) % NOISE_SAMPLES] += sound  # round the end: no quiet edges
    return wave
