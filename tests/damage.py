"""What can happen to a file that a test wants to see refused."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


@contextmanager
def permission_denied(path: Path) -> Iterator[None]:
    """Let nobody read the file; root, who may read anything, reads as another user meanwhile."""
    mode = path.stat().st_mode
    path.chmod(0)
    user = os.geteuid()
    os.seteuid(NOBODY if user == 0 else user)
    try:
        with pytest.raises(PermissionError):
            path.read_bytes()
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


def fill(disk: Path) -> Path:
    """Leave no room on a disk; removing the file makes room again."""
    hog = disk / "hog"
    with hog.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return hog
