"""Recordings where the user has them: files by name in a folder or in an archive, which is never unpacked to paths.

A name in a container is text that says what a recording is, never a path that anything is written to.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from io import SEEK_END
from pathlib import Path
from typing import IO, Protocol

MAX_MEMBER_BYTES = 64 << 20
"""Larger than any recording of speech commands or of a few minutes of noise."""
MAX_MEMBERS = 4_000_000
TOO_LARGE = f"it is larger than {MAX_MEMBER_BYTES >> 20} MiB; cut it into several recordings"

Look = Callable[[str], Callable[[IO[bytes]], None] | None]
"""From the name of a file to what is to be done with it while scanning, if anything.

The file is open at its beginning; how much of it is read, and only forwards, is up to the looker. A `ClipError` is
the looker's to catch. `size_of` can be asked before anything is read.
"""


def look_at_nothing(name: str) -> None:
    """A `Look` that wants names and sizes only."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a container holds."""

    size_bytes: dict[str, int] = field(default_factory=dict)
    """Every file that can be read, with its size."""
    refused: dict[str, str] = field(default_factory=dict)
    """Files that are left out, and why."""


class Container(Protocol):
    """Files by name (`yes/004ae714_nohash_0.wav`), wherever they lie."""

    path: Path

    def scan(self, look: Look = look_at_nothing) -> Listing:
        """List every file, with a look into those that `look` chooses; raises `DataError` if it is damaged."""
        ...

    def staged(self, names: Collection[str], folder: Path) -> AbstractContextManager[None]:
        """While in this context, the named files can be read in any order; `folder` has room for a temporary file.

        Processes that are forked inside the context can read from it as well.
        """
        ...

    def read(self, name: str) -> bytes:
        """Return the content of a staged file; raises `ClipError` if it alone cannot be read."""
        ...

    def identity(self, names: Collection[str]) -> dict[str, str]:
        """Return what identifies (at least) the named files, as `dataset.json` records it, wherever they lie."""
        ...

    def state(self, names: Collection[str]) -> str:
        """Return a text that changes when one of the named files is changed in place; to compare on one machine."""
        ...


def size_of(file: IO[bytes]) -> int:
    """Return the size in bytes of a file that a looker has been given and not yet read from."""
    size_bytes = file.seek(0, SEEK_END)
    file.seek(0)
    return size_bytes


def fault_of_name(name: str) -> str | None:
    """Say what is wrong with the name of a file in an archive; None if it is an innocent one."""
    faults = {
        "its name is an absolute path": name.startswith("/") or name[1:2] == ":",
        "its name holds '..'": ".." in name.replace("\\", "/").split("/"),
        "its name holds characters that cannot be printed": not name.isprintable(),
    }
    return next((fault for fault, found in faults.items() if found), None)


def is_hidden(name: str) -> bool:
    """Whether a desktop put the file there, e.g. the `._x.wav` that macOS puts beside every `x.wav`."""
    return name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name
