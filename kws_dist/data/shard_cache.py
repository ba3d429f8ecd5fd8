"""The shards of a dataset that lies elsewhere, each fetched when it is asked for, verified and held while it is used.

A shard has its name in the cache only if all that came had the SHA-256 that `dataset.json` lists. One that an earlier
process left, or that anybody has touched, is verified again before it is used, and fetched again if it is not whole.
"""

import hashlib
import os
import resource
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from io import FileIO
from pathlib import Path

from kws_dist.data.ahead import do_all
from kws_dist.data.cache_folder import CacheFolder, NoRoomError, gb
from kws_dist.data.fetch import Remote
from kws_dist.data.received import Wanted
from kws_dist.shards.meta import ShardEntry

_POLL_S = 0.05
_OPEN_FILES = 1 << 16


class ShardCache:
    """The shards `entries` of the dataset at `remote`, in the folder `root` of a cache folder."""

    def __init__(
        self, remote: Remote, folder: CacheFolder, root: Path, entries: Iterable[ShardEntry], *, sharers: int = 1
    ) -> None:
        """`sharers`: how many processes of this machine use the cache folder; each takes its share of the room."""
        self._remote, self._folder, self._root, self._sharers = remote, folder, root, sharers
        self._entries = {entry.name: entry for entry in entries}
        self._held: dict[str, FileIO] = {}
        self._coming: set[str] = set()
        self._verified: dict[str, tuple[int, ...]] = {}
        self._wanted: frozenset[Path] = frozenset()
        self._users: list[Callable[[], None]] = []
        self._fixed_bytes = folder.fixed_bytes()
        _allow_open_files()

    def get(self, name: str) -> Path:
        """Return the path of a shard that is there, whole, and stays until it is released.

        Waits while another process fetches it. Raises `DataError` if it cannot be had, `NoRoomError` if the limit has
        no room for it.
        """
        path = self._root / name
        if name not in self._held:
            self._coming.add(name)
            try:
                self._held[name] = self._obtain(self._entries[name], path)
            finally:
                self._coming.discard(name)
        return path

    def release(self, name: str) -> None:
        """Let a shard be removed when room is needed."""
        file = self._held.pop(name, None)
        if file:
            if self._verified.get(name) == _state(file):
                self._mark_used(file, name)
            file.close()

    def discard(self, name: str) -> None:
        """Remove a shard that is damaged although it was whole."""
        file = self._held.pop(name, None)
        if file:
            self._folder.remove(file, self._root / name)

    def hold(self, names: Collection[str], *, threads: int = 4) -> None:
        """Fetch some shards whole, now, and keep them until `close`, or until `let_go`: for data that fit at once."""
        wanted = list(names)
        self._fixed_bytes += self._bytes(wanted)
        do_all(lambda number: self.get(wanted[number]), len(wanted), threads)

    def let_go(self, names: Collection[str]) -> None:
        """Release shards that are held, because they have been read."""
        self._fixed_bytes -= self._bytes(names)
        for name in names:
            self.release(name)

    def within_limit(self, now: Collection[str], soon: Iterable[str]) -> list[str]:
        """Return all of `now` and, in order, what fits of `soon`; what is there of these is not removed to make room.

        Raises `UsageError` if this process's share of the limit has no room for `now`.
        """
        chosen = dict.fromkeys(now)
        room_bytes = (self._folder.limit_bytes - self._fixed_bytes) // self._sharers - self._bytes(chosen)
        if room_bytes < 0:
            least_bytes = self._folder.limit_bytes - room_bytes * self._sharers
            raise NoRoomError(
                f"--data.cache_gb {gb(self._folder.limit_bytes)} is too small: the {len(chosen)} shards that one step"
                f" needs take {gb(self._bytes(chosen))} GB on each of {self._sharers} processes, besides"
                f" {gb(self._fixed_bytes)} GB that stay; make it at least {gb(least_bytes)}"
            )
        for name in soon:
            room_bytes -= 0 if name in chosen else self._entries[name].bytes
            if room_bytes < 0:
                break
            chosen[name] = None
        self._wanted = frozenset(self._root / name for name in chosen)
        return list(chosen)

    def join(self, let_go: Callable[[], None]) -> None:
        """Hear of one more who gets shards, and can release all of them when there is no room for what is needed."""
        self._users.append(let_go)

    def make_room(self) -> None:
        """Have all shards released that are not held whole: the plans of their users were wrong, or are another's."""
        self._wanted = frozenset()
        for let_go in self._users:
            let_go()

    def close(self) -> None:
        """Stop fetching and release all shards."""
        self._remote.stop()
        for name in list(self._held):
            self.release(name)

    def _obtain(self, entry: ShardEntry, path: Path) -> FileIO:
        patient_until_s = time.monotonic() + self._remote.patience.stall_s
        while True:
            try:
                claimed = self._folder.claim(path, entry.bytes, self._wanted)
            except NoRoomError:
                if time.monotonic() > patient_until_s or not self._others_take_room():
                    raise
                claimed = None
            if claimed is None:
                self._remote.pause(_POLL_S)
                continue
            file, is_there = claimed
            if not is_there:
                self._fill(file, entry, path)
            elif not self._is_whole(file, entry):
                self._folder.remove(file, path)
                continue
            self._mark_used(file, entry.name)
            return file

    def _others_take_room(self) -> bool:
        """Whether all that this process uses would fit: then it is worth waiting for others to release theirs."""
        own = self._bytes(self._held.keys() | self._coming)
        return own + self._folder.fixed_bytes() <= self._folder.limit_bytes

    def _bytes(self, names: Iterable[str]) -> int:
        return sum(self._entries[name].bytes for name in names)

    def _fill(self, file: FileIO, entry: ShardEntry, path: Path) -> None:
        try:
            wanted = Wanted(limit_bytes=entry.bytes, exact=True, sha256=entry.sha256)
            self._remote.fetch(entry.name, file, wanted)
            self._folder.commit(file, path)
        except BaseException:
            self._folder.abandon(file, path)
            raise

    def _is_whole(self, file: FileIO, entry: ShardEntry) -> bool:
        if self._verified.get(entry.name) == _state(file):
            return True
        try:
            size_bytes = os.fstat(file.fileno()).st_size
            return size_bytes == entry.bytes and hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
        except OSError:  # a disk that cannot read it any more
            return False

    def _mark_used(self, file: FileIO, name: str) -> None:
        """Remember when a shard was used, on disk, and how it looks: whoever touches it changes that."""
        with suppress(PermissionError):  # of another user, in a folder that several share
            now_ns = time.time_ns()  # finer than the clock of the file system, so no two shards are equally old
            os.utime(file.fileno(), ns=(now_ns, now_ns))
        self._verified[name] = _state(file)


def _allow_open_files() -> None:
    """Let this process have two files open for each of thousands of shards; most systems begin with 1,024 in all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = min(hard, _OPEN_FILES) if hard != resource.RLIM_INFINITY else _OPEN_FILES
    if soft != resource.RLIM_INFINITY and soft < enough:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def _state(file: FileIO) -> tuple[int, ...]:
    about = os.fstat(file.fileno())
    return about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
