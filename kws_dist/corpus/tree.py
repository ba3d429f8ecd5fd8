"""Recordings that are files on disk: all those in a folder and its folders, or those in a list."""

import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from kws_dist.corpus.container import (
    MAX_MEMBER_BYTES,
    MAX_MEMBERS,
    TOO_LARGE,
    Listing,
    Look,
    look_at_nothing,
)
from kws_dist.errors import ClipError, DataError, UsageError, printable


class Tree:
    """A folder on disk; a `Container`. Links are followed, each folder once."""

    def __init__(self, path: Path, flag: str = "--root") -> None:
        """`flag` is what the user named the folder by."""
        if not path.is_dir():
            raise UsageError(f"{flag} {path}: there is no such folder")
        self.path = path
        self._folder = f"{path}/"
        self._stamps: dict[str, tuple[int, int]] = {}

    def scan(self, look: Look = look_at_nothing) -> Listing:
        """List the files, sorted by name."""
        listing = Listing()
        for name, status in sorted(self._found(), key=lambda row: row[0]):
            if len(listing.size_bytes) >= MAX_MEMBERS:
                raise DataError(f"{self.path}: more than {MAX_MEMBERS:,} files")
            if not name.isprintable():
                listing.refused[printable(name)] = "its name is not UTF-8 or cannot be printed"
                continue
            fault = _fault(status) or self._look_into(name, look)
            if fault:
                listing.refused[name] = fault
                continue
            assert status is not None, "what is not there is a fault"
            listing.size_bytes[name] = status.st_size
            self._stamps[name] = (status.st_size, status.st_mtime_ns)
        return listing

    def staged(self, names: Collection[str], folder: Path) -> AbstractContextManager[None]:  # noqa: ARG002
        """Nothing to prepare: files can be read in any order."""
        return nullcontext()

    def read(self, name: str) -> bytes:
        """Return the content of a file; raises `ClipError` if it cannot be read."""
        try:
            with open(self._path_of(name), "rb", buffering=0) as file:  # noqa: PTH123 (a Path takes longer than the read)
                return file.read()
        except OSError as error:
            raise ClipError(f"{name}: cannot be read ({error.strerror})") from error

    def identity(self, names: Collection[str]) -> dict[str, str]:
        """SHA-256 of the names and sizes; what is in the files is in the digest of the dataset."""
        return {"listing_sha256": _hash(f"{self._stamps[name][0]} {name}" for name in sorted(names))}

    def state(self, names: Collection[str]) -> str:
        """SHA-256 of the names, sizes and times of change."""
        return _hash(f"{self._stamps[name]} {name}" for name in sorted(names))

    def _found(self) -> Iterator[tuple[str, os.stat_result | None]]:
        """Yield the name of every file, with its status, None for a link to nothing."""
        return _walk(self.path)

    def _path_of(self, name: str) -> str:
        return self._folder + name

    def _look_into(self, name: str, look: Look) -> str | None:
        """Let the looker have the file; return why it cannot be opened, if so."""
        examine = look(name)
        if examine is not None:
            try:
                with open(self._path_of(name), "rb", buffering=0) as file:  # noqa: PTH123
                    examine(file)
            except OSError as error:
                return f"it cannot be read ({error.strerror})"
        return None


class FileList(Tree):
    """Files that a list names, relative to its folder or by absolute path; a `Container` whose path is the list's."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        super().__init__(path.parent, "the folder of")
        self.path = path
        self._names = sorted(set(names))

    def identity(self, names: Collection[str]) -> dict[str, str]:
        """SHA-256 of the list, and of the names and sizes of its files."""
        return {"sha256": hashlib.sha256(self.path.read_bytes()).hexdigest(), **super().identity(names)}

    def _found(self) -> Iterator[tuple[str, os.stat_result | None]]:
        for name in self._names:
            try:
                yield name, os.stat(self._path_of(name))  # noqa: PTH116 (as in `read`)
            except (OSError, ValueError):  # ValueError: a NUL in the name
                yield name, None

    def _path_of(self, name: str) -> str:
        return name if name.startswith("/") else self._folder + name


def _fault(status: os.stat_result | None) -> str | None:
    if status is None:
        return "there is no such file"
    if stat.S_ISDIR(status.st_mode):
        return "it is a folder"
    if not stat.S_ISREG(status.st_mode):
        return "it is not a plain file"
    if status.st_size > MAX_MEMBER_BYTES:
        return TOO_LARGE
    return None


def _hash(lines: Iterator[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    seen: set[tuple[int, int]] = set()
    todo = [("", str(root))]
    while todo:
        prefix, folder = todo.pop()
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            continue  # a link back to a folder above
        seen.add((status.st_dev, status.st_ino))
        inside: list[tuple[str, str]] = []
        for entry in os.scandir(folder):
            try:
                if entry.is_dir():
                    inside.append((f"{prefix}{entry.name}/", entry.path))
                else:
                    yield prefix + entry.name, entry.stat()
            except OSError:  # a link to nothing, or to itself
                yield prefix + entry.name, None
        todo += sorted(inside, reverse=True)  # of two names for a folder, always the same one is taken
