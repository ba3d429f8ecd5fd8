"""Proof that a shard is what its index says, every byte of it; quick to say no. `verify` says all that is wrong."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import xxhash

from kws_dist.errors import DataError
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
    hashed = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for key, row in zip(index.keys, index.rows, strict=True):
                record = file.read(int(row["record_bytes"]))
                if xxhash.xxh3_64_intdigest(record) != row["record_checksum"]:
                    raise DataError(f"{path}: clip {key!r} is damaged or cut off; {REMEDY}")
                hashed.update(record)
            trailer = file.read(len(TRAILER) + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if trailer != TRAILER:
        raise DataError(f"{path}: all clips are whole, but the end of the tar is damaged; {REMEDY}")
    hashed.update(trailer)
    entry = ShardEntry(
        name=path.name,
        split=path.name.partition("-")[0],
        clips=len(index.keys),
        bytes=index.shard_bytes,
        sha256=hashed.hexdigest(),
        index_sha256=hashlib.sha256(index_data).hexdigest(),
    )
    return CheckedShard(entry, index)
