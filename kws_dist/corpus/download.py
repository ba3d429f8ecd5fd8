"""The official Speech Commands archives: what they are, and how to get them whole.

A file under its final name in the cache was whole and had the published SHA-256 when it got that name. Until then it is
called `NAME.part`, which a later run goes on with. What a server says about its file (ETag, dates) is not asked: the
checksum decides, so any mirror can go on with what another began.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal
from urllib.parse import urlsplit, urlunsplit

from kws_dist.corpus.transfer import Patience, Progress, Transfer, TransferError
from kws_dist.errors import DataError, UsageError
from kws_dist.files import sync_folder

BASE_URL = "https://storage.googleapis.com/download.tensorflow.org/data/"

Kind = Literal["main", "test"]
"""`test` is the test set of the 12-class task, an archive of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialArchive:
    """One published file."""

    name: str
    size_bytes: int
    sha256: str
    flag: str = "--archive"
    """What a user who has the file already passes it with."""


OFFICIAL: dict[tuple[str, Kind], OfficialArchive] = {
    ("0.01", "main"): OfficialArchive(
        name="speech_commands_v0.01.tar.gz",
        size_bytes=1_489_096_277,
        sha256="743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
    ),
    ("0.02", "main"): OfficialArchive(
        name="speech_commands_v0.02.tar.gz",
        size_bytes=2_428_923_189,
        sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    ),
    ("0.01", "test"): OfficialArchive(
        name="speech_commands_test_set_v0.01.tar.gz",
        size_bytes=71_271_436,
        sha256="baa084f6b62c91de660ff0588ae4dfc4e4d534aa99ac0e5f406cba75836cbd00",
        flag="--test_archive",
    ),
    ("0.02", "test"): OfficialArchive(
        name="speech_commands_test_set_v0.02.tar.gz",
        size_bytes=112_563_277,
        sha256="cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
        flag="--test_archive",
    ),
}
"""By version and kind. Sizes and checksums as torchaudio, TensorFlow Datasets and SUPERB publish them."""


def default_cache() -> Path:
    """Return the folder for archives: `$KWS_CACHE`, else `kws_dist` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if chosen := os.environ.get("KWS_CACHE"):
        return Path(chosen).expanduser()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "kws_dist"


def fetch(
    archive: OfficialArchive,
    cache: Path,
    *,
    base_url: str = BASE_URL,
    on_progress: Progress = lambda done_bytes, total_bytes: None,  # noqa: ARG005
    patience: Patience | None = None,
) -> Path:
    """Return the verified archive in the folder `cache`, fetched from below `base_url` unless it is there.

    `on_progress(done_bytes, total_bytes)` is called when bytes arrive, first with those of an earlier run, and also
    while another process fetches the same file: this one waits, for the outcome is what it wants too. It is not called
    for a file that is there. Raises `UsageError` for an address or a folder that cannot be used, `DataError` for an
    archive that cannot be had or is not the published one.
    """
    patience, path = patience or Patience(), cache / archive.name
    transfer = Transfer(
        url=_address(base_url, archive.name),
        size_bytes=archive.size_bytes,
        patience=patience,
        on_progress=on_progress,
    )
    if path.exists():
        return _checked(path, archive)
    with _alone(path, patience.poll_s, lambda: on_progress(_held_bytes(path), archive.size_bytes)):
        if path.exists():
            return _checked(path, archive)
        _download(transfer, path, archive)
    return path


def _download(transfer: Transfer, path: Path, archive: OfficialArchive) -> None:
    part = _part(path)
    _check_room(path, archive.size_bytes - _held_bytes(path))
    remedy = f"name another address with --base_url, or get {archive.name} by other means and pass it with "
    url, remedy = _without_password(transfer.url), remedy + archive.flag
    try:
        in_one_go = transfer.fill(part)
        found = _sha256(part)
        if found != archive.sha256 and not in_one_go:
            # Pieces of two files, or pieces that a crash of the machine lost. All of it, once more.
            part.unlink()
            transfer.fill(part)
            found = _sha256(part)
    except TransferError as error:
        raise DataError(f"{url}: {error}; {remedy}") from error
    if found != archive.sha256:
        part.unlink()
        raise DataError(
            f"{url}: the file there is not the official one and was removed: its SHA-256 is {found}, "
            f"expected was {archive.sha256}; {remedy}"
        )
    _commit(part, path)


def _checked(path: Path, archive: OfficialArchive) -> Path:
    found = _sha256(path)
    if found != archive.sha256:
        raise DataError(
            f"{path}: it was changed after it was fetched: its SHA-256 is {found}, expected was {archive.sha256}; "
            "remove it and run the same command again"
        )
    return path


def _commit(part: Path, path: Path) -> None:
    try:
        with part.open("r+b") as file:
            os.fsync(file.fileno())
    except OSError as error:  # some file systems find out only now that they are full
        raise DataError(f"{part}: cannot be written ({error.strerror}); make room and run it again") from error
    part.replace(path)
    sync_folder(path.parent)


def _address(base_url: str, name: str) -> str:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "?" in base_url or "#" in base_url:
        raise UsageError(
            f"--base_url {base_url!r}: not the address of a folder; it should look like {BASE_URL}, with http or https"
        )
    return f"{base_url.rstrip('/')}/{name}"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@contextmanager
def _alone(path: Path, poll_s: float, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold `path` for one process at a time, by a lock that ends with the process."""
    with _lock_file(path) as file:
        while not _locked(file):
            waiting()
            time.sleep(poll_s)
        yield


def _lock_file(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f"{path.name}.lock").open("ab")
    except OSError as error:
        raise _unusable(path.parent, error) from error


def _locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # without a lock two processes could write into one file
        raise _unusable(Path(file.name).parent, error) from error
    return True


def _unusable(cache: Path, error: OSError) -> UsageError:
    return UsageError(f"{cache}: no archive can be kept there ({error.strerror}); name another folder in KWS_CACHE")


def _check_room(path: Path, missing_bytes: int) -> None:
    free_bytes = shutil.disk_usage(path.parent).free
    if missing_bytes > free_bytes:
        raise DataError(
            f"{path}: {missing_bytes / 1e6:,.0f} MB are to be fetched and {free_bytes / 1e6:,.0f} MB are free on this "
            "disk; make room, or name another folder in KWS_CACHE"
        )


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _held_bytes(path: Path) -> int:
    try:
        return _part(path).stat().st_size
    except FileNotFoundError:
        return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
