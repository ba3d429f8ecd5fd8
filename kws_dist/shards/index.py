"""The index beside each shard: where every clip lies in the tar, what it is, and checksums that prove it.

Layout, little endian: header | rows | keys | speakers | clips left out | xxh3-64 of everything before. Reading trusts
nothing: a file that is short, long, damaged or made up raises `DataError`, and nothing else.
"""

import json
import re
import stat
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import accumulate
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from kws_dist.corpus.clip import Rejected
from kws_dist.errors import DataError
from kws_dist.shards.codec import WAV_HEADER_BYTES, Codec, codec_named
from kws_dist.shards.record import BLOCK_BYTES, KEY, TRAILER

INDEX_VERSION = 2
INDEX_SUFFIX = ".idx"
MAX_INDEX_BYTES = 1 << 30
_MAX_CLIP_SAMPLES = 1 << 26  # more than an hour; no recording that was read can have been longer
REMEDY = "make the shards again with the command in dataset.json"
SHARD_NAME = re.compile(r"(train|val|test|noise)-\d{6}\.tar")

ROW = np.dtype(
    [
        ("record_offset", "<u8"),  # of the tar header of the audio, from the start of the shard
        ("record_bytes", "<u4"),  # up to the end of the padding of the .json
        ("audio_offset", "<u8"),  # of the content of the audio, from the start of the shard
        ("audio_bytes", "<u4"),
        ("n_samples", "<u4"),
        ("label", "<i4"),  # place of the word in the vocabulary, -1 for noise
        ("speaker", "<u4"),  # place in the table of speakers
        ("checksum", "<u8"),  # xxh3-64 of the samples as int16
        ("record_checksum", "<u8"),  # xxh3-64 of the bytes of the record
    ]
)
_MAGIC = b"KWSINDEX"
_HEADER = struct.Struct("<8sI4s16sIIQQQ")  # magic, version, codec, plan id, clips, speakers, bytes of the tables
_CHECKSUM = struct.Struct("<Q")
_NEW_TABLE_ROW = "\0"


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The content of one index; rows in the order of the shard."""

    rows: NDArray[np.void]
    """Shape (clips,), dtype `ROW`."""
    keys: tuple[str, ...]
    speakers: tuple[str, ...]
    """The table that a row's `speaker` points into."""
    plan_id: str
    """The `Plan.id` of the dataset that the shard belongs to."""
    codec: Codec = "wav"
    """How the audio is stored."""
    rejected: tuple[Rejected, ...] = ()
    """What the plan has in this shard and the shard has not, because it could not be used."""

    @property
    def shard_bytes(self) -> int:
        """Size in bytes of the shard that this index describes."""
        end = int(self.rows["record_offset"][-1]) + int(self.rows["record_bytes"][-1]) if len(self.rows) else 0
        return end + len(TRAILER)


def index_path(shard_path: Path) -> Path:
    """`train-000000.tar` -> `train-000000.idx`."""
    return shard_path.with_suffix(INDEX_SUFFIX)


def pack_index(index: ShardIndex) -> bytes:
    """Return the bytes of an index file."""
    keys, speakers = _pack_table(index.keys), _pack_table(index.speakers)
    plan = bytes.fromhex(index.plan_id)
    rejected = json.dumps([astuple(row) for row in index.rejected]).encode()
    sizes = (len(index.rows), len(index.speakers), len(keys), len(speakers), len(rejected))
    header = _HEADER.pack(_MAGIC, INDEX_VERSION, index.codec.encode(), plan, *sizes)
    body = header + index.rows.tobytes() + keys + speakers + rejected
    return body + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(body))


