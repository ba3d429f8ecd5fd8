"""A whole dataset against itself: every byte of every file, every count, and everything that should not be there.

It goes on after the first fault and lists them all.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kws_dist.errors import DataError, UsageError
from kws_dist.shards.index import INDEX_SUFFIX, REMEDY, SHARD_NAME, index_path
from kws_dist.shards.meta import META_NAME, REJECTED_NAME, DatasetMeta, contents, load_meta, pack_rejected
from kws_dist.shards.read import open_dataset
from kws_dist.shards.unfinished import UNFINISHED_NAME
from kws_dist.shards.verify_shard import Fault, VerifiedShard, verify_shard


@dataclass(frozen=True, slots=True)
class Verified:
    """Every file of a dataset was read, and this is what it is and what is wrong with it."""

    root: Path
    meta: DatasetMeta | None
    """None if `dataset.json` cannot be used."""
    shards: list[VerifiedShard]
    faults: list[Fault]
    """Of all files; those of the shards too."""

    @property
    def clips(self) -> int:
        """How many clips were looked at."""
        return sum(shard.clips for shard in self.shards)


def verify(root: Path, *, workers: int = 1, on_clips: Callable[[int], None] = lambda _: None) -> Verified:
    """Verify the dataset in the folder `root`, several shards at once; `on_clips` hears of clips that are done.

    Raises `UsageError` if there is no dataset, not even a damaged one.
    """
    meta, faults = _verify_meta(root)
    listed = [entry.name for entry in meta.shards] if meta else []
    names = listed or _shard_names(root)  # shards that are not listed are none of ours

    def one(name: str) -> VerifiedShard:
        shard = verify_shard(root / name, meta)
        on_clips(shard.clips)
        return shard

    with ThreadPoolExecutor(workers) as threads:  # hashing and reading leave Python's lock to the others
        shards = list(threads.map(one, names))
    faults += [fault for shard in shards for fault in shard.faults]
    faults += _strays(root, names, is_finished=meta is not None)
    if meta is not None:
        faults += _verify_rejected(root, meta, shards)
        faults += _verify_contents(root, meta, shards)
    faults += _twice(root, shards)
    return Verified(root, meta, shards, faults)


def _verify_meta(root: Path) -> tuple[DatasetMeta | None, list[Fault]]:
    path = root / META_NAME
    if not path.is_file():
        try:
            open_dataset(root)  # says what there is instead
        except UsageError as error:
            if not root.is_dir() or not _shard_names(root):
                raise
            return None, [Fault(file=META_NAME, sentence=f"{path}: missing; {error}")]
        except DataError as error:
            return None, [Fault(file=UNFINISHED_NAME, sentence=str(error))]
    try:
        meta = load_meta(path)
        changed = path.read_bytes() != meta.to_json()
    except (DataError, OSError) as error:
        return None, [Fault(file=META_NAME, sentence=str(error))]
    sentence = f"{path}: its layout was changed after it was written, though not what it says; {REMEDY}"
    return meta, [Fault(file=META_NAME, sentence=sentence)] if changed else []


def _shard_names(root: Path) -> list[str]:
    """Return the names of the shards in a folder, also of those of which only the index is there."""
    names = {path.with_suffix(".tar").name for path in root.iterdir() if path.suffix in (".tar", INDEX_SUFFIX)}
    return sorted(filter(SHARD_NAME.fullmatch, names))


def _strays(root: Path, names: list[str], *, is_finished: bool) -> list[Fault]:
    """Find what is no part of the dataset but looks like it, and what a writer that was stopped has left."""
    ours = {*names, *(index_path(Path(name)).name for name in names)}
    faults = []
    for path in sorted(root.iterdir()):
        what = None
        if path.name in ours:
            continue
        if SHARD_NAME.fullmatch(path.with_suffix(".tar").name) and path.suffix in (".tar", INDEX_SUFFIX):
            what = f"not listed in {META_NAME}; remove it, or it will be taken for a part of the dataset"
        elif path.suffix == ".tmp" or (path.name == UNFINISHED_NAME and is_finished):
            what = "left by a command that was stopped; run that again, or remove it"
        if what:
            faults.append(Fault(file=path.name, sentence=f"{path}: {what}"))
    return faults


def _verify_rejected(root: Path, meta: DatasetMeta, shards: list[VerifiedShard]) -> list[Fault]:
    path = root / REJECTED_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        return [Fault(file=path.name, sentence=f"{path}: cannot be read ({error.strerror}); {REMEDY}")]
    if hashlib.sha256(data).hexdigest() != meta.rejected_sha256:
        return [Fault(file=path.name, sentence=f"{path}: not as it was written; {REMEDY}")]
    lines = data.splitlines()
    if len(lines) != meta.rejected:
        what = f"has {len(lines):,} lines, and {META_NAME} says {meta.rejected:,}"
        return [Fault(file=path.name, sentence=f"{path}: {what}; {REMEDY}")]
    left_out = [row for shard in shards if shard.index for row in shard.index.rejected]
    missing = set(pack_rejected(left_out).splitlines()) - set(lines)
    if missing:
        first = json.loads(min(missing))["name"]
        what = f"{len(missing):,} clips that an index says were left out are not in it, the first {first!r}"
        return [Fault(file=path.name, sentence=f"{path}: {what}; {REMEDY}")]
    return []


def _verify_contents(root: Path, meta: DatasetMeta, shards: list[VerifiedShard]) -> list[Fault]:
    """Count again what `dataset.json` counts, unless an index is at fault anyway."""
    indexes = [(shard.split, shard.index) for shard in shards if shard.index and shard.is_listed_index]
    if len(indexes) < len(shards) or any(fault.file.endswith(INDEX_SUFFIX) for s in shards for fault in s.faults):
        return []
    found = contents(indexes, meta.words)
    wrong = [name for name, value in found.items() if getattr(meta, name) != value]
    path = root / META_NAME
    return [Fault(file=META_NAME, sentence=f"{path}: its {name} is not that of the shards; {REMEDY}") for name in wrong]


def _twice(root: Path, shards: list[VerifiedShard]) -> list[Fault]:
    """Find keys that are in two shards."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for shard in shards:
        for key in shard.index.keys if shard.index and shard.is_listed_index else ():
            places[key].append(shard.path.name)
    return [
        Fault(file=names[-1], sentence=f"{root}: clip {key!r} is in {' and in '.join(names)}; {REMEDY}", clips=(key,))
        for key, names in sorted(places.items())
        if len(names) > 1
    ]
