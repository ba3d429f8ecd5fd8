"""One synthesised clip: how it is spoken, and the way from the synthesiser's sound to one second of samples.

Everything is a pure function of the `Utterance`, so a clip is the same whenever and wherever it is made.
"""

from dataclasses import astuple, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_intdigest

from kws_dist.corpus import espeak
from kws_dist.corpus.clip import SAMPLE_RATE_HZ, Samples
from kws_dist.corpus.resample import resample
from kws_dist.errors import DataError

CLIP_SAMPLES = SAMPLE_RATE_HZ
"""Every clip lasts one second."""

_RATE_WPM = (135.0, 205.0)
_PITCH = (30.0, 75.0)
_PITCH_RANGE = (30.0, 70.0)
_PEAK = (0.45, 0.9)  # of full scale: 6 dB between the quietest and the loudest clip
_PLACE = (0.25, 0.75)  # of the room left in the second: recordings have the word about in the middle
_HISS_DB = (-75.0, -55.0)  # of full scale: no recording is silent to the last bit, and log features would show it

_SILENCE = 0.005  # of the peak (-46 dB): what is quieter before and after the word is cut off
_MARGIN_S = 0.01  # kept on both sides of what is cut
_HURRY = 1.15  # how much faster a word is said again that did not fit
_FULL_SCALE = 32_767


@dataclass(frozen=True, slots=True)
class Utterance:
    """Which clip it is."""

    seed: int
    word: str
    voice: str
    """A voice variant of espeak-ng, with `_` for a space."""
    repetition: int
    """Counts the clips of this word and voice."""


def uniforms(count: int, *key: int | str) -> NDArray[np.float64]:
    """Return `count` numbers in [0, 1) that depend on the key alone.

    Philox's raw bits are used because numpy promises never to change them, as it does not for distributions.
    """
    raw = np.random.Philox(key=xxh3_128_intdigest(repr(key).encode())).random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def manner_of(utterance: Utterance) -> espeak.Manner:
    """Draw how the utterance is spoken."""
    accent, rate, pitch, pitch_range, breath = uniforms(5, "manner", *astuple(utterance))
    accents = sorted(espeak.ACCENTS)
    return espeak.Manner(
        accent=accents[int(accent * len(accents))],
        voice=utterance.voice.replace("_", " "),
        rate_wpm=round(_between(_RATE_WPM, rate)),
        pitch=round(_between(_PITCH, pitch)),
        pitch_range=round(_between(_PITCH_RANGE, pitch_range)),
        breath_seed=int(breath * 2**31),
    )


def render(utterance: Utterance) -> Samples:
    """Return the clip, `(CLIP_SAMPLES,)`: the word at a drawn loudness and place, over a faint hiss.

    Raises `DataError` if the word cannot be said in a second.
    """
    peak, place, hiss_db = uniforms(3, "recording", *astuple(utterance))
    spoken = say(utterance.word, manner_of(utterance), CLIP_SAMPLES)
    hiss = 10.0 ** (_between(_HISS_DB, hiss_db) / 20.0)
    wave = hiss * (2.0 * uniforms(CLIP_SAMPLES, "hiss", *astuple(utterance)) - 1.0)
    start = int(_between(_PLACE, place) * (CLIP_SAMPLES - spoken.size))
    wave[start : start + spoken.size] += _between(_PEAK, peak) * spoken
    return to_pcm(wave)


def say(word: str, manner: espeak.Manner, limit_samples: int) -> NDArray[np.float64]:
    """Say `word` without the silence around it: `(samples,)` at 16 kHz, peak 1, at most `limit_samples`.

    A word that is too long is said again, faster. Raises `DataError` if even the fastest is too long, or if
    nothing is heard.
    """
    rate_wpm = manner.rate_wpm
    while True:
        sound = _trimmed(espeak.speak(word, replace(manner, rate_wpm=rate_wpm)))
        if sound.size == 0:
            raise DataError(f"the word {word!r} is silent in voice {manner.voice!r}, accent {manner.accent!r}")
        if sound.size * SAMPLE_RATE_HZ <= limit_samples * espeak.NATIVE_RATE_HZ:
            wave = resample(sound, espeak.NATIVE_RATE_HZ, SAMPLE_RATE_HZ)
            return wave / np.abs(wave).max()
        if rate_wpm == espeak.FASTEST_WPM:
            raise DataError(
                f"the word {word!r} does not fit into {limit_samples / SAMPLE_RATE_HZ:g} s in voice "
                f"{manner.voice!r}, accent {manner.accent!r}, however fast: choose a shorter word"
            )
        rate_wpm = min(round(rate_wpm * _HURRY), espeak.FASTEST_WPM)


def to_pcm(wave: NDArray[np.float64]) -> Samples:
    """Round `(samples,)` in [-1, 1] to int16."""
    return np.clip(np.rint(wave * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE).astype(np.int16)


def _trimmed(sound: NDArray[np.int16]) -> NDArray[np.float64]:
    wave = sound.astype(np.float64)
    loud = np.flatnonzero(np.abs(wave) > _SILENCE * np.abs(wave).max(initial=0.0))
    if loud.size == 0:
        return np.zeros(0)
    margin = int(_MARGIN_S * espeak.NATIVE_RATE_HZ)
    return wave[max(0, loud[0] - margin) : loud[-1] + 1 + margin]


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + share * (limits[1] - limits[0])
