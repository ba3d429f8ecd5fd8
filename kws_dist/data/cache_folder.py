"""A folder of fetched files that several processes share and that never outgrows its limit.

Which files are there changes only while the folder is locked, which is never for long. Who uses a shard holds a shared
lock of its file, and who writes one an exclusive lock of its temporary file: so no process takes away what another one
uses, and the locks of a killed process are gone with it.
"""

import fcntl
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from kws_dist.data.received import unwritable
from kws_dist.errors import UsageError
from kws_dist.files import temporary, write_whole
from kws_dist.shards.index import SHARD_NAME

_OURS = re.compile(r"stream-[0-9a-f]{16}")  # nothing else in the folder is looked at, let alone removed


class NoRoomError(UsageError):
    """The limit leaves no room for another file."""


@dataclass(frozen=True)
class _File:
    path: Path
    size_bytes: int
    used_ns: int
    is_shard: bool


class CacheFolder:
    """The folder `path`: the files in its folders of datasets have at most `limit_bytes` together."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path, self.limit_bytes = path, limit_bytes
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"--data.cache_dir {path}: nothing can be kept there ({error.strerror}); name another folder"
            ) from error

    def of_dataset(self, identity: str) -> Path:
        """Return the folder of the dataset that is known by these hexadecimal digits."""
        folder = self.path / f"stream-{identity[:16]}"
        folder.mkdir(exist_ok=True)
        return folder

    def fixed_bytes(self) -> int:
        """Return how much of the limit is taken by files that stay: neither shards nor parts of them."""
        return sum(file.size_bytes for file in self._files() if not (file.is_shard or _is_part(file.path)))

    def claim(self, path: Path, size_bytes: int, keep: Collection[Path] = ()) -> tuple[FileIO, bool] | None:
        """Take hold of the shard `path`: return it open, and whether it is there or still to be written.

        If it is there, nobody removes it until the file is closed. If not, the file is its temporary one, for which
        room was made: `commit` or `abandon` it. None: another process is writing it. Raises `NoRoomError` if there
        is not enough room without the shards that are in use or in `keep`.
        """
        with locked(self.path):
            with suppress(FileNotFoundError):
                file = path.open("rb", buffering=0)
                fcntl.flock(file, fcntl.LOCK_SH)
                return file, True
            file = _open_alone(temporary(path))
            if file is None:
                return None
            try:
                file.truncate(0)
                self._make_room(size_bytes, keep)
                file.truncate(size_bytes)  # it counts from now on
            except (OSError, NoRoomError) as error:
                _drop(file, path)
                raise (unwritable(path, error) if isinstance(error, OSError) else error) from error
            return file, False

    def commit(self, file: FileIO, path: Path) -> None:
        """Give a temporary file its name; the open file holds the shard from now on."""
        with locked(self.path):
            temporary(path).replace(path)
            fcntl.flock(file, fcntl.LOCK_SH)

    def abandon(self, file: FileIO, path: Path) -> None:
        """Remove and close a temporary file."""
        with locked(self.path):
            _drop(file, path)

    def remove(self, file: FileIO, path: Path) -> None:
        """Remove and close a shard that is held, unless another one has its name by now."""
        with locked(self.path), file, suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                path.unlink()

    def write(self, path: Path, data: bytes) -> None:
        """Write a small file, whole or not at all; room is made for it."""
        with locked(self.path):
            self._make_room(len(data), ())
            try:
                write_whole(path, data)
            except OSError as error:
                raise unwritable(path, error) from error

    def _make_room(self, wanted_bytes: int, keep: Collection[Path]) -> None:
        """Remove what killed processes left, and the shards that were used least recently until there is room."""
        files = [file for file in self._files() if not (_is_part(file.path) and _removed(file.path))]
        over_bytes = sum(file.size_bytes for file in files) + wanted_bytes - self.limit_bytes
        for file in sorted(files, key=lambda file: file.used_ns):
            if over_bytes > 0 and file.is_shard and file.path not in keep and _removed(file.path):
                over_bytes -= file.size_bytes
        if over_bytes > 0:
            raise NoRoomError(
                f"--data.cache_gb {gb(self.limit_bytes)} is too small: {gb(self.limit_bytes + over_bytes)} are needed"
                " at once; raise it"
            )

    def _files(self) -> list[_File]:
        found = []
        for folder in self.path.iterdir():
            for path in folder.iterdir() if _OURS.fullmatch(folder.name) else ():
                with suppress(FileNotFoundError):
                    about, is_shard = path.stat(), bool(SHARD_NAME.fullmatch(path.name))
                    found.append(_File(path, about.st_size, about.st_mtime_ns, is_shard))
        return found


def gb(size_bytes: int) -> str:
    """Return a size as --data.cache_gb wants it, rounded up."""
    return f"{-(-size_bytes // 10_000) / 100_000:.12g}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder alone; waits for other processes and threads."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:  # without locks a process could take away what another one uses
            raise UsageError(
                f"--data.cache_dir {folder}: files cannot be locked there ({error.strerror}); name a folder on another"
                " disk"
            ) from error
        yield
    finally:
        os.close(handle)


def _open_alone(path: Path) -> FileIO | None:
    path.touch()
    file = path.open("r+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _drop(file: FileIO, path: Path) -> None:
    temporary(path).unlink(missing_ok=True)
    file.close()


def _is_part(path: Path) -> bool:
    return path.suffix == ".tmp" and bool(SHARD_NAME.fullmatch(path.stem))


def _removed(path: Path) -> bool:
    """Remove a file unless somebody holds it; whether it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        pass
    except BlockingIOError:
        return False
    return True
