"""Recordings in a folder and its folders."""

import hashlib
import os
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from kws_dist.corpus.container import MAX_MEMBER_BYTES, MAX_MEMBERS, Listing, Look, look_at_nothing
from kws_dist.errors import ClipError, DataError, UsageError


class Tree:
    """A folder on disk; a `Container`. Links are followed, each folder once."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UsageError(f"--root {path}: there is no such folder")
        self.path = path
        self._stamps: dict[str, tuple[int, int]] = {}

    def scan(self, look: Look = look_at_nothing) -> Listing:
        """List the files in the folder and in its folders, sorted by name."""
        listing = Listing()
        for name, status in sorted(_walk(self.path), key=lambda row: row[0]):
            if len(self._stamps) >= MAX_MEMBERS:
                raise DataError(f"{self.path}: more than {MAX_MEMBERS:,} files")
            if not name.isprintable():
                listing.refused[name.encode(errors="surrogateescape").decode(errors="backslashreplace")] = (
                    "its name is not UTF-8 or cannot be printed"
                )
                continue
            if status.st_size > MAX_MEMBER_BYTES:
                listing.refused[name] = f"it is larger than {MAX_MEMBER_BYTES >> 20} MiB"
                continue
            listing.size_bytes[name] = status.st_size
            self._stamps[name] = (status.st_size, status.st_mtime_ns)
            if (examine := look(name)) is not None:
                with (self.path / name).open("rb", buffering=0) as file:
                    examine(file)
        return listing

    def staged(self, names: Collection[str], folder: Path) -> AbstractContextManager[None]:  # noqa: ARG002
        """Nothing to prepare: files can be read in any order."""
        return nullcontext()

    def read(self, name: str) -> bytes:
        """Return the content of a file; raises `ClipError` if it cannot be read."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise ClipError(f"{self.path / name}: cannot be read ({error.strerror})") from error

    def identity(self, names: Collection[str]) -> dict[str, str]:
        """SHA-256 of the names and sizes; what is in the files is in the digest of the dataset."""
        return {"listing_sha256": _hash(f"{self._stamps[name][0]} {name}" for name in sorted(names))}

    def state(self, names: Collection[str]) -> str:
        """SHA-256 of the names, sizes and times of change."""
        return _hash(f"{self._stamps[name]} {name}" for name in sorted(names))


def _hash(lines: Iterator[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    seen: set[tuple[int, int]] = set()
    todo = [("", root)]
    while todo:
        prefix, folder = todo.pop()
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue  # a link back to a folder above
        seen.add((status.st_dev, status.st_ino))
        for entry in os.scandir(folder):
            if entry.is_dir():
                todo.append((f"{prefix}{entry.name}/", Path(entry.path)))
            elif entry.is_file():
                yield prefix + entry.name, entry.stat()
