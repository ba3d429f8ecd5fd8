"""The bytes of one clip inside a shard: `<key>.wav` (or `.flac`) and `<key>.json`, two members of a plain tar.

Nothing in them depends on when, where or by whom they are written, so writing twice gives the same bytes.
"""

import json
import re
import tarfile
from dataclasses import dataclass

import numpy as np
import xxhash

from kws_dist.corpus.clip import Clip, Samples
from kws_dist.errors import DataError
from kws_dist.shards.codec import Codec, encode

BLOCK_BYTES = 512
TRAILER = bytes(2 * BLOCK_BYTES)  # two blocks of zeros end a tar
KEY = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
"""What a clip's key looks like; without a dot, so that a WebDataset reader finds where the key ends."""
_NAME_BYTES = 100  # of the first field of a tar header; a longer name is divided over two
_BLANK = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_BLANK_SUM = sum(_BLANK[:148]) + 8 * ord(" ") + sum(_BLANK[156:])  # as if the checksum were spaces


@dataclass(frozen=True, slots=True)
class Record:
    """One clip as it lies in a shard, and what the index says about it."""

    data: bytes
    """From the tar header of the audio to the end of the padding of the `.json`."""
    audio_bytes: int
    """Size of the audio file, whose content begins one block into `data`."""
    checksum: int
    """xxh3-64 of the samples as little-endian int16: the identity of the audio, whatever the codec."""
    record_checksum: int
    """xxh3-64 of `data`: it sees any flipped bit, be it in a header, the audio, the padding or the labels."""


def make_record(clip: Clip, label: int, samples: Samples, codec: Codec = "wav") -> Record:
    """Pack one clip; `samples` has shape (samples,)."""
    if samples.ndim != 1 or samples.dtype != np.int16 or not len(samples):
        raise DataError(f"clip {clip.key!r}: its audio is {samples.dtype} {samples.shape}, not int16 (samples,)")
    about = {"word": clip.word, "label": label, "speaker": clip.speaker}
    audio = encode(samples, codec)
    labels = json.dumps(about, sort_keys=True).encode()
    data = _member(f"{clip.key}.{codec}", audio) + _member(f"{clip.key}.json", labels)
    return Record(data, len(audio), checksum_of(samples), xxhash.xxh3_64_intdigest(data))


def checksum_of(samples: Samples) -> int:
    """Return xxh3-64 of the samples (samples,) as little-endian int16."""
    return xxhash.xxh3_64_intdigest(samples.astype("<i2", copy=False).tobytes())


def padded(size_bytes: int) -> int:
    """Round up to whole tar blocks."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def tar_header(name: str, size_bytes: int) -> bytes:
    """Return the header of a member of a shard: the same bytes as tarfile makes, in a tenth of the time."""
    raw = name.encode()
    if len(raw) > _NAME_BYTES:
        info = tarfile.TarInfo(name)
        info.size = size_bytes
        return info.tobuf(tarfile.USTAR_FORMAT)
    size = b"%011o" % size_bytes
    total = _BLANK_SUM + sum(raw) + sum(size) - 11 * ord("0")
    return b"".join(
        (raw.ljust(_NAME_BYTES, b"\0"), _BLANK[100:124], size, _BLANK[135:148], b"%06o\0 " % total, _BLANK[156:])
    )


def _member(name: str, content: bytes) -> bytes:
    try:
        header = tar_header(name, len(content))
    except ValueError as error:
        raise DataError(f"clip {name!r}: its key is too long for a tar header; shorten the path") from error
    return header + content.ljust(padded(len(content)), b"\0")
