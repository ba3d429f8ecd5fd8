"""Files in which libsndfile does not see all of the sound, shown to it in another way, or refused."""

from typing import IO

from kws_dist.corpus.mp3 import counted_mp3, is_mp3
from kws_dist.corpus.spliced import Spliced
from kws_dist.corpus.wav import HEAD_BYTES, is_wav, several, wav_form
from kws_dist.errors import ClipError

_MOST_HEAD_BYTES = 1 << 26
_MOST_REST_BYTES = 1 << 20  # of what is no sound, after the last page
_PAGE_HEAD_BYTES = 27 + 255
_BLOCK_BYTES = 1 << 20
_FLAC = b"fLaC\0\0\0\x22"  # with the header of the block that has to come first
_LARGEST = 0xFFFFFFFF


def seen_whole(file: IO[bytes], size_bytes: int, name: str) -> Spliced:
    """Return a recording of `size_bytes`, open at its beginning, as libsndfile has to see it to read all of it.

    Raises `ClipError`, which calls it `name`, if it is several recordings one after another, of which only the first
    could be read, or if it is a damaged WAV or MP3 file.
    """
    head = file.read(HEAD_BYTES)
    if is_wav(head):
        return _with_its_length(file, head, size_bytes, name)
    if is_mp3(file, size_bytes):
        return counted_mp3(file, size_bytes, name)
    if (head.startswith(b"OggS") and _is_chained(file, size_bytes, name)) or (
        head.startswith(_FLAC) and _is_repeated(file, _FLAC)
    ):
        raise several(name)
    return Spliced(b"", file, 0, size_bytes)


def _with_its_length(file: IO[bytes], head: bytes, size_bytes: int, name: str) -> Spliced:
    """Let a header say how much sound follows that was written before that was known."""
    form = wav_form(head, size_bytes, name)
    if form is None:
        head += file.read(_MOST_HEAD_BYTES)
        form = wav_form(head, size_bytes, name)
    if form is not None:
        file.seek(form.after_data.start)
        if is_wav(file.read(HEAD_BYTES)):
            raise several(name)
    start = 0 if form is None else form.data_offset
    if form is None or head[start - 4 : start] == _as_length(form.data_bytes):
        return Spliced(b"", file, 0, size_bytes)
    end = start + form.data_bytes
    head = head[:4] + _as_length(end - 8) + head[8 : start - 4] + _as_length(form.data_bytes)
    return Spliced(head, file, start, end)


def _as_length(size_bytes: int) -> bytes:
    return min(size_bytes, _LARGEST).to_bytes(4, "little")


def _is_chained(file: IO[bytes], size_bytes: int, name: str) -> bool:
    """Whether a stream begins after pages of another (RFC 3533, section 4); those that begin together are one."""
    place, is_begun = 0, False
    while place < size_bytes:
        file.seek(place)
        page = file.read(_PAGE_HEAD_BYTES)
        if not page.startswith(b"OggS") or len(page) < 27:
            break
        is_first = bool(page[5] & 2)
        if is_begun and is_first:
            return True
        is_begun = not is_first
        place += 27 + page[26] + sum(page[27 : 27 + page[26]])
    file.seek(place)
    rest = file.read(_MOST_REST_BYTES + 1)
    if len(rest) > _MOST_REST_BYTES or b"OggS" in rest:
        raise ClipError(f"{name}: damaged: between its pages there is something else; export it anew")
    return False


def _is_repeated(file: IO[bytes], magic: bytes) -> bool:
    """Whether a file that begins with some bytes holds them once more."""
    file.seek(1)
    held = b""
    while block := file.read(_BLOCK_BYTES):
        held = held[-len(magic) :] + block
        if magic in held:
            return True
    return False
