"""Recordings as users have them: any format, rate and number of channels, in folders and archives."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray
from tiny_corpus import tone, wav_file

Wave = NDArray[np.float64]
Mode = Literal["CONSTANT", "VARIABLE", "AVERAGE"]


def sine(seconds: float = 1.0, *, rate_hz: int = 16_000, tone_hz: float = 1000.0, level: float = 0.5) -> Wave:
    """Return a sine `(samples,)` in [-1, 1]."""
    return level * np.sin(2 * np.pi * tone_hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def encoded(wave: NDArray[np.generic], rate_hz: int = 16_000, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """Return a file with `(samples,)` or `(samples, channels)`, as libsndfile writes it."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


def mp3(wave: NDArray[np.generic], rate_hz: int = 16_000, mode: Mode = "CONSTANT") -> bytes:
    """Return an MP3 with `(samples,)` or `(samples, channels)`; its first frame says how many follow it."""
    file = io.BytesIO()
    channels = wave.shape[1] if wave.ndim == 2 else 1
    with soundfile.SoundFile(
        file, "w", rate_hz, channels, format="MP3", bitrate_mode=mode, compression_level=0.6
    ) as sound:
        for first in range(0, len(wave), 4000):
            sound.write(wave[first : first + 4000])
    return file.getvalue()


def without_count(content: bytes) -> bytes:
    """Return an MP3 without the frame that says how long it is, as `lame -t` and all that cuts MP3s make them."""
    assert any(name in content[:60] for name in (b"Info", b"Xing"))
    return content[content.index(content[:2], 4) :]


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
