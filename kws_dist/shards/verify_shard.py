"""One shard against its index and its entry in `dataset.json`: everything that is wrong with it, clip by clip."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from kws_dist.corpus.clip import NOISE_SPLIT
from kws_dist.errors import DataError
from kws_dist.shards.blocks import read_blocks
from kws_dist.shards.index import REMEDY, ShardIndex, index_path, load_index
from kws_dist.shards.meta import META_NAME, DatasetMeta, ShardEntry
from kws_dist.shards.record import TRAILER
from kws_dist.shards.verify_clip import clip_check

_NO_WORDS_KNOWN = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that is not as it was written."""

    file: str
    """Name of the file in the folder."""
    sentence: str
    """Path, what is wrong, and the remedy."""
    clips: tuple[str, ...] = ()
    """The keys of the clips that it concerns; none if it concerns the file as a whole."""


@dataclass(frozen=True, slots=True)
class VerifiedShard:
    """A shard every byte of which was read."""

    path: Path
    entry: ShardEntry | None
    """What `dataset.json` says of it; None if it does not list it."""
    index: ShardIndex | None
    """None if it cannot be used."""
    is_listed_index: bool
    """The index is the one that `dataset.json` lists."""
    whole: NDArray[np.bool_]
    """Shape (clips,): which clips of the index are as they were written."""
    faults: list[Fault]

    @property
    def split(self) -> str:
        """`train`, `val`, `test` or `noise`."""
        return self.path.name.partition("-")[0]

    @property
    def clips(self) -> int:
        """How many clips were looked at."""
        return len(self.whole)


@dataclass(slots=True)
class _Reading:
    """What one reading of a shard has shown."""

    hashed: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    size_bytes: int = 0
    damaged: list[int] = field(default_factory=list)
    wrong: list[tuple[int, str]] = field(default_factory=list)
    tail: bytes = b""
    error: str | None = None


def verify_shard(path: Path, meta: DatasetMeta | None) -> VerifiedShard:
    """Read a shard and its index from front to back and find all that is wrong; raises nothing for what is damaged."""
    entries = {entry.name: entry for entry in meta.shards} if meta else {}
    entry = entries.get(path.name)
    index, index_sha256, faults = _verify_index(path, meta, entry)
    is_listed = entry is not None and index_sha256 == entry.index_sha256
    if not path.is_file():
        keys, clips = (index.keys, len(index.keys)) if index else ((), entry.clips if entry else 0)
        faults.append(_fault(path, f"missing, with {clips:,} {'clip' if clips == 1 else 'clips'}", keys))
        return VerifiedShard(path, entry, index, is_listed, np.zeros(len(keys), bool), faults)
    if index is None:
        return VerifiedShard(path, entry, None, False, np.zeros(0, bool), [*faults, *_verify_bytes(path, entries)])
    words = meta.words if meta and not faults else _NO_WORDS_KNOWN
    reading = _read_through(path, index, words)
    more, whole = _judge(path, index, reading, entries, is_listed)
    return VerifiedShard(path, entry, index, is_listed, whole, [*faults, *more])


def _verify_index(
    path: Path, meta: DatasetMeta | None, entry: ShardEntry | None
) -> tuple[ShardIndex | None, str, list[Fault]]:
    """Return the index of a shard, if it can be read, its SHA-256, and what is wrong with it."""
    idx = index_path(path)
    if not idx.is_file():
        return None, "", [_fault(idx, "missing")]
    try:
        index, data = load_index(idx)
    except DataError as error:
        return None, "", [Fault(file=idx.name, sentence=str(error))]
    sha256 = hashlib.sha256(data).hexdigest()
    if meta is None or entry is None:
        return index, sha256, []
    belongs_to = {other.index_sha256: index_path(Path(other.name)).name for other in meta.shards}
    if sha256 != entry.index_sha256:
        whose = f"holds {belongs_to[sha256]}" if sha256 in belongs_to else f"not the index that {META_NAME} lists"
        return index, sha256, [_fault(idx, whose)]
    allowed = [-1] if entry.split == NOISE_SPLIT else range(len(meta.words))
    wrong = {
        f"describes {len(index.keys):,} clips, and {META_NAME} says {entry.clips:,}": entry.clips != len(index.keys),
        f"describes {index.shard_bytes:,} bytes, and {META_NAME} says {entry.bytes:,}": (
            entry.bytes != index.shard_bytes
        ),
        f"describes {index.codec}, and {META_NAME} says {meta.codec}": index.codec != meta.codec,
        f"is of another plan than {META_NAME}": index.plan_id != meta.plan,
        f"has labels for which {META_NAME} has no word": not np.isin(index.rows["label"], allowed).all(),
    }
    return index, sha256, [_fault(idx, what) for what, is_so in wrong.items() if is_so]


