"""Open a finished dataset and hand out its clips as columns, one split at a time, trusting nothing unchecked.

Opening reads `dataset.json` and the indexes, and checks that they and the sizes of the shards agree. The audio is
checked clip by clip, with `verify_record`, when it is first read.
"""

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from kws_dist.corpus.clip import NOISE_SPLIT, SPLITS, Samples
from kws_dist.errors import DataError, UsageError, printable
from kws_dist.shards.codec import Codec, decode
from kws_dist.shards.index import REMEDY, SHARD_NAME, ShardIndex, index_path, load_index
from kws_dist.shards.meta import META_NAME, DatasetMeta, ShardEntry, contents, load_meta
from kws_dist.shards.unfinished import UNFINISHED_NAME, load_unfinished

SKIP_HINT = "or pass --data.on_bad_clip skip to leave it out"


@dataclass(frozen=True)
class Rows:
    """The clips of one split, sorted by key; every array has shape (clips,)."""

    keys: list[str]
    label: NDArray[np.int64]
    """Place of the word in the vocabulary; -1 for noise."""
    speaker: list[str]
    shard: NDArray[np.int32]
    """Place in `shard_paths`."""
    record_offset: NDArray[np.int64]
    """Of the clip's first tar header, in bytes from the start of the shard."""
    record_bytes: NDArray[np.int64]
    audio_offset: NDArray[np.int64]
    """Of the content of the audio file, in bytes from the start of the shard."""
    audio_bytes: NDArray[np.int64]
    n_samples: NDArray[np.int64]
    checksum: NDArray[np.uint64]
    """xxh3-64 of the samples: the identity of the audio."""
    record_checksum: NDArray[np.uint64]
    """xxh3-64 of all bytes of the record, see `verify_record`."""
    shard_paths: list[Path]
    codec: Codec
    """How the audio is stored."""

    def __len__(self) -> int:
        return len(self.keys)


class Dataset:
    """A finished dataset, opened by `open_dataset`."""

    def __init__(self, root: Path, meta: DatasetMeta, shards: list[tuple[ShardEntry, ShardIndex]]) -> None:
        self.root = root
        self.words: tuple[str, ...] = tuple(meta.words)
        self.sample_rate_hz = meta.sample_rate_hz
        self.digest = meta.digest
        self.codec: Codec = meta.codec
        self.splits: tuple[str, ...] = tuple(split for split in SPLITS if meta.clips.get(split))
        self.meta: dict[str, Any] = meta.to_dict()
        self._shards = shards

    def rows(self, split: str) -> Rows:
        """Return the clips of a split, or of `noise`, of which there may be none."""
        if split not in (*self.splits, NOISE_SPLIT):
            raise UsageError(f"{self.root} has no split {split!r}; it has {', '.join((*self.splits, NOISE_SPLIT))}")
        shards = [(entry, index) for entry, index in self._shards if entry.split == split]
        paths = [self.root / entry.name for entry, _ in shards]
        return _rows([index for _, index in shards], paths, self.codec)


