"""Recordings in any form that libsndfile reads (WAV, FLAC, OGG, Opus, MP3, AIFF ...), turned into 16 kHz mono PCM."""

import io
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from kws_dist.corpus.clip import SAMPLE_RATE_HZ, Samples
from kws_dist.corpus.cut_off import is_cut_off
from kws_dist.corpus.resample import resample
from kws_dist.corpus.wav import HEAD_BYTES, WavForm, is_clip_form, is_wav, pcm_of_wav, several, wav_form
from kws_dist.corpus.whole import seen_whole
from kws_dist.errors import ClipError

SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64")
"""Names of files that are taken for recordings."""
UNREADABLE_SUFFIXES = (".m4a", ".aac", ".mp4", ".3gp", ".3ga", ".amr", ".wma", ".webm")
"""Names of recordings that libsndfile does not read."""
LOUDEST = 100.0
"""Floats are in [-1, 1], and what lossy files decode to is hardly beyond; these are 16-bit numbers left undivided."""
_MAX_DECODED = 1 << 23  # samples at once, before or after resampling; with their spectrum they take some 300 MB
_LEAD_FRAMES = 20 * 1152  # of an MP3, decoded before a part: its frames lean on as many as 255 or 511 bytes can be
_FULL_SCALE = 32_768.0
_FRAME_LIMIT = 1 << 33  # a damaged header can claim any length; no recording lasts days


