"""Recordings as users have them: any format, rate and number of channels, in folders and archives."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from tiny_corpus import tone, wav_file

Wave = NDArray[np.float64]


def sine(seconds: float = 1.0, *, rate_hz: int = 16_000, tone_hz: float = 1000.0, level: float = 0.5) -> Wave:
    """Return a sine `(samples,)` in [-1, 1]."""
    return level * np.sin(2 * np.pi * tone_hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def encoded(wave: NDArray[np.generic], rate_hz: int = 16_000, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """Return a file with `(samples,)` or `(samples, channels)`, as libsndfile writes it."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


def word_files(words: tuple[str, ...] = ("no", "yes"), each: int = 10, *, prefix: str = "") -> dict[str, bytes]:
    """Return short 16 kHz recordings, `each` of every word, all different, by speakers `ann` and `bob` in turns."""
    return {
        f"{prefix}{word}/{'ann' if i % 2 else 'bob'}_{i}.wav": wav_file(tone(i + 100 * w, n_samples=400))
        for w, word in enumerate(words)
        for i in range(each)
    }


def zipped(path: Path, content: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a `.zip`."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path
