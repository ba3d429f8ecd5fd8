"""A temporary file that holds the members of a stream, so that they can be read in any order and by many processes."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kws_dist.errors import DataError

_PREFIX, _SUFFIX = ".spool-", ".tmp"


class Spool:
    """Members by name; can be pickled while it is filled. A spool that a killed process left is removed."""

    def __init__(self) -> None:
        self._path = Path()
        self._place: dict[str, tuple[int, int]] = {}

    @contextmanager
    def filled(self, members: Iterable[tuple[str, bytes]], expected_bytes: int, folder: Path) -> Iterator[None]:
        """Hold the members in a file in `folder`, which is removed at the end.

        Raises `DataError` before anything is written when the disk has not the room, or when it is full after all.
        """
        _remove_abandoned(folder)
        _check_room(folder, expected_bytes)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_PREFIX, suffix=_SUFFIX, buffering=0) as file:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._path, self._place = Path(file.name), {}
            end = 0
            for name, content in members:
                _write(file, content, self._path)
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


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process lives
            path.unlink()
