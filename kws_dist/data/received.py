"""What comes of an object from elsewhere: how long it is waited for, what is known of it, and what of it is here."""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kws_dist.errors import DataError


class BrokenError(Exception):
    """This attempt failed in a way that the next one may not; says why, as a part of a sentence."""


class ChangedError(BrokenError):
    """What comes does not go on from what is held: it has to come from its start."""


class RefusedError(Exception):
    """There is no use in asking again; says why, as a part of a sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long to wait for a server, and how often to ask it again."""

    connect_s: float = 15.0
    """For a server to take the connection."""
    stall_s: float = 60.0
    """For the next bytes of an answer, and for the next MiB: a server may be slower than that, not stuck."""
    attempts: int = 8
    """How often an object is asked for before it is given up."""
    first_wait_s: float = 1.0
    """Before the second attempt; twice as long before each one after it."""
    longest_wait_s: float = 60.0
    """Where the doubling ends."""

    def wait_s(self, failed: int) -> float:
        """Return how long to wait after so many failed attempts: 0 before the first."""
        return min(self.first_wait_s * 2 ** (failed - 1), self.longest_wait_s) if failed else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is known of an object before it is fetched."""

    limit_bytes: int
    """It is not larger than this; nothing is written beyond."""
    exact: bool = False
    """Whether it has `limit_bytes` exactly."""
    sha256: str | None = None


class Received:
    """What has come of one object, over any number of attempts: written to `file` from its start, hashed on the way."""

    def __init__(self, file: BinaryIO, wanted: Wanted, stopped: threading.Event) -> None:
        self.wanted, self.held_bytes, self.version = wanted, 0, ""
        self._file, self._stopped, self._hash = file, stopped, hashlib.sha256()

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing more to ask for."""
        return self.wanted.exact and self.held_bytes == self.wanted.limit_bytes

    def begin(self, first_byte: int, version: str, size_bytes: int | None) -> None:
        """Hear that the next `write` brings `first_byte` of an object; raises `BrokenError` if that does not fit.

        `version` is whatever tells one content of the object from another; `size_bytes` is of the whole of it.
        """
        wrong_size = self.wanted.exact and size_bytes not in (None, self.wanted.limit_bytes)
        if wrong_size or (size_bytes or 0) > self.wanted.limit_bytes:
            most = "" if self.wanted.exact else "at most "
            raise BrokenError(f"it has {size_bytes:,} bytes there in place of {most}{self.wanted.limit_bytes:,}")
        if first_byte == 0:
            self.restart()
        elif first_byte != self.held_bytes or version != self.version:
            raise ChangedError("it was changed while it was fetched")
        self.version = version

    def write(self, chunk: bytes) -> None:
        """Take the next bytes; raises `DataError` if the disk does not, or if fetching was stopped."""
        if self._stopped.is_set():
            raise DataError("fetching was stopped")
        if self.held_bytes + len(chunk) > self.wanted.limit_bytes:
            raise BrokenError(f"more than {self.wanted.limit_bytes:,} bytes come")
        left = memoryview(chunk)
        try:
            while left:  # a disk that is nearly full takes a part of it
                left = left[self._file.write(left) :]
        except OSError as error:
            raise unwritable(self._file.name, error) from error
        self._hash.update(chunk)
        self.held_bytes += len(chunk)

    def restart(self) -> None:
        """Drop what came."""
        self._file.seek(0)
        self._hash, self.held_bytes, self.version = hashlib.sha256(), 0, ""

    def check(self) -> None:
        """Raise `BrokenError`, and drop what came, unless it is what was wanted."""
        held, found = self.held_bytes, self._hash.hexdigest()
        if self.wanted.exact and held != self.wanted.limit_bytes:
            self.restart()
            raise BrokenError(f"{held:,} bytes come in place of {self.wanted.limit_bytes:,}")
        if self.wanted.sha256 not in (None, found):
            self.restart()
            raise BrokenError(f"wrong bytes come (their SHA-256 is {found}, it should be {self.wanted.sha256})")


def unwritable(path: Path | str, error: OSError) -> DataError:
    """Return the error that says that a file of the cache cannot be written."""
    return DataError(
        f"{path}: cannot be written ({error.strerror}); make room on that disk, lower --data.cache_gb, or name a folder"
        " on another disk with --data.cache_dir"
    )
