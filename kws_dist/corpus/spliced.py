"""A file of which another beginning is seen."""

import io
from typing import IO, Any


class Spliced(io.RawIOBase):
    """A file to be read: first `head`, then the bytes of another file from `start` to `end`, which stay where they are.

    A read is short only at the end, because libsndfile takes a short one for the end.
    """

    def __init__(self, head: bytes, file: IO[bytes], start: int, end: int) -> None:
        super().__init__()
        self._head, self._file, self._start = head, file, start
        self._size = len(head) + max(end - start, 0)
        self._place = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go there, and return where that is from the beginning."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(base + offset, 0)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, and return how much of it."""
        wanted = max(min(len(buffer), self._size - self._place), 0)
        content = self._head[self._place :][:wanted]
        if len(content) < wanted:
            try:
                self._file.seek(self._start + self._place + len(content) - len(self._head))
                content += self._file.read(wanted - len(content))
            except OSError:
                pass  # libsndfile knows no errors: who counts the samples finds that some are missing
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)
