"""Resampling keeps what the new rate can hold, removes the rest, and neither shifts nor stretches."""

import numpy as np
import pytest

from kws_dist.corpus.resample import resample


def tone(frequency_hz: float, rate_hz: int, samples: int) -> np.ndarray:
    return np.sin(2 * np.pi * frequency_hz * np.arange(samples) / rate_hz)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(22_050, 16_000), (48_000, 16_000), (8_000, 16_000)])
@pytest.mark.parametrize("frequency_hz", [100, 1_000, 3_700])
def test_a_tone_stays_the_same_tone(from_hz: int, to_hz: int, frequency_hz: float) -> None:
    got = resample(tone(frequency_hz, from_hz, from_hz), from_hz, to_hz)
    assert got.shape == (to_hz,)
    inside = slice(to_hz // 10, -to_hz // 10)  # the tone starts and stops abruptly: look away from the ends
    np.testing.assert_allclose(got[inside], tone(frequency_hz, to_hz, to_hz)[inside], atol=1e-4)


@pytest.mark.parametrize("frequency_hz", [8_100, 9_000, 10_900])
def test_what_the_new_rate_cannot_hold_is_gone(frequency_hz: float) -> None:
    got = resample(tone(frequency_hz, 22_050, 22_050), 22_050, 16_000)
    assert np.abs(got[1_600:-1_600]).max() < 1e-4


def test_the_same_rate_and_no_sound_at_all_come_through() -> None:
    assert resample(np.zeros(0), 22_050, 16_000).shape == (0,)
    wave = tone(440, 16_000, 5_000)
    np.testing.assert_allclose(resample(wave, 16_000, 16_000)[500:-500], wave[500:-500], atol=1e-4)
