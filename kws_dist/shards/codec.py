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


def decode(audio: bytes | memoryview, codec: Codec, n_samples: int | None = None) -> Samples:
    """Return the samples (samples,) of `encode`; a view for WAV. Raises `ValueError` if it cannot be decoded.

    `n_samples`: how many its index says, so that no memory is taken for what else its header claims.
    """
    if codec == "wav":
        return np.frombuffer(audio, "<i2", offset=WAV_HEADER_BYTES)
    try:
        with soundfile.SoundFile(io.BytesIO(audio)) as sound:
            if n_samples not in (None, sound.frames):
                raise ValueError(f"it has {sound.frames:,} samples, and its index says {n_samples:,}")
            if (sound.samplerate, sound.channels) != (SAMPLE_RATE_HZ, 1):
                raise ValueError(f"it has {sound.samplerate} Hz and {sound.channels} channels")
            samples = sound.read(dtype="int16")
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ValueError(getattr(error, "error_string", str(error)).rstrip(".")) from error
    if n_samples not in (None, len(samples)):
        raise ValueError(f"it ends after {len(samples):,} samples, and its index says {n_samples:,}")
    return np.asarray(samples, np.int16)


def _wav_header(pcm_bytes: int) -> bytes:
    """Canonical RIFF header of mono 16-bit PCM."""
    riff_bytes = WAV_HEADER_BYTES - 8 + pcm_bytes
    form = (16, 1, 1, SAMPLE_RATE_HZ, 2 * SAMPLE_RATE_HZ, 2, 16)  # size, PCM, mono, rate, bytes/s, frame, bits
    return _WAV_HEADER.pack(b"RIFF", riff_bytes, b"WAVE", b"fmt ", *form, b"data", pcm_bytes)
