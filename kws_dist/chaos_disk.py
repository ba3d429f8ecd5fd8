"""A small disk of its own, in memory, that can be filled without harm."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kws_dist.errors import UsageError

_LARGEST_BYTES = 1 << 33


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[str]:
    """Mount a tmpfs of so many bytes at `folder` while the context is open; yields why not, "" if it is there."""
    if os.geteuid() != 0:
        yield "mounting a tmpfs needs root"
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        folder.rmdir()
        yield f"mounting a tmpfs is refused ({' '.join(done.stderr.split())})"
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def check_given(folder: Path) -> None:
    """Raise `UsageError` if filling a disk that a user has named could harm anyone."""
    if not os.path.ismount(folder.resolve()):  # of `.`, as it is, pathlib would say yes
        raise UsageError(f"--tmpfs {folder} should be where a small disk of its own is mounted: it will be filled")
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize > _LARGEST_BYTES:
        raise UsageError(
            f"--tmpfs {folder} has more than {_LARGEST_BYTES >> 30} GiB free: give it a smaller disk to fill"
        )
