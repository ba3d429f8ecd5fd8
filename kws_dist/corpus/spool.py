"""A temporary file that holds the members of a stream, so that they can be read in any order and by many processes."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kws_dist.errors import DataError

_PREFIX, _SUFFIX = ".spool-", ".tmp"
_SETTLED_S = 60.0  # after this a process on another machine has locked its file


class Spool:
    """Members by name. A spool that a killed process left is removed."""

    def __init__(self) -> None:
        self._path = Path()
        self._place: dict[str, tuple[int, int]] = {}

    @contextmanager
    def filled(self, members: Iterable[tuple[str, bytes]], expected_bytes: int, folder: Path) -> Iterator[None]:
        """Hold the members in a file in `folder`, which is removed at the end.

        Raises `DataError` before anything is written when the disk has not the room, or when it is full after all.
        """
        remove_abandoned(folder)
        _check_room(folder, expected_bytes)
        prefix = f"{_PREFIX}{os.uname().nodename}-{os.getpid()}-"
        with tempfile.NamedTemporaryFile(dir=folder, prefix=prefix, suffix=_SUFFIX, buffering=0) as file:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path = Path(file.name)
            self._path, self._place = path, {}
            end = 0
            for name, content in members:
                _write(file, content, path)
                self._place[name] = (end, len(content))
                end += len(content)
            yield

    def read(self, name: str) -> bytes:
        """Return a member."""
        offset, size_bytes = self._place[name]
        with self._path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size_bytes, offset)


def _write(file: Any, content: bytes, path: Path) -> None:
    left = memoryview(content)
    try:
        while left:  # a disk that is nearly full takes a part of it
            left = left[file.write(left) :]
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); make room and run it again") from error


def _check_room(folder: Path, expected_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if expected_bytes > free_bytes:
        raise DataError(
            f"{folder}: {expected_bytes / 1e6:,.0f} MB of room are needed on this disk for a while, and"
            f" {free_bytes / 1e6:,.0f} MB are free; choose another --out"
        )


def remove_abandoned(folder: Path) -> None:
    """Remove the spools of processes that were killed."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError, ValueError):
            if _may_be_new(path):
                continue
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process lives
                path.unlink()


def _may_be_new(path: Path) -> bool:
    """Whether the process that made the file may not have come to locking it yet."""
    host, pid, _ = path.name.removeprefix(_PREFIX).rsplit("-", 2)
    if host != os.uname().nodename:
        return time.time() - path.stat().st_mtime < _SETTLED_S
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True