def _verify_bytes(path: Path, entries: Mapping[str, ShardEntry]) -> list[Fault]:
    """Compare a shard whose index cannot be used with `dataset.json`, as a whole."""
    if path.name not in entries:
        return []
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return [_fault(path, f"cannot be read ({error.strerror})")]
    return _wrong_shard(path, sha256, entries)


def _wrong_shard(path: Path, sha256: str, entries: Mapping[str, ShardEntry]) -> list[Fault]:
    names = {entry.sha256: name for name, entry in entries.items()}
    if path.name not in entries or entries[path.name].sha256 == sha256:
        return []
    return [_fault(path, f"holds {names[sha256]}" if sha256 in names else f"not the shard that {META_NAME} lists")]


def _read_through(path: Path, index: ShardIndex, words: Sequence[str] | None) -> _Reading:
    check = clip_check(index, words)
    sizes, checksums = index.rows["record_bytes"].tolist(), index.rows["record_checksum"].tolist()
    reading = _Reading()
    try:
        for numbers, block in read_blocks(path, index):
            reading.hashed.update(block)
            reading.size_bytes += len(block)
            if not numbers:
                reading.tail += bytes(block[: len(TRAILER) + 1 - len(reading.tail)])
            first = 0
            for number in numbers:
                record = block[first : first + sizes[number]]
                first += sizes[number]
                if len(record) < sizes[number]:
                    break
                if xxhash.xxh3_64_intdigest(record) != checksums[number]:
                    reading.damaged.append(number)
                elif what := check(number, record):
                    reading.wrong.append((number, what))
    except OSError as error:
        reading.error = error.strerror
    return reading


def _judge(
    path: Path, index: ShardIndex, reading: _Reading, entries: Mapping[str, ShardEntry], is_listed: bool
) -> tuple[list[Fault], NDArray[np.bool_]]:
    """Tell what a reading means; returns faults and which clips are whole."""
    nothing = np.zeros(len(index.keys), bool)
    wrong_shard = _wrong_shard(path, reading.hashed.hexdigest(), entries)
    if path.name in entries and not reading.error:
        if not wrong_shard and not is_listed:
            return [], nothing  # the shard is right and its index is wrong, which has been said
        if wrong_shard and "holds" in wrong_shard[0].sentence:
            return wrong_shard, nothing
    keys, ends = index.keys, np.cumsum(index.rows["record_bytes"].astype(np.int64))
    lost = np.flatnonzero(ends > reading.size_bytes).tolist()
    faults = [_fault(path, f"clip {keys[i]!r} is damaged", keys[i : i + 1]) for i in reading.damaged]
    faults += [_forged(path, keys[i], what) for i, what in reading.wrong]
    if reading.error:
        where = f"from clip {keys[lost[0]]!r} on, {len(lost):,} in all" if lost else "to its end"
        faults.append(_fault(path, f"cannot be read {where} ({reading.error})", [keys[i] for i in lost]))
    elif lost:
        what = f"cut off; clip {keys[lost[0]]!r} is the first of {len(lost):,} that are lost"
        faults.append(_fault(path, what, [keys[i] for i in lost]))
    elif reading.tail != TRAILER:
        faults.append(_fault(path, f"{'' if faults else 'all clips are whole, but '}the end of the tar is damaged"))
    whole = ~nothing
    whole[[*reading.damaged, *(i for i, _ in reading.wrong), *lost]] = False
    return faults or wrong_shard, whole


def _fault(path: Path, what: str, clips: Sequence[str] = ()) -> Fault:
    return Fault(file=path.name, sentence=f"{path}: {what}; {REMEDY}", clips=tuple(clips))


def _forged(path: Path, key: str, what: str) -> Fault:
    """A clip whose checksums are right: making the shards again would keep it."""
    remedy = f"remove {path.name} and {REMEDY}"
    return Fault(file=path.name, sentence=f"{path}: clip {key!r} was written wrongly, {what}; {remedy}", clips=(key,))
