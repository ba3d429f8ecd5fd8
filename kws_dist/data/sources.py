"""How the bytes of one object come: from a file, an HTTP server or a cloud store; one attempt, which may go on.

HTTP does not go through fsspec: its HTTP file system ends every request after 5 minutes however well it runs, has no
time-out for a server that stops sending, keeps nothing of a broken answer and decodes what it hands out. `requests`
does better, and each call is on its own: no event loop, nothing that a fork could break. A plain file needs neither.
"""

import os
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import requests
from urllib3.exceptions import HTTPError

from kws_dist.data.received import BrokenError, ChangedError, Patience, Received, RefusedError
from kws_dist.errors import DataError, UsageError

_CHUNK_BYTES = 1 << 18
_STEADY_BYTES = 1 << 20
_RANGE_BYTES = 4 << 20  # of a request to a cloud store: large enough that its latency does not count
_ASK_AGAIN_LATER = (408, 429)  # and all of 5xx
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")  # Python makes no number of 5,000 digits
_LENGTH = re.compile(r"\d{1,18}")
_STRONG_ETAG = re.compile(r'"[^"]*"')


def read_file(path: str, received: Received, patience: Patience) -> None:  # noqa: ARG001 - a disk has no time-out
    """Read a file; what came of a try that failed is read again, which takes no time."""
    try:
        with Path(path).open("rb") as file:
            received.begin(0, "", os.fstat(file.fileno()).st_size)
            while chunk := file.read(_CHUNK_BYTES):
                received.write(chunk)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise RefusedError(str(error.strerror)) from error
    except OSError as error:
        raise BrokenError(str(error.strerror)) from error


def read_http(url: str, received: Received, patience: Patience) -> None:
    """Read an http(s) URL, from where an earlier attempt broke off if the server can and the object is the same."""
    goes_on = received.held_bytes > 0
    try:
        _read(url, received, patience)
    except ChangedError:
        if not goes_on:
            raise
        received.restart()
        _read(url, received, patience)


def _read(url: str, received: Received, patience: Patience) -> None:
    with _get(url, received, patience) as response:
        first_byte, size_bytes = _extent(response)
        validators = (response.headers.get("ETag"), response.headers.get("Last-Modified"))
        received.begin(first_byte, " ".join(filter(None, validators)), size_bytes)
        _receive(response, received, patience, received.wanted.limit_bytes if received.wanted.exact else size_bytes)


def _get(url: str, received: Received, patience: Patience) -> requests.Response:
    headers = {"Accept-Encoding": "identity"}
    if received.held_bytes:
        headers["Range"] = f"bytes={received.held_bytes}-"
        if strong := _STRONG_ETAG.match(received.version):  # any other is compared when the answer is here
            headers["If-Range"] = strong[0]
    try:
        return requests.get(url, headers=headers, stream=True, timeout=(patience.connect_s, patience.stall_s))
    except requests.ConnectTimeout as error:
        raise BrokenError(f"no connection within {patience.connect_s:g} s") from error
    except requests.Timeout as error:
        raise BrokenError(f"no answer within {patience.stall_s:g} s") from error
    except requests.ConnectionError as error:
        raise BrokenError(_words(error)) from error
    except (requests.RequestException, HTTPError) as error:  # a host like a..b is found out by urllib3
        # The words of this error may hold the URL, and that a password.
        raise RefusedError(f"the request fails ({type(error).__name__})") from error


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """Return which byte of the object the answer begins with, and the size of the object if it is told."""
    status, headers = response.status_code, response.headers
    refusal = f"the server answers {status} {_printable(response.reason or '')}".rstrip()
    if status in _ASK_AGAIN_LATER or status >= 500:
        raise BrokenError(refusal)
    if status == 416:
        raise ChangedError(refusal)
    if headers.get("Content-Encoding", "identity") != "identity":
        encoding = _printable(headers["Content-Encoding"])
        raise RefusedError(f"the server sends it as {encoding}, which it was asked not to")
    if status == 200:
        size = headers.get("Content-Length", "")
        return 0, int(size) if _LENGTH.fullmatch(size) else None
    if status != 206:
        raise RefusedError(refusal)
    told = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if not told:
        raise ChangedError("the server does not say which part it sends")
    return int(told[1]), int(told[2]) if told[2] != "*" else None


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())


def _receive(response: requests.Response, received: Received, patience: Patience, end_byte: int | None) -> None:
    steady_at, deadline_s = received.held_bytes + _STEADY_BYTES, time.monotonic() + patience.stall_s
    while received.held_bytes != end_byte:
        most = _CHUNK_BYTES if end_byte is None else min(_CHUNK_BYTES, end_byte - received.held_bytes)
        try:
            # One system call at a time, so that every byte that came before a break is kept.
            chunk = response.raw.read1(most, decode_content=False)
        except HTTPError as error:
            why = _words(error, f"nothing came for {patience.stall_s:g} s")
            raise BrokenError(f"{why} at byte {received.held_bytes:,}") from error
        if not chunk and end_byte is None:
            return
        if not chunk:
            raise BrokenError(f"the connection broke at byte {received.held_bytes:,}")
        received.write(chunk)
        if received.held_bytes >= steady_at:
            steady_at, deadline_s = received.held_bytes + _STEADY_BYTES, time.monotonic() + patience.stall_s
        elif time.monotonic() > deadline_s:
            raise BrokenError(f"less than {_STEADY_BYTES >> 20} MiB came in {patience.stall_s:g} s")


def _words(error: BaseException, timed_out: str = "") -> str:
    """Return what broke, in the words of the operating system where it has some."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        if isinstance(cause, TimeoutError) and timed_out:
            return timed_out
        cause = cause.__cause__ or cause.__context__
    return (cause and cause.strerror) or "the connection broke"


def cloud(url: str) -> Any:
    """Return the fsspec file system for an s3:// or gs:// URL: one for all threads, another one after a fork.

    Keys, end points and other settings are those of fsspec's configuration and of the cloud's own variables.
    """
    scheme = urlsplit(url).scheme
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        package = "s3fs" if scheme == "s3" else "gcsfs"
        raise UsageError(f"{url}: {scheme}:// needs the package {package}: pip install 'kws_dist[cloud]'") from error


def read_cloud(url: str, received: Received, patience: Patience) -> None:
    """Read an s3:// or gs:// URL in ranges, from where an earlier attempt broke off if the object is the same."""
    files = cloud(url)
    try:
        about = files.info(url, timeout=patience.stall_s)
        size_bytes, version = int(about["size"]), str(about.get("ETag") or about.get("etag") or about)
        received.begin(received.held_bytes if version == received.version else 0, version, size_bytes)
        while (first := received.held_bytes) < size_bytes:
            # fsspec gives `timeout` to its event loop, which ends the request then.
            end = min(first + _RANGE_BYTES, size_bytes)
            received.write(files.cat_file(url, start=first, end=end, timeout=patience.stall_s))
            if received.held_bytes == first:
                raise BrokenError(f"nothing came at byte {first:,} of {size_bytes:,}")
    except (BrokenError, DataError):
        raise
    except FileNotFoundError as error:
        raise RefusedError("there is no such object") from error
    except TimeoutError as error:
        raise BrokenError(f"nothing came for {patience.stall_s:g} s") from error
    except Exception as error:  # each cloud's package has errors of its own
        refused = isinstance(error, PermissionError) or "Credentials" in type(error).__name__
        raise (RefusedError if refused else BrokenError)(f"{type(error).__name__} {error}".rstrip()) from error
