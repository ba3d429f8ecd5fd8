"""Proof that a shard is what its index says, every byte of it; quick to say no. `verify` says all that is wrong."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import xxhash

from kws_dist.errors import DataError
from kws_dist.shards.blocks import read_blocks
from kws_dist.shards.index import REMEDY, ShardIndex, index_path, load_index
from kws_dist.shards.meta import ShardEntry
from kws_dist.shards.record import TRAILER


@dataclass(frozen=True, slots=True)
class CheckedShard:
    """A shard whose every byte was read, and its entry for `dataset.json`."""

    entry: ShardEntry
    index: ShardIndex


def check_shard(path: Path) -> CheckedShard:
    """Read a whole shard and compare it with its index; raises `DataError` naming the file and the clip."""
    index, index_data = load_index(index_path(path))
    hashed, trailer = hashlib.sha256(), b""
    offsets = index.rows["record_offset"].tolist()
    sizes, checksums = index.rows["record_bytes"].tolist(), index.rows["record_checksum"].tolist()
    try:
        for numbers, block in read_blocks(path, index):
            hashed.update(block)
            for i in numbers:
                first = offsets[i] - offsets[numbers.start]
                if xxhash.xxh3_64_intdigest(block[first : first + sizes[i]]) != checksums[i]:
                    raise DataError(f"{path}: clip {index.keys[i]!r} is damaged or cut off; {REMEDY}")
            if not numbers:
                trailer = bytes(block[: len(TRAILER) + 1])
                break
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if trailer != TRAILER:
        raise DataError(f"{path}: all clips are whole, but the end of the tar is damaged; {REMEDY}")
    entry = ShardEntry(
        name=path.name,
        split=path.name.partition("-")[0],
        clips=len(index.keys),
        bytes=index.shard_bytes,
        sha256=hashed.hexdigest(),
        index_sha256=hashlib.sha256(index_data).hexdigest(),
    )
    return CheckedShard(entry, index)
