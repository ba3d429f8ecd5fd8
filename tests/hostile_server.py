"""A real HTTP server for the files of a folder, which answers each request for one well, badly, or not to the end."""

import hashlib
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What to do with one request; by default the whole file, or the range that is asked for, with a strong ETag."""

    status: int | None = None
    """In place of 200 or 206, and with no content."""
    change: Callable[[bytes], bytes] = bytes
    """Makes what is sent, as if it were the file, of what the file holds."""
    ranges: bool = True
    """Whether a range is given as asked for; else the whole file is the answer."""
    cut_bytes: int | None = None
    """How much of the answer is sent before it ends as `end` says."""
    end: Literal["close", "reset", "stall", "drip"] = "close"
    """Stalled, it goes on when `HostileServer.released` is set; dripping, it comes byte by byte, 100 a second."""
    with_length: bool = True
    """Whether the length of the answer is announced; else its end is that of the connection."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Besides, or in place of, the proper ones; an empty one is left out."""


GOOD = Answer()


class HostileServer:
    """Serves `files` by name; the i-th request for one gets the i-th of its `answers`, and then good ones."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.answers: defaultdict[str, list[Answer]] = defaultdict(list)
        self.otherwise = GOOD
        """The answer to requests for which there is no other."""
        self.requests: list[tuple[str, str]] = []
        """Name and `Range` of each request, in order."""
        self.sent_bytes = 0
        self.released = threading.Event()
        self.on_request: Callable[[str], None] = lambda _: None
        self.url = ""

    def asked(self, name: str) -> list[str]:
        """The ranges of the requests for a file, empty where there was none."""
        return [asked for wanted, asked in self.requests if wanted == name]

    def next_answer(self, name: str) -> Answer:
        """Return what to do with this request for a file."""
        return self.answers[name].pop(0) if self.answers[name] else self.otherwise


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[HostileServer]:
    """Run a server on a free port of this machine."""
    hostile = HostileServer(files)

    class Handler(_Handler):
        served = hostile

    with _Server(("127.0.0.1", 0), Handler) as server:
        hostile.url = f"http://127.0.0.1:{server.server_port}/data"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hostile
        finally:
            hostile.released.set()
            server.shutdown()
            thread.join()


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the content of the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def bytes_in(folder: Path) -> int:
    """Return the size of all files of a folder, in which they come and go."""
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # a connection for which there is no place tries again after a second


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    served: HostileServer

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client may go when it has enough
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        content = self.served.files[self.path.rpartition("/")[2]]
        self._head(200, {"Content-Length": str(len(content)), "ETag": _etag(content), "Accept-Ranges": "bytes"})

    def do_GET(self) -> None:
        name, asked = self.path.partition("?")[0].rpartition("/")[2], self.headers.get("Range", "")
        self.served.requests.append((name, asked))
        self.served.on_request(name)
        answer = self.served.next_answer(name)
        status = answer.status or (200 if name in self.served.files else 404)
        content = answer.change(self.served.files.get(name, b"")) if status == 200 else b""
        etag = _etag(content)
        ranged = status == 200 and asked and answer.ranges and self.headers.get("If-Range", etag) == etag
        first, last = _range(asked, content) if ranged else (0, len(content) - 1)
        body = content[first : last + 1]
        headers = {"Content-Length": str(len(body)) if answer.with_length else "", "ETag": etag}
        if ranged:
            status, headers["Content-Range"] = 206, f"bytes {first}-{last}/{len(content)}"
        self._head(status, headers | answer.headers)
        self._send(answer, body)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def _send(self, answer: Answer, body: bytes) -> None:
        sent = body if answer.cut_bytes is None else body[: answer.cut_bytes]
        unsent = body[len(sent) :]
        self.served.sent_bytes += len(sent)
        self.wfile.write(sent)
        self.close_connection = bool(unsent) or not answer.with_length
        if unsent and answer.end == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif unsent and answer.end == "stall":
            self.served.released.wait()
            self.wfile.write(unsent)
        elif answer.end == "drip":
            for byte in unsent:
                self.wfile.write(bytes([byte]))
                if self.served.released.wait(0.01):
                    break


def _range(asked: str, content: bytes) -> tuple[int, int]:
    first, _, last = asked.removeprefix("bytes=").partition("-")
    return int(first), min(int(last or len(content)), len(content) - 1)


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'
