"""The header of a WAV file, and samples out of one that is in the very form that a clip has."""

import struct
from dataclasses import dataclass, replace

import numpy as np

from kws_dist.corpus.clip import SAMPLE_RATE_HZ, Samples
from kws_dist.errors import ClipError

HEAD_BYTES = 4096
"""Enough of the beginning of a file to find the samples in it, as a rule."""
_PCM, _EXTENSIBLE = 1, 0xFFFE
_RIFF_BYTES = 12
_OPEN_ENDED = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # what programs write that do not know the length when they begin


@dataclass(frozen=True, slots=True)
class WavForm:
    """What the header of a WAV file says."""

    encoding: int
    """1 is PCM; everything else has to be decoded."""
    channels: int
    rate_hz: int
    bits: int
    data_offset: int
    """Where the samples begin, in bytes."""
    data_bytes: int
    """How long they are, up to the end of the file where the header leaves that open."""
    block_bytes: int
    """How far the samples of one time are from those of the next, which can be more than they need."""

    @property
    def frames(self) -> int:
        """Samples per channel, if each takes the same number of bytes."""
        frame_bytes = self.channels * self.bits // 8
        return self.data_bytes // frame_bytes if frame_bytes else 0

    @property
    def tells_frames(self) -> bool:
        """Whether `frames` is right: they are PCM, and nothing is between them."""
        return self.encoding == _PCM and self.block_bytes * 8 == self.channels * self.bits

    @property
    def after_data(self) -> slice:
        """Where the beginning of what follows the samples is."""
        end = self.data_offset + self.data_bytes + self.data_bytes % 2
        return slice(end, end + _RIFF_BYTES)


def is_wav(head: bytes) -> bool:
    """Whether a file that begins like this claims to be a WAV file."""
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def wav_form(head: bytes, size_bytes: int, name: str) -> WavForm | None:
    """Read the header of a WAV file of `size_bytes` from its beginning; None if `head` is too short to tell.

    Raises `ClipError`, which calls the file `name`, if it is damaged or ends before its samples do.
    """
    if not is_wav(head):
        raise ClipError(f"{name}: not a WAV file")
    about, place = b"", 12
    while place + 8 <= len(head):
        kind, length = struct.unpack_from("<4sI", head, place)
        body = place + 8
        if kind == b"data":
            break
        if kind == b"fmt ":
            about = head[body : body + length]
        place = body + length + length % 2
    else:
        if place + 8 <= size_bytes:
            return None
        raise ClipError(f"{name}: not a complete WAV file (it ends before its samples)")
    if len(about) < 16:
        raise ClipError(f"{name}: not a WAV file that can be read (its header does not say what is in it)")
    encoding, channels, rate_hz, _, block_bytes, bits = struct.unpack_from("<HHIIHH", about)
    if encoding == _EXTENSIBLE and len(about) >= 26:
        encoding = struct.unpack_from("<H", about, 24)[0]
    rest_bytes = size_bytes - body
    if length in _OPEN_ENDED:
        length = rest_bytes
    form = WavForm(encoding, channels, rate_hz, bits, body, length, block_bytes)
    if length > rest_bytes:
        there = replace(form, data_bytes=rest_bytes)
        pcm = encoding == _PCM and form.frames > 0
        how = f"{there.frames} of {form.frames} samples" if pcm else f"{rest_bytes} of {length} bytes of sound"
        raise ClipError(f"{name}: cut off after {how}")
    return form


def several(name: str) -> ClipError:
    """Return what to say of files that somebody joined."""
    return ClipError(
        f"{name}: it holds several recordings one after another, of which only the first could be read; split it"
    )


def samples_of_wav(content: bytes, name: str) -> Samples:
    """Return the samples, shape (samples,), int16, of a WAV file with 16-bit mono PCM at 16 kHz.

    Anything else raises `ClipError`, which calls the file `name` and says what is wrong with it.
    """
    form = wav_form(content, len(content), name)
    assert form is not None, "the whole file tells"
    faults = {
        "not a PCM WAV file": form.encoding != _PCM,
        f"{form.channels} channels, not 1": form.channels != 1,
        f"{form.bits}-bit samples, not 16-bit": form.bits != 16,
        f"{form.rate_hz} Hz, not {SAMPLE_RATE_HZ}": form.rate_hz != SAMPLE_RATE_HZ,
        "no samples": form.frames == 0,
        "it ends in the middle of a sample": form.data_bytes % 2 != 0,
    }
    for fault, found in faults.items():
        if found:
            raise ClipError(f"{name}: {fault}")
    return pcm_of_wav(content, form)


def is_clip_form(form: WavForm) -> bool:
    """Whether the samples can be taken as they are: 16-bit mono PCM at 16 kHz."""
    return (form.encoding, form.channels, form.bits, form.rate_hz) == (_PCM, 1, 16, SAMPLE_RATE_HZ)


def pcm_of_wav(content: bytes, form: WavForm) -> Samples:
    """Return the samples of a file for which `is_clip_form` holds, as they are."""
    return np.frombuffer(content, "<i2", form.frames, form.data_offset).astype(np.int16, copy=False)