def open_dataset(root: Path, *, check_sizes: bool = True) -> Dataset:
    """Open the dataset in the folder `root`.

    Raises `UsageError` when there is none or it is unfinished, `DataError` naming the file that is damaged.
    `check_sizes=False` lets shards through that are cut off or missing, for a reader that leaves out what
    `verify_record` refuses.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder; tools/make_shards.py makes one")
    if not (root / META_NAME).is_file():
        raise UsageError(f"{root}: {_why_not_finished(root)}")
    meta = load_meta(root / META_NAME)
    shards = [(entry, _open_index(root, entry)) for entry in meta.shards]
    _check_contents(root, meta, shards)
    if check_sizes:
        for entry, index in shards:
            _check_size(root / entry.name, entry, index)
    return Dataset(root, meta, shards)


def _why_not_finished(root: Path) -> str:
    if (root / UNFINISHED_NAME).is_file():
        unfinished = load_unfinished(root)
        there = sum((root / name).is_file() for name, _ in unfinished.shards)
        return (
            f"unfinished, {there} of {len(unfinished.shards)} shards are there;"
            f" go on with: {printable(shlex.join(unfinished.command))}"
        )
    if any(SHARD_NAME.match(path.name) for path in root.iterdir()):
        return f"unfinished, it has shards but no {META_NAME}; run the same make_shards command again"
    return "there are no shards in this folder; tools/make_shards.py makes them"


def verify_record(rows: Rows, i: int, record: bytes | memoryview) -> None:
    """Raise `DataError` unless `record`, the bytes of clip `i` from its shard, is as it was written."""
    if len(record) != rows.record_bytes[i] or xxhash.xxh3_64_intdigest(record) != rows.record_checksum[i]:
        raise DataError(
            f"{rows.shard_paths[rows.shard[i]]}: clip {rows.keys[i]!r} is damaged (its bytes do not match the index); "
            f"{REMEDY}, {SKIP_HINT}"
        )


def pcm_of(rows: Rows, i: int, record: bytes | memoryview) -> Samples:
    """Return the samples (samples,) of clip `i` from its verified record; a view, if it is WAV."""
    first = int(rows.audio_offset[i] - rows.record_offset[i])
    try:
        return decode(memoryview(record)[first : first + int(rows.audio_bytes[i])], rows.codec, int(rows.n_samples[i]))
    except ValueError as error:  # it is as it was written, and was written wrongly
        where = f"{rows.shard_paths[rows.shard[i]]}: clip {rows.keys[i]!r}"
        raise DataError(f"{where} cannot be decoded ({error}); {REMEDY}, {SKIP_HINT}") from error


def _open_index(root: Path, entry: ShardEntry) -> ShardIndex:
    path = index_path(root / entry.name)
    index, data = load_index(path)
    if hashlib.sha256(data).hexdigest() != entry.index_sha256:
        raise DataError(f"{path}: not the index that {META_NAME} lists; {REMEDY}")
    return index


def _check_contents(root: Path, meta: DatasetMeta, shards: list[tuple[ShardEntry, ShardIndex]]) -> None:
    """Recompute from the indexes what `dataset.json` says about them."""
    path = root / META_NAME
    for entry, index in shards:
        if (entry.clips, entry.bytes) != (len(index.keys), index.shard_bytes):
            raise DataError(f"{path}: says other numbers of {entry.name} than its index; {REMEDY}")
        if index.codec != meta.codec:
            raise DataError(f"{path}: says {meta.codec}, and {entry.name} holds {index.codec}; {REMEDY}")
        allowed = [-1] if entry.split == NOISE_SPLIT else range(len(meta.words))
        if not np.isin(index.rows["label"], allowed).all():
            raise DataError(f"{path}: has no words for the labels in {index_path(root / entry.name)}; {REMEDY}")
    found = contents([(entry.split, index) for entry, index in shards], meta.words)
    wrong = [name for name, value in found.items() if getattr(meta, name) != value]
    if wrong:
        raise DataError(f"{path}: its {', '.join(wrong)} do not agree with the shards beside it; {REMEDY}")
    keys = [key for _, index in shards for key in index.keys]
    if len(set(keys)) < len(keys):
        raise DataError(f"{path}: the same clip is in two shards; {REMEDY}")


def _check_size(path: Path, entry: ShardEntry, index: ShardIndex) -> None:
    if not path.is_file():
        raise DataError(f"{path}: missing, with {entry.clips:,} clips; {REMEDY}")
    size_bytes = path.stat().st_size
    if size_bytes == entry.bytes:
        return
    ends = index.rows["record_offset"].astype(np.int64) + index.rows["record_bytes"]
    lost = np.flatnonzero(ends > size_bytes)
    if len(lost):
        what = f"cut off; clip {index.keys[lost[0]]!r} is the first of {len(lost):,} that are damaged"
        raise DataError(f"{path}: {what}; {REMEDY}, {SKIP_HINT}")
    raise DataError(f"{path}: {size_bytes:,} bytes where {META_NAME} says {entry.bytes:,}; {REMEDY}")


def _rows(indexes: list[ShardIndex], paths: list[Path], codec: Codec) -> Rows:
    """Join the indexes of the shards of a split and sort by key, so that re-sharding changes no clip's number."""
    keys = [key for index in indexes for key in index.keys]
    speaker = [index.speakers[place] for index in indexes for place in index.rows["speaker"].tolist()]
    order = sorted(range(len(keys)), key=keys.__getitem__)

    def column(name: str, dtype: Any) -> NDArray[Any]:
        parts = [index.rows[name].astype(dtype) for index in indexes]
        return np.concatenate([np.zeros(0, dtype), *parts])[order]

    return Rows(
        keys=[keys[i] for i in order],
        label=column("label", np.int64),
        speaker=[speaker[i] for i in order],
        shard=np.repeat(np.arange(len(indexes)), [len(index.keys) for index in indexes]).astype(np.int32)[order],
        record_offset=column("record_offset", np.int64),
        record_bytes=column("record_bytes", np.int64),
        audio_offset=column("audio_offset", np.int64),
        audio_bytes=column("audio_bytes", np.int64),
        n_samples=column("n_samples", np.int64),
        checksum=column("checksum", np.uint64),
        record_checksum=column("record_checksum", np.uint64),
        shard_paths=paths,
        codec=codec,
    )
