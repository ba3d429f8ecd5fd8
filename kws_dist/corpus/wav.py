"""Samples out of a WAV file, accepted only in the one form that the corpus promises."""

import io
import struct
import wave

import numpy as np

from kws_dist.corpus.clip import SAMPLE_RATE_HZ, Samples
from kws_dist.errors import DataError


def samples_of_wav(content: bytes, name: str) -> Samples:
    """Return the samples, shape (samples,), int16, of a WAV file with 16-bit mono PCM at 16 kHz.

    Anything else raises `DataError`, which calls the file `name` and says what is wrong with it.
    """
    try:
        with wave.open(io.BytesIO(content)) as file:
            form = file.getparams()
            pcm = file.readframes(form.nframes)
    except (wave.Error, EOFError, struct.error, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: not a PCM WAV file ({str(error) or 'it ends too early'})") from error
    faults = {
        f"{form.nchannels} channels, not 1": form.nchannels != 1,
        f"{8 * form.sampwidth}-bit samples, not 16-bit": form.sampwidth != 2,
        f"{form.framerate} Hz, not {SAMPLE_RATE_HZ}": form.framerate != SAMPLE_RATE_HZ,
        "no samples": form.nframes == 0,
        f"cut off after {len(pcm) // 2} of {form.nframes} samples": len(pcm) != 2 * form.nframes,
    }
    for fault, found in faults.items():
        if found:
            raise DataError(f"{name}: {fault}")
    return np.frombuffer(pcm, "<i2").astype(np.int16, copy=False)