def load_index(path: Path) -> tuple[ShardIndex, bytes]:
    """Read and check one index file; also returns its bytes. Raises `DataError` naming the file."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for, a device would never end
            raise DataError(f"{path}: not a file; {REMEDY}")
        if about.st_size > MAX_INDEX_BYTES:
            raise DataError(f"{path}: larger than any index ({about.st_size:,} bytes)")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return parse_index(data), data
    except ValueError as error:
        raise DataError(f"{path}: the index is damaged ({error}); {REMEDY}") from error


def parse_index(data: bytes) -> ShardIndex:
    """Parse the bytes of an index file; raises `ValueError` saying what is wrong with them."""
    if len(data) < _HEADER.size + _CHECKSUM.size or not data.startswith(_MAGIC):
        raise ValueError("it does not begin like one")
    _, version, codec, plan, clips, speakers, *table_bytes = _HEADER.unpack_from(data)
    if version != INDEX_VERSION:
        raise ValueError(f"format version {version}, and this program reads {INDEX_VERSION}")
    ends = list(accumulate((_HEADER.size, clips * ROW.itemsize, *table_bytes, _CHECKSUM.size)))
    if ends[-1] != len(data):
        raise ValueError(f"{len(data)} bytes where its header says {ends[-1]}")
    if _CHECKSUM.unpack(data[ends[4] :])[0] != xxhash.xxh3_64_intdigest(data[: ends[4]]):
        raise ValueError("its checksum does not match")
    index = ShardIndex(
        rows=np.frombuffer(data, ROW, count=clips, offset=ends[0]),
        keys=_unpack_table(data[ends[1] : ends[2]], clips),
        speakers=_unpack_table(data[ends[2] : ends[3]], speakers),
        plan_id=plan.hex(),
        codec=codec_named(codec.rstrip(b"\0").decode("ascii", "replace")),
        rejected=_unpack_rejected(data[ends[3] : ends[4]]),
    )
    _check_rows(index)
    return index


def _check_rows(index: ShardIndex) -> None:
    """Make sure that the rows can describe a shard: no gap, no overlap, every clip inside its record."""
    rows = {name: index.rows[name].astype(np.int64) for name in ROW.names or () if "checksum" not in name}
    ends = np.cumsum(rows["record_bytes"])
    sound = {
        "keys": len(set(index.keys)) == len(index.keys) and all(map(KEY.fullmatch, index.keys)),
        "record offsets": np.array_equal(rows["record_offset"], ends - rows["record_bytes"]),
        "record sizes": not np.any(rows["record_bytes"] % BLOCK_BYTES),
        "audio offsets": np.array_equal(rows["audio_offset"], rows["record_offset"] + BLOCK_BYTES),
        "audio sizes": (
            index.codec != "wav" or np.array_equal(rows["audio_bytes"], WAV_HEADER_BYTES + 2 * rows["n_samples"])
        )
        and bool(np.all(rows["audio_bytes"] + 3 * BLOCK_BYTES <= rows["record_bytes"])),
        "lengths": bool(np.all((rows["n_samples"] > 0) & (rows["n_samples"] <= _MAX_CLIP_SAMPLES))),
        "labels": bool(np.all(rows["label"] >= -1)),
        "speakers": bool(np.all(rows["speaker"] < len(index.speakers))),
    }
    wrong = [what for what, is_sound in sound.items() if not is_sound]
    if wrong:
        raise ValueError(f"impossible {', '.join(wrong)}")


def _unpack_rejected(data: bytes) -> tuple[Rejected, ...]:
    names = [field.name for field in fields(Rejected)]
    try:
        return tuple(Rejected(**dict(zip(names, map(str, row), strict=True))) for row in json.loads(data))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"the list of clips left out: {error}") from error


def _pack_table(texts: Sequence[str]) -> bytes:
    return _NEW_TABLE_ROW.join(texts).encode()


def _unpack_table(data: bytes, count: int) -> tuple[str, ...]:
    texts = tuple(data.decode().split(_NEW_TABLE_ROW)) if count else ()
    if len(texts) != count or (not count and data):
        raise ValueError(f"{count} names announced, {len(texts)} found")
    return texts
