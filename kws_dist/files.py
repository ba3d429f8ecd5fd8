"""Files that are either whole or not there: written under another name, flushed to the disk, then renamed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kws_dist.errors import UsageError


def temporary(path: Path) -> Path:
    """The name under which `path` is written until it is whole."""
    return path.with_name(f"{path.name}.tmp")


def open_temporary(path: Path) -> BinaryIO:
    """Open `temporary(path)` for writing from its beginning, alone; `UsageError` if another process has it open."""
    file = temporary(path).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_ino != temporary(path).stat().st_ino:
            raise BlockingIOError  # it got its final name between the two lines above
    except (BlockingIOError, FileNotFoundError) as error:
        file.close()
        raise UsageError(f"{temporary(path)}: another process is writing it; wait for it to end") from error
    except OSError:
        pass  # some network file systems lock no files; then it is up to the user
    file.truncate(0)
    return file


def commit(file: BinaryIO, path: Path) -> None:
    """Flush `file`, open for writing as `temporary(path)`, close it and give it its name, in that order on disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    temporary(path).replace(path)
    sync_folder(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file so that a crash leaves the old one or the new one."""
    try:
        with temporary(path).open("wb") as file:
            file.write(data)
            commit(file, path)
    except OSError as error:  # writing does not say to what
        with suppress(OSError):
            temporary(path).unlink(missing_ok=True)
        raise type(error)(error.errno, error.strerror, str(path)) from error


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the folder for one writer, or for several that share it; whoever comes in between gets a `UsageError`."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{folder}: another process is writing to it; wait for it to end") from error
        except OSError:
            pass  # some network file systems lock no folders; then it is up to the user
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a crash of the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
