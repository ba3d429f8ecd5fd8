"""The two forms in which the audio of a clip lies in a shard: 16-bit WAV, or FLAC at half the size."""

import io
import struct
from typing import Literal, get_args

import numpy as np
import soundfile

from kws_dist.corpus.clip import SAMPLE_RATE_HZ, Samples

Codec = Literal["wav", "flac"]
CODECS: tuple[Codec, ...] = get_args(Codec)
WAV_HEADER_BYTES = 44
_WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


def codec_named(name: str) -> Codec:
    """Return the codec of that name; raises `ValueError` for any other."""
    for codec in CODECS:
        if codec == name:
            return codec
    raise ValueError(f"the codec is {name!r}, and this program reads {', '.join(CODECS)}")


def encode(samples: Samples, codec: Codec) -> bytes:
    """Return the bytes of an audio file with the samples (samples,); FLAC's depend on the version of libFLAC."""
    if codec == "wav":
        pcm = samples.astype("<i2", copy=False).tobytes()
        return _wav_header(len(pcm)) + pcm
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def decode(audio: bytes | memoryview, codec: Codec) -> Samples:
    """Return the samples (samples,) of `encode`; a view for WAV. Raises `ValueError` if it cannot be decoded."""
    if codec == "wav":
        return np.frombuffer(audio, "<i2", offset=WAV_HEADER_BYTES)
    try:
        samples, rate_hz = soundfile.read(io.BytesIO(audio), dtype="int16")
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    if rate_hz != SAMPLE_RATE_HZ or samples.ndim != 1:
        raise ValueError(f"{rate_hz} Hz, {samples.shape}")
    return np.asarray(samples, np.int16)


def _wav_header(pcm_bytes: int) -> bytes:
    """Canonical RIFF header of mono 16-bit PCM."""
    riff_bytes = WAV_HEADER_BYTES - 8 + pcm_bytes
    form = (16, 1, 1, SAMPLE_RATE_HZ, 2 * SAMPLE_RATE_HZ, 2, 16)  # size, PCM, mono, rate, bytes/s, frame, bits
    return _WAV_HEADER.pack(b"RIFF", riff_bytes, b"WAVE", b"fmt ", *form, b"data", pcm_bytes)
