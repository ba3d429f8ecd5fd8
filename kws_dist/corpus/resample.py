"""Change of sampling rate for whole short recordings, in numpy."""

from math import ceil, gcd

import numpy as np
from numpy.typing import NDArray

_PASSBAND = 0.95  # of the lower Nyquist frequency; above it a half cosine falls to zero, against ringing
_BLOCK_MULTIPLE = 16  # makes the FFT length a product of small primes, which is fast
_LONG_BLOCKS = 4096  # from here on the length is chosen with more care
_GUARD_S = 0.01  # zeros at the end, so that what rings around the ends does not meet


def resample(wave: NDArray[np.floating], from_hz: int, to_hz: int) -> NDArray[np.float64]:
    """Resample `(samples,)` to `(ceil(samples * to_hz / from_hz),)`.

    The Fourier transform of the whole recording, zero-padded at the end, is cut (or extended) at the lower of the
    two Nyquist frequencies: exact for band-limited sound, without aliases and without delay.
    """
    common = gcd(from_hz, to_hz)
    up, down = to_hz // common, from_hz // common
    blocks = ceil((wave.size + _GUARD_S * from_hz) / down / _BLOCK_MULTIPLE) * _BLOCK_MULTIPLE
    if blocks > _LONG_BLOCKS:
        blocks = _smooth(blocks)
    bins = blocks * min(up, down) // 2 + 1
    position = np.linspace(0.0, 1.0, bins)  # 1 is the lower Nyquist frequency
    window = 0.5 + 0.5 * np.cos(np.pi * np.clip((position - _PASSBAND) / (1.0 - _PASSBAND), 0.0, 1.0))
    spectrum = np.fft.rfft(wave.astype(np.float64), blocks * down)[:bins] * window
    resampled = np.fft.irfft(spectrum, blocks * up) * (up / down)
    return resampled[: ceil(wave.size * up / down)]


def _smooth(number: int) -> int:
    """Return the next 2^k, 3 * 2^k or 5 * 2^k: a Fourier transform of another length can take ten times the memory."""
    return min(factor << max(-(-number // factor) - 1, 0).bit_length() for factor in (1, 3, 5))
