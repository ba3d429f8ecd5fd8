"""Whether a recording ends before its header says, in formats where libsndfile just reads what is left."""

import struct
from collections.abc import Callable

_OGG_HEADER_BYTES = 27
_UNKNOWN = (0xFFFFFFFF, (1 << 64) - 1)  # what programs write that do not know the length when they begin


def is_cut_off(content: bytes) -> bool:
    """Whether the end of an OGG, AIFF, AU, W64, RF64 or CAF file is missing; False for any other file."""
    needed_bytes = next((needed for magic, needed in _NEEDED.items() if content.startswith(magic)), None)
    try:
        return needed_bytes is not None and needed_bytes(content) > len(content)
    except struct.error:
        return True  # not even its header is there


def _ogg(content: bytes) -> int:
    """RFC 3533, section 6: the last page says that it is the last, and how long it is."""
    page_offset = content.rfind(b"OggS")
    flags, segments = struct.unpack_from("<5xB20xB", content, page_offset)
    body = content[page_offset + _OGG_HEADER_BYTES :][:segments]
    missing = 0 if flags & 4 and len(body) == segments else 1
    return page_offset + _OGG_HEADER_BYTES + segments + sum(body) + missing * len(content)


def _field(form: str, offset: int, rest_bytes: int) -> Callable[[bytes], int]:
    """Return a reader of a length at `offset`, which leaves out `rest_bytes` of the file."""

    def needed(content: bytes) -> int:
        (length,) = struct.unpack_from(form, content, offset)
        return 0 if length in _UNKNOWN else length + rest_bytes

    return needed


def _au(content: bytes) -> int:
    data_offset, length = struct.unpack_from(">4xII", content)
    return 0 if length in _UNKNOWN else data_offset + length


def _caf(content: bytes) -> int:
    place = 8
    while place < len(content):
        kind, length = struct.unpack_from(">4sQ", content, place)
        if length in _UNKNOWN:
            return 0
        place += 12 + length
        if kind == b"data":
            break
    return place


_NEEDED: dict[bytes, Callable[[bytes], int]] = {
    b"OggS": _ogg,
    b"FORM": _field(">I", 4, 8),
    b".snd": _au,
    b"riff.\x91\xcf\x11": _field("<Q", 16, 0),
    b"RF64": _field("<Q", 20, 8),
    b"caff": _caf,
}
