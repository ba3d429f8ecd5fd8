"""Recordings where the user has them: a `.tar.gz` read as a stream, never unpacked to disk, or a folder.

The standard library's `tarfile` takes a damaged header in mid-file for the end of the archive and says nothing,
follows links and sparse maps, and believes any size. `TarArchive` refuses all of that: only plain files and
folders, of bounded size, each name once, up to a proper end. A name in an archive is never used as a path.
"""

import gzip
import hashlib
import stat
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, Self

from kws_dist.errors import DataError, UsageError

MAX_MEMBER_BYTES = 64 << 20
MAX_MEMBERS = 4_000_000
_MAX_LONG_NAME_BYTES = 64 << 10  # tarfile holds a whole extension header (long name, pax) in memory
_EXTENSION_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_DAMAGED = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a container holds: the size in bytes of every file, and the content of the few asked for."""

    size_bytes: dict[str, int]
    content: dict[str, bytes]


class Container(Protocol):
    """Files by name (`yes/004ae714_nohash_0.wav`), wherever they lie."""

    path: Path

    def scan(self, keep: Collection[str]) -> Listing:
        """List every file, and hold on to the content of those named in `keep`."""
        ...

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield `(name, content)` of each of the names that is there, in the order that is cheapest."""
        ...

    def checksum(self, names: Collection[str]) -> dict[str, str]:
        """Return what identifies the content of (at least) the named files, as it goes into `dataset.json`."""
        ...


class TarArchive:
    """A `.tar.gz` (or `.tar`), read from its beginning once for each `scan` and each `read`."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UsageError(f"--archive {path}: there is no such file")
        self.path = path

    def scan(self, keep: Collection[str]) -> Listing:
        """List every file; raises `DataError` naming the first member that is not to be trusted."""
        listing = Listing({}, {})
        for name, member, tar in self._members():
            if name in listing.size_bytes:
                raise DataError(f"{self.path}: member {name!r} is there twice")
            if len(listing.size_bytes) >= MAX_MEMBERS:
                raise DataError(f"{self.path}: more than {MAX_MEMBERS:,} members")
            listing.size_bytes[name] = member.size
            if name in keep:
                listing.content[name] = self._content(tar, member)
        return listing

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the named files in archive order, stopping after the last of them."""
        left = set(names)
        for name, member, tar in self._members() if left else ():
            if name in left:
                yield name, self._content(tar, member)
                left.remove(name)
                if not left:
                    return

    def checksum(self, names: Collection[str]) -> dict[str, str]:  # noqa: ARG002 (one for all)
        """SHA-256 of the archive file."""
        with self.path.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def _members(self) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
        try:
            # "r|" never seeks back, so no size in a header can send the reader round in circles.
            with (
                _unzipped(self.path) as plain,
                tarfile.open(fileobj=plain, mode="r|", tarinfo=_StrictTarInfo) as tar,
            ):
                while (member := tar.next()) is not None:
                    name = self._checked_name(member)
                    if member.isreg():
                        yield name, member, tar
                    # tarfile remembers every member, 1 kB each, which a stream has no use for.
                    tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
                while plain.read(1 << 20):
                    pass  # up to the end, where gzip keeps the checksum of everything before
        except _DAMAGED as error:
            raise DataError(
                f"{self.path}: not a complete .tar.gz archive ({str(error) or 'it ends too early'}); "
                "download or copy it again"
            ) from error

    def _checked_name(self, member: tarfile.TarInfo) -> str:
        """Return the name without `./`, or raise `DataError` when the member is not an innocent file or folder."""
        path = PurePosixPath(member.name)
        sparse = member.issparse() or any(key.startswith("GNU.sparse") for key in member.pax_headers)
        faults = {
            "its name is an absolute path": path.is_absolute(),
            "its name holds '..'": ".." in path.parts,
            "its name holds characters that cannot be printed": not member.name.isprintable(),
            "it is a link": member.issym() or member.islnk(),
            "it is a sparse file": sparse,
            "it is neither a plain file nor a folder": not (member.isreg() or member.isdir()),
            f"it is larger than {MAX_MEMBER_BYTES >> 20} MiB": member.size > MAX_MEMBER_BYTES,
            "its size is negative": member.size < 0,
        }
        for fault, found in faults.items():
            if found:
                raise DataError(f"{self.path}: member {member.name!r} is refused: {fault}")
        return str(path)

    def _content(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        file = tar.extractfile(member)
        content = file.read() if file else b""
        if len(content) != member.size:
            raise DataError(f"{self.path}: member {member.name!r} is cut off")
        return content


class Folder:
    """A folder that holds the same files as the archive, one level of folders deep."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UsageError(f"--root {path}: there is no such folder")
        self.path = path

    def scan(self, keep: Collection[str]) -> Listing:
        """List the files in the folder and in its folders."""
        listing = Listing({}, {})
        for path in sorted([*self.path.glob("*"), *self.path.glob("*/*")]):
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                name = path.relative_to(self.path).as_posix()
                listing.size_bytes[name] = status.st_size
                if name in keep:
                    listing.content[name] = path.read_bytes()
        return listing

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the named files in alphabetical order."""
        for name in sorted(names):
            path = self.path / name
            if path.is_file():
                yield name, path.read_bytes()

    def checksum(self, names: Collection[str]) -> dict[str, str]:
        """SHA-256 of the sorted names and SHA-256s of the files, as `sha256sum` prints them."""
        hashed = hashlib.sha256()
        for name, content in self.read(names):
            hashed.update(f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode(errors="surrogateescape"))
        return {"files_sha256": hashed.hexdigest()}


class _StrictTarInfo(tarfile.TarInfo):
    """A header that is damaged or missing is an error, where `tarfile` would call it the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        return _next_header(super().fromtarfile, tarfile)

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _EXTENSION_TYPES and header.size > _MAX_LONG_NAME_BYTES):
            raise tarfile.ReadError(f"a header claims {header.size} bytes")
        return header


def _next_header(parse: Any, tar: tarfile.TarFile) -> Any:
    try:
        return parse(tar)
    except tarfile.EOFHeaderError:  # pyright: ignore[reportAttributeAccessIssue]
        raise  # the block of zeros that ends an archive: the one proper end
    except tarfile.HeaderError as error:
        raise tarfile.ReadError(f"bad header at byte {tar.offset:,} of the tar: {error}") from error


@contextmanager
def _unzipped(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file for reading, through gzip if it begins like one."""
    with path.open("rb") as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=file) as plain:
                yield plain
        else:
            yield file
