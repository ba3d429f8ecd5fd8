"""Open a dataset by its URL: `dataset.json` and the indexes come into a cache, the shards when they are needed."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from kws_dist.data.ahead import do_all
from kws_dist.data.cache_folder import CacheFolder, locked
from kws_dist.data.fetch import Remote, UnreachableError
from kws_dist.data.received import Patience
from kws_dist.data.shard_cache import ShardCache
from kws_dist.errors import DataError
from kws_dist.shards.index import INDEX_SUFFIX, MAX_INDEX_BYTES, index_path
from kws_dist.shards.meta import META_NAME, DatasetMeta, ShardEntry, load_meta
from kws_dist.shards.read import Dataset, open_dataset

_MAX_META_BYTES = 64 << 20
_INDEXES_AT_ONCE = 8
_ATTEMPTS_WITH_COPY = 3  # somebody without a network wants to go on, not to wait


def open_remote(
    url: str | Path,
    cache_folder: Path,
    *,
    limit_bytes: int,
    sharers: int = 1,
    patience: Patience | None = None,
    on_warning: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> tuple[Dataset, ShardCache]:
    """Open the dataset in the folder at `url`; of its shards none is there before the cache is asked for it.

    `dataset.json` is asked for anew each time. If its server cannot be reached, the one that an earlier run left in
    the cache is used. `on_warning` is told of that, and of what failed and is tried again. `limit_bytes` is for all
    that is in `cache_folder`, which `sharers` processes of this machine use. Raises `UsageError` for a URL or a folder
    that cannot be used, `DataError` for a dataset that cannot be had or is damaged.
    """
    remote = Remote(str(url), patience, on_warning)
    folder = CacheFolder(cache_folder, limit_bytes)
    root = folder.of_dataset(hashlib.sha256(remote.shown.rstrip("/").encode()).hexdigest())
    with locked(root):  # of several processes one fetches what is new
        try:
            _bring_up_to_date(remote, folder, root, on_warning)
            dataset = open_dataset(root, check_sizes=False)
        except BaseException:
            remote.stop()
            raise
    entries = [ShardEntry(**entry) for entry in dataset.meta["shards"]]
    return dataset, ShardCache(remote, folder, root, entries, sharers=sharers)


def _bring_up_to_date(remote: Remote, folder: CacheFolder, root: Path, on_warning: Callable[[str], None]) -> None:
    path, new = root / META_NAME, root / f"{META_NAME}.new"
    has_copy = path.is_file()
    try:
        meta = _fetch_meta(remote.asked(_ATTEMPTS_WITH_COPY) if has_copy else remote, folder, new)
    except UnreachableError as error:
        if not has_copy:
            raise
        on_warning(f"{error}; meanwhile it goes on with what an earlier run left in {root}")
        return
    missing = [entry for entry in meta.shards if not _is_current(root, entry)]
    do_all(lambda number: _fetch_index(remote, folder, root, missing[number]), len(missing), _INDEXES_AT_ONCE)
    new.replace(path)  # last, so that a copy which is used without its server is whole
    listed = {index_path(root / entry.name) for entry in meta.shards}
    for index in root.glob(f"*{INDEX_SUFFIX}"):
        if index not in listed:
            index.unlink()


def _fetch_meta(remote: Remote, folder: CacheFolder, path: Path) -> DatasetMeta:
    """Fetch `dataset.json`; one that is damaged is fetched again, unless it comes as it did before."""
    before = b""
    for failed in range(1, remote.patience.attempts + 1):
        data = remote.read(META_NAME, _MAX_META_BYTES)
        folder.write(path, data)
        try:
            return load_meta(path)
        except DataError as error:
            if data == before or failed == remote.patience.attempts:
                raise DataError(str(error).replace(str(path), f"{remote.shown}/{META_NAME}")) from error
            before = data
    raise AssertionError("the last attempt returns or raises")


def _is_current(root: Path, entry: ShardEntry) -> bool:
    try:
        return hashlib.sha256(index_path(root / entry.name).read_bytes()).hexdigest() == entry.index_sha256
    except OSError:
        return False


def _fetch_index(remote: Remote, folder: CacheFolder, root: Path, entry: ShardEntry) -> None:
    path = index_path(root / entry.name)
    folder.write(path, remote.read(path.name, MAX_INDEX_BYTES, entry.index_sha256))
