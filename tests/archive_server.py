"""A real HTTP server for one file, which answers each request as it is told to: well, badly, or not to the end."""

import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What to do with one request; by default the whole file, or the range that is asked for."""

    status: int | None = None
    """In place of 200 or 206."""
    content: bytes | None = None
    """In place of the file."""
    ranges: bool = True
    """Whether a range is given as asked for; else the whole file is the answer."""
    cut_bytes: int | None = None
    """How much of the answer is sent before the connection ends."""
    end: Literal["close", "reset", "stall"] = "close"
    """How it ends. Stalled, it goes on when `ArchiveServer.released` is set."""
    with_length: bool = True
    """Whether the length of the answer is announced; else its end is that of the connection."""
    more: bytes = b""
    """Sent after the end, again and again if there is no length."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Besides, or in place of, the proper ones."""


@dataclass(frozen=True)
class Request:
    """What was asked for, and how much of the file was sent for it (before a stall)."""

    path: str
    range: str
    encoding: str
    sent_bytes: int


class ArchiveServer:
    """Serves `content` under any path; request i gets `answers[i]`, later ones the last of them."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.answers: Sequence[Answer] = [Answer()]
        self.requests: list[Request] = []
        self.released = threading.Event()
        self.url = ""

    @property
    def ranges(self) -> list[str]:
        """The `Range` of every request, empty where there was none."""
        return [request.range for request in self.requests]

    @property
    def sent_bytes(self) -> int:
        """The bytes of the file that were sent, in all answers."""
        return sum(request.sent_bytes for request in self.requests)


@contextmanager
def serving(content: bytes) -> Iterator[ArchiveServer]:
    """Run a server on a free port of this machine."""
    archive = ArchiveServer(content)

    class Handler(_Handler):
        served = archive

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        archive.url = f"http://127.0.0.1:{server.server_port}/data"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield archive
        finally:
            archive.released.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    served: ArchiveServer

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client may go when it has enough
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        served = self.served
        answer = served.answers[min(len(served.requests), len(served.answers) - 1)]
        content = served.content if answer.content is None else answer.content
        asked = self.headers.get("Range", "")
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and answer.ranges else 0
        body = content[first:]
        sent = body if answer.cut_bytes is None else body[: answer.cut_bytes]
        served.requests.append(Request(self.path, asked, self.headers.get("Accept-Encoding", ""), len(sent)))
        headers = {"Content-Length": str(len(body))} if answer.with_length else {}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self.send_response(answer.status or (206 if first else 200))
        for name, value in (headers | dict(answer.headers)).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)
        self._end(answer, body[len(sent) :])

    def _end(self, answer: Answer, unsent: bytes) -> None:
        self.close_connection = bool(unsent) or not answer.with_length
        if unsent and answer.end == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        if unsent and answer.end == "stall":
            self.served.released.wait()
            self.wfile.write(unsent)
        if answer.more and answer.with_length:
            self.wfile.write(answer.more)
        while answer.more and not answer.with_length:
            self.wfile.write(answer.more)