@dataclass(frozen=True, slots=True)
class AudioForm:
    """How a recording is stored."""

    frames: int
    """Samples per channel."""
    rate_hz: int
    channels: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / self.rate_hz

    @property
    def most_seconds(self) -> float:
        """How much of it can be decoded at once: 9 minutes at 16 kHz, 3 at 48 kHz, half of that in stereo."""
        return _MAX_DECODED / max(self.rate_hz * self.channels, SAMPLE_RATE_HZ)

    @property
    def clip_samples(self) -> int:
        """Its length in samples at 16 kHz."""
        return -(-self.frames * SAMPLE_RATE_HZ // self.rate_hz)


class Sound(soundfile.SoundFile):
    """An open recording that goes on where it was after each read.

    A `SoundFile` that can seek does so after each, and a decoder of MP3 that was moved lacks what the next frames take
    from those before: up to three of them are silent.
    """

    def seekable(self) -> bool:
        """Say no, so that nothing but a call of `seek` moves it."""
        return False


def audio_form(file: IO[bytes], size_bytes: int, name: str) -> AudioForm:
    """Find out how a recording of `size_bytes` is stored, reading no more of it than needed.

    Raises `ClipError`, which calls it `name`, if it cannot be read.
    """
    head = file.read(HEAD_BYTES)
    if is_wav(head):
        form = wav_form(head, size_bytes, name)
        if form is None:
            head += file.read()
            form = wav_form(head, size_bytes, name)
        assert form is not None, "the whole file tells"
        if form.tells_frames:
            return _checked(AudioForm(form.frames, form.rate_hz, form.channels), name)
    with _opened(head + file.read(), name) as sound:
        return _form_of(sound, name)


def decode(content: bytes, name: str, *, start_s: float = 0.0, end_s: float | None = None) -> Samples:
    """Return a recording, or the part of it from `start_s` to `end_s`, as 16 kHz mono int16 `(samples,)`.

    16-bit mono PCM at 16 kHz comes out as it is, to the bit; channels are averaged and other rates resampled.
    Raises `ClipError`, which calls it `name`, if it cannot be read or has no samples.
    """
    form = wav_form(content, len(content), name) if is_wav(content) else None
    if form is not None and is_clip_form(form):
        if is_wav(content[form.after_data]):
            raise several(name)
        samples = _part(content, form, start_s, end_s)
    else:
        samples = _converted(content, name, start_s, end_s)
    if len(samples) == 0:
        raise ClipError(f"{name}: no samples")
    return samples


def _part(content: bytes, form: WavForm, start_s: float, end_s: float | None) -> Samples:
    first = round(start_s * SAMPLE_RATE_HZ)
    last = None if end_s is None else round(end_s * SAMPLE_RATE_HZ)
    return pcm_of_wav(content, form)[first:last]


def _converted(content: bytes, name: str, start_s: float, end_s: float | None) -> Samples:
    with _opened(content, name) as sound:
        form = _form_of(sound, name)
        first = min(round(start_s * form.rate_hz), form.frames)
        last = form.frames if end_s is None else min(round(end_s * form.rate_hz), form.frames)
        seconds = (last - first) / form.rate_hz
        if seconds > form.most_seconds + 1 / form.rate_hz:  # where it is cut is rounded to a sample
            raise ClipError(f"{name}: it lasts {seconds:,.0f} s; cut it into recordings of {form.most_seconds:,.0f} s")
        try:
            lead = min(first, _LEAD_FRAMES) if sound.format == "MP3" else 0
            sound.seek(first - lead)
            wave = sound.read(max(last - first, 0) + lead, dtype="float64", always_2d=True)[lead:]
        except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
            raise ClipError(f"{name}: cannot be decoded ({_reason(error)})") from error
    if len(wave) < last - first:
        raise ClipError(f"{name}: cut off after {first + len(wave)} of {form.frames} samples")
    mono = mixed(wave, name)
    if form.rate_hz != SAMPLE_RATE_HZ and len(mono):
        mono = resample(mono, form.rate_hz, SAMPLE_RATE_HZ)
    return to_pcm(mono)


def opened(file: IO[bytes], size_bytes: int, name: str) -> Sound:
    """Open a recording of `size_bytes` so that all of it is read; raises `ClipError`, which calls it `name`."""
    whole = seen_whole(file, size_bytes, name)
    try:
        return Sound(cast(BinaryIO, whole))
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        raise ClipError(f"{name}: not a recording that can be read ({_reason(error)})") from error


def mixed(wave: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Return the mean `(frames,)` of the channels of `(frames, channels)` float64; `ClipError` if it is no sound."""
    peak = np.abs(wave).max(initial=0.0)
    if not np.isfinite(peak):
        raise ClipError(f"{name}: it holds samples that are not numbers")
    if peak > LOUDEST:
        raise ClipError(
            f"{name}: its samples go up to {peak:,.0f}, and those of a float file are in [-1, 1];"
            " divide 16-bit ones by 32768"
        )
    return wave.mean(axis=1)


def to_pcm(wave: NDArray[np.float64]) -> Samples:
    """Round `(samples,)` in [-1, 1) to int16; louder is clipped."""
    return np.clip(np.rint(wave * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def loudest_part(samples: Samples, length: int) -> Samples:
    """Return the `(length,)` samples with the most energy; all of them if there are no more."""
    if len(samples) <= length:
        return samples
    energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    first = int(np.argmax(energy[length:] - energy[:-length]))
    return samples[first : first + length]


def _opened(content: bytes, name: str) -> Sound:
    if is_cut_off(content):
        raise ClipError(f"{name}: cut off (its end is missing)")
    return opened(io.BytesIO(content), len(content), name)


def _reason(error: Exception) -> str:
    return getattr(error, "error_string", str(error)).rstrip(".")  # the whole text holds an address in memory


def _form_of(sound: soundfile.SoundFile, name: str) -> AudioForm:
    return _checked(AudioForm(sound.frames, sound.samplerate, sound.channels), name)


def _checked(form: AudioForm, name: str) -> AudioForm:
    faults = {
        "no samples": form.frames == 0,
        f"it claims {form.frames:,} samples": not 0 <= form.frames < _FRAME_LIMIT,
        f"{form.rate_hz} Hz is not a sampling rate that can be resampled": not 1_000 <= form.rate_hz <= 768_000,
        f"{form.channels} channels": not 1 <= form.channels <= 64,
    }
    for fault, found in faults.items():
        if found:
            raise ClipError(f"{name}: {fault}")
    return form
