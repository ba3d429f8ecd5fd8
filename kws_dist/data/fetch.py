"""The objects below a URL, fetched whole: asked for again after a failure, then given up with one sentence."""

import io
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit, urlunsplit

from kws_dist.data.received import BrokenError, Patience, Received, RefusedError, Wanted
from kws_dist.data.sources import cloud, read_cloud, read_file, read_http
from kws_dist.errors import DataError, UsageError

_READERS: dict[str, Callable[[str, Received, Patience], None]] = {
    "": read_file,
    "file": read_file,
    "http": read_http,
    "https": read_http,
    "s3": read_cloud,
    "gs": read_cloud,
    "gcs": read_cloud,
}
_ATTEMPTS_OF_A_DISK = 3
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")
_USER = re.compile(r"//[^/?#]*@")  # with a password


class UnreachableError(DataError):
    """All attempts failed in ways that a later one may not."""


class Remote:
    """A folder at a URL: a path, file://, http(s)://, s3:// or gs://."""

    def __init__(
        self, url: str, patience: Patience | None = None, on_retry: Callable[[str], None] | None = None
    ) -> None:
        """`on_retry` is told of what failed and is tried again.

        Raises `UsageError` for a URL that is none of these, or whose package is not installed.
        """
        self._on_retry = on_retry
        self._reader, self._stopped = _READERS[_scheme(url)], threading.Event()
        self.patience = patience or Patience()
        if self._reader is read_file:  # a disk that reads wrong goes on to do so
            self.patience = replace(self.patience, attempts=min(self.patience.attempts, _ATTEMPTS_OF_A_DISK))
        self._url = _local(url) if self._reader is read_file else url
        self.shown = self._shown(self._url)
        """The URL as a person may read it: without password or token."""
        if self._reader is read_cloud:
            cloud(url)

    def asked(self, attempts: int) -> "Remote":
        """Return the same folder, which is given up after fewer attempts."""
        return Remote(self._url, replace(self.patience, attempts=min(attempts, self.patience.attempts)), self._on_retry)

    def fetch(self, name: str, file: BinaryIO, wanted: Wanted) -> None:
        """Write the object `name` to `file`, from its start.

        Raises `DataError` when it cannot be had (`UnreachableError` if it may be had later), when the disk does not
        take it, or when `stop` is called.
        """
        received, url = Received(file, wanted, self._stopped), self._below(name)
        last = BrokenError()
        for failed in range(self.patience.attempts):
            self.pause(self.patience.wait_s(failed))
            try:
                if not received.is_complete:
                    self._reader(url, received, self.patience)
                return received.check()
            except RefusedError as refused:
                raise DataError(
                    f"{self._shown(url)}: {refused}; check the address, and that you may read what is there"
                ) from refused
            except BrokenError as broken:
                last = broken
                if self._on_retry and failed + 1 < self.patience.attempts:
                    what = f"attempt {failed + 1} of {self.patience.attempts}"
                    self._on_retry(f"{self._shown(url)}: {what} failed ({broken}); trying again")
        raise UnreachableError(
            f"{self._shown(url)}: given up after {self.patience.attempts} attempts (at the last one: {last});"
            " check the server and the network, and run the same command again"
        ) from last

    def read(self, name: str, limit_bytes: int, sha256: str | None = None) -> bytes:
        """Return the object `name`, which is at most so large; errors as of `fetch`."""
        file = io.BytesIO()
        self.fetch(name, file, Wanted(limit_bytes=limit_bytes, sha256=sha256))
        return file.getvalue()[: file.tell()]

    def pause(self, wait_s: float) -> None:
        """Wait; raises `DataError` as soon as `stop` is called."""
        if self._stopped.wait(wait_s):
            raise DataError(f"{self.shown}: fetching was stopped")

    def stop(self) -> None:
        """End what is being fetched, with a `DataError`; a thread that waits for a server ends when that answers."""
        self._stopped.set()

    def _below(self, name: str) -> str:
        if self._reader is not read_http:
            return f"{self._url.rstrip('/')}/{name}"
        parts = urlsplit(self._url)  # a token that opens the folder stays behind the name
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))

    def _shown(self, url: str) -> str:
        if self._reader is read_file:
            return url
        return _without_secrets(url) if self._reader is read_http else _USER.sub("//", url)


def _scheme(url: str) -> str:
    """Return the part of a URL before the colon, "" for a path; `UsageError` if there is no reading it."""
    found = _SCHEME.match(url)
    scheme = found[0].lower() if found else ""
    if scheme not in _READERS:
        known = ", ".join(f"{name}://" for name in _READERS if name)
        raise UsageError(
            f"--data.shards {_without_secrets(url)!r}: {scheme}: cannot be read; give a folder or a URL with {known}"
        )
    if _READERS[scheme] is read_file:
        return scheme
    try:
        parts = urlsplit(url)
        usable = parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(
            f"--data.shards {_without_secrets(url)!r}: not an address; it should look like {scheme}://NAME/FOLDER"
        )
    return scheme


def _local(url: str) -> str:
    found = re.fullmatch(r"file:(?://(?:localhost)?(?=/))?(.*)", url, re.IGNORECASE | re.DOTALL)
    return str(Path(unquote(found[1]) if found else url).expanduser().absolute())


def _without_secrets(url: str) -> str:
    """Return what may be shown of an address, also of one that is none."""
    return _USER.sub("//", re.split(r"[?#]", url, maxsplit=1)[0])
