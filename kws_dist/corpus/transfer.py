"""A file of known size from an HTTP server, going on where a broken connection left off.

`requests` decodes what it hands out and drops what came just before a break. So the raw stream under it is read, one
system call at a time: every byte that came is in the file, and a server that knows ranges sends nothing twice.
"""

import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import requests
from urllib3.exceptions import HTTPError

from kws_dist.errors import DataError, printable

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes that there will be."""

_CHUNK_BYTES = 1 << 18
_ASK_AGAIN_LATER = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_LENGTH = re.compile(r"\d{1,18}")  # Python makes no number of 5,000 digits


class TransferError(Exception):
    """The server does not hand the file out; says why, as the end of a sentence that begins with its address."""


class _BrokenError(Exception):
    """This try failed in a way that the next one may not."""

    def __init__(self, reason: str, *, nobody_there: bool = False) -> None:
        super().__init__(reason)
        self.nobody_there = nobody_there


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long to wait for others."""

    connect_s: float = 15.0
    """For a server to take the connection."""
    read_s: float = 60.0
    """For the next bytes of an answer."""
    waits_s: Sequence[float] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Before each new try after a broken connection; one that brought new bytes starts this list again."""
    poll_s: float = 0.5
    """Between two looks at whether another process that fetches the same file has ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """The file at `url`, of which it is known that it has `size_bytes`; never more than that is written."""

    url: str
    size_bytes: int
    patience: Patience
    on_progress: Progress

    def fill(self, part: Path) -> bool:
        """Fetch what is missing at the end of `part`; return whether all of it came in one answer.

        Raises `TransferError`, and `DataError` if the disk is at fault; what came before stays in the file.
        """
        part.touch()
        with part.open("r+b", buffering=0) as file:
            waits_s, came = list(self.patience.waits_s), False
            while (held := _size_bytes(part)) < self.size_bytes:
                try:
                    return self._try(file, held)
                except _BrokenError as broken:
                    if _size_bytes(part) > held:
                        waits_s, came = list(self.patience.waits_s), True
                    if not waits_s or (broken.nobody_there and not came):
                        raise TransferError(self._given_up(broken, _size_bytes(part))) from broken
                time.sleep(waits_s.pop(0))
        return False

    def _given_up(self, broken: _BrokenError, held: int) -> str:
        kept = f" at byte {held:,} of {self.size_bytes:,}; what came is kept for when it is run again" if held else ""
        return f"{broken}{kept}"

    def _try(self, file: IO[bytes], held: int) -> bool:
        with self._get(held) as response:
            first_byte = self._first_byte(response, held)
            if first_byte is not None:
                self._receive(response, file, first_byte)
                return first_byte == 0
        return self._try(file, 0)

    def _get(self, first_byte: int) -> requests.Response:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={first_byte}-"} if first_byte else {})
        waits_s = (self.patience.connect_s, self.patience.read_s)
        try:
            return requests.get(self.url, headers=headers, stream=True, timeout=waits_s)
        except requests.ConnectTimeout as error:
            raise _BrokenError(f"no connection within {waits_s[0]:g} s", nobody_there=True) from error
        except requests.Timeout as error:
            raise _BrokenError(f"no answer within {waits_s[1]:g} s") from error
        except requests.ConnectionError as error:
            raise _broken(error) from error
        except (requests.RequestException, HTTPError) as error:  # a host like a..b is found out by urllib3
            raise TransferError(str(error)) from error

    def _first_byte(self, response: requests.Response, asked: int) -> int | None:
        """Return the byte that the answer begins with; None if the server makes nothing of the range asked for."""
        status = response.status_code
        refusal = f"the server answers {status} {printable(response.reason or '')}"
        if status in _ASK_AGAIN_LATER:
            raise _BrokenError(refusal)
        if status != 200 and not (asked and status in (206, 416)):
            raise TransferError(refusal)
        content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        size = response.headers.get("Content-Length", "") if status == 200 else content_range and content_range[2]
        if size and _LENGTH.fullmatch(size) and int(size) != self.size_bytes:
            raise TransferError(f"the file there has {int(size):,} bytes, and the official one {self.size_bytes:,}")
        if status == 200:
            return 0
        return asked if status == 206 and content_range and content_range[1] == str(asked) else None

    def _receive(self, response: requests.Response, file: IO[bytes], first_byte: int) -> None:
        """Write the answer over what is there, up to the size known, whatever the server thinks is the end."""
        file.seek(first_byte)
        there = first_byte
        self.on_progress(there, self.size_bytes)
        while there < self.size_bytes:
            try:
                chunk = response.raw.read1(min(_CHUNK_BYTES, self.size_bytes - there), decode_content=False)
            except HTTPError as error:
                raise _broken(error, f"nothing came for {self.patience.read_s:g} s") from error
            if not chunk:
                raise _BrokenError("the connection broke")
            self._write(file, chunk)
            there += len(chunk)
            self.on_progress(there, self.size_bytes)

    def _write(self, file: IO[bytes], chunk: bytes) -> None:
        left = memoryview(chunk)
        try:
            while left:  # a disk that is nearly full takes a part of it
                left = left[file.write(left) :]
        except OSError as error:
            raise DataError(
                f"{file.name}: cannot be written ({error.strerror}); make room or choose another cache folder, "
                "and run the same command again: what came is kept"
            ) from error


def _broken(error: BaseException, timed_out: str = "") -> _BrokenError:
    """Return what broke, in the words of the operating system where it has some."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        if isinstance(cause, TimeoutError) and timed_out:
            return _BrokenError(timed_out)
        cause = cause.__cause__ or cause.__context__
    nobody_there = isinstance(cause, socket.gaierror | ConnectionRefusedError | ssl.SSLError)
    return _BrokenError((cause and cause.strerror) or "the connection broke", nobody_there=nobody_there)


def _size_bytes(part: Path) -> int:
    return part.stat().st_size
