"""MP3 files as libsndfile has to see them to read all of their sound.

It believes the number of frames that a first frame without sound ("Xing", "Info") tells, guesses it from the size of
the file where there is none, and reads no further. So the frames are counted here, which takes but their headers
(ISO/IEC 11172-3, 2.4.1.3, and 13818-3; MPEG 2.5 has half the rates of MPEG 2), and libsndfile is told.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import IO

from kws_dist.corpus.spliced import Spliced
from kws_dist.errors import ClipError

_KBPS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES_HZ = (44_100, 48_000, 32_000)
_SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")  # layer III of MPEG 2.5, 2 and 1
_MONO = 3
_TAG_HEAD_BYTES = 32
_MOST_REST_BYTES = 1 << 20
"""Of what is no sound: padding after a tag, or lyrics and tags of other kinds at the end."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the header of a frame says."""

    size_bytes: int
    samples: int
    rate_hz: int
    kind: tuple[int, int, bool]
    """The same for all frames of a recording: version, rate, whether it is mono."""

    @property
    def count_offset(self) -> int:
        """Where "Xing" or "Info" is: after header and side information."""
        is_mono, is_1 = self.kind[2], self.samples == 1152
        return 4 + ((17 if is_mono else 32) if is_1 else (9 if is_mono else 17))


def is_mp3(file: IO[bytes], size_bytes: int) -> bool:
    """Whether a file, open at its beginning, holds MP3 frames of which each says how long it is."""
    return _first(file, size_bytes) is not None


def counted_mp3(file: IO[bytes], size_bytes: int, name: str) -> Spliced:
    """Return an MP3 file that begins with how many frames it has, and ends with the last of them.

    Raises `ClipError`, which calls it `name`, if it is cut off, damaged, or of several recordings that differ.
    """
    place = _first(file, size_bytes)
    assert place is not None, "`is_mp3` is asked before"
    header, first = _header_at(file, place)
    assert first
    n_frames, end = _walked(file, place, size_bytes, name)
    kind, told = _told(file, place, first)
    n_frames -= kind != ""
    if n_frames == 0:
        raise ClipError(f"{name}: no samples")
    if told > n_frames:
        raise ClipError(f"{name}: cut off after {n_frames * first.samples} of {told * first.samples} samples")
    if kind == "Xing" and told == n_frames:
        return Spliced(b"", file, place, end)
    return Spliced(_telling(header, n_frames), file, place + (first.size_bytes if kind else 0), end)


@lru_cache(maxsize=4096)
def _frame(header: bytes) -> _Frame | None:
    """Read a header of 4 bytes; None if it is none, or of a free rate, of which only the next header tells the end."""
    if len(header) < 4 or not _SYNC.match(header):
        return None
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if rate == 3 or bitrate in (0, 15):
        return None
    is_1 = version == 3
    rate_hz = _RATES_HZ[rate] >> {3: 0, 2: 1, 0: 2}[version]
    kbps = (_KBPS_1 if is_1 else _KBPS_2)[bitrate]
    samples = 1152 if is_1 else 576
    size_bytes = samples // 8 * kbps * 1000 // rate_hz + (header[2] >> 1 & 1)
    return _Frame(size_bytes, samples, rate_hz, (version, rate, header[3] >> 6 == _MONO))


def _header_at(file: IO[bytes], place: int) -> tuple[bytes, _Frame | None]:
    file.seek(place)
    header = file.read(4)
    return header, _frame(header)


def _first(file: IO[bytes], size_bytes: int) -> int | None:
    """Return where the first frame is, behind tags and zeros; None if something else is there."""
    place = 0
    while place < size_bytes:
        file.seek(place)
        head = file.read(_TAG_HEAD_BYTES)
        if not head.startswith(b"ID3"):
            break
        place += _tag_bytes(head)
    if place:  # zeros are where a tag was longer once
        file.seek(place)
        rest = file.read(_MOST_REST_BYTES)
        place += len(rest) - len(rest.lstrip(b"\0"))
    return place if _header_at(file, place)[1] else None


def _walked(file: IO[bytes], first: int, size_bytes: int, name: str) -> tuple[int, int]:
    """Return how many frames follow each other from the first on, with tags between, and where the last ends."""
    frame = _header_at(file, first)[1]
    assert frame
    kind, samples, rate_hz = frame.kind, frame.samples, frame.rate_hz
    count, place, end = 0, first, first
    while place < size_bytes:
        file.seek(place)
        head = file.read(_TAG_HEAD_BYTES)
        frame = _frame(head[:4])
        if frame is not None and frame.kind == kind:
            count, place = count + 1, place + frame.size_bytes
            end = place
        elif tag_bytes := _tag_bytes(head):
            place += tag_bytes
        else:
            break
    file.seek(place)
    rest = file.read(_MOST_REST_BYTES + 1)
    if end > size_bytes or (len(rest) < 4 and rest.startswith(b"\xff")):
        raise ClipError(f"{name}: cut off (its end is missing)")
    if len(rest) > _MOST_REST_BYTES or _holds_frames(rest):
        raise ClipError(
            f"{name}: damaged after {count * samples / rate_hz:.2f} s, or several recordings in one file that differ;"
            " export it anew, or split it"
        )
    return count, end


def _holds_frames(content: bytes) -> bool:
    """Whether two frames of a kind follow each other anywhere; a single header comes about by chance."""
    for match in _SYNC.finditer(content):
        place = match.start()
        frame = _frame(content[place : place + 4])
        if frame is not None:
            place += frame.size_bytes
            following = _frame(content[place : place + 4])
            if following is not None and following.kind == frame.kind:
                return True
    return False


def _tag_bytes(head: bytes) -> int:
    """Return how long an ID3v2, ID3v1 or APE tag is that begins like this; 0 if it is none."""
    if len(head) >= 10 and head.startswith(b"ID3"):
        length = 0
        for byte in head[6:10]:
            length = length << 7 | byte & 0x7F
        return 10 + length + (10 if head[5] & 0x10 else 0)
    if head.startswith(b"TAG"):
        return 128
    if len(head) >= 24 and head.startswith(b"APETAGEX"):
        is_header = head[23] & 0x20
        return 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
    return 0


def _told(file: IO[bytes], place: int, frame: _Frame) -> tuple[str, int]:
    """Return in which way the first frame says how many follow, if it does, and how many; 0 if it does not know."""
    file.seek(place)
    content = file.read(frame.size_bytes)
    offset = frame.count_offset
    if content[offset : offset + 4] in (b"Xing", b"Info"):
        is_there = int.from_bytes(content[offset + 4 : offset + 8]) & 1
        return "Xing", int.from_bytes(content[offset + 8 : offset + 12]) if is_there else 0
    if content[36:40] == b"VBRI":
        return "VBRI", int.from_bytes(content[50:54])
    return "", 0


def _telling(header: bytes, n_frames: int) -> bytes:
    """Return a frame without sound, of the kind that `header` is of, that says how many frames follow."""
    is_1 = header[1] >> 3 & 3 == 3
    bitrate = 9 if is_1 else 8  # 128 or 64 kbit/s: long enough at any sampling rate
    header = bytes([header[0], header[1] | 1, bitrate << 4 | header[2] & 0x0C, header[3]])
    frame = _frame(header)
    assert frame
    about = b"Info" + (1).to_bytes(4) + n_frames.to_bytes(4)
    return (header + bytes(frame.count_offset - 4) + about).ljust(frame.size_bytes, b"\0")
