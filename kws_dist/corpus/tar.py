"""Recordings in a `.tar.gz`, read as a stream and never unpacked.

The standard library's `tarfile` takes a damaged header in mid-file for the end of the archive and says nothing,
follows links and sparse maps, and believes any size. `TarArchive` refuses all of that: only plain files and
folders, of bounded size, each name once, up to a proper end."""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import SEEK_END, SEEK_SET, BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self, cast

from kws_dist.corpus.container import MAX_MEMBER_BYTES, MAX_MEMBERS, Listing, Look, fault_of_name, look_at_nothing
from kws_dist.corpus.spool import Spool
from kws_dist.errors import DataError, UsageError

_MAX_LONG_NAME_BYTES = 64 << 10  # tarfile holds a whole extension header (long name, pax) in memory
_EXTENSION_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_DAMAGED = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError, RecursionError)


class TarArchive:
    """A `.tar.gz` (or `.tar`), read from its beginning once for each `scan` and each `staged`; a `Container`."""

    def __init__(self, path: Path, flag: str = "--archive") -> None:
        """`flag` is what the user named the archive by."""
        if not path.is_file():
            raise UsageError(f"{flag} {path}: there is no such file")
        self.path = path
        self._spool = Spool()
        self._size_bytes: dict[str, int] = {}

    def scan(self, look: Look = look_at_nothing) -> Listing:
        """List every file; raises `DataError` naming the first member that is not to be trusted."""
        listing = Listing()
        for name, member, tar in self._members():
            if name in listing.size_bytes:
                raise DataError(f"{self.path}: member {name!r} is there twice")
            if len(listing.size_bytes) >= MAX_MEMBERS:
                raise DataError(f"{self.path}: more than {MAX_MEMBERS:,} members")
            listing.size_bytes[name] = member.size
            if (examine := look(name)) is not None:
                with self._damage_named():
                    examine(cast(IO[bytes], _Unwound(_opened(tar, member), member.size)))
        self._size_bytes = listing.size_bytes
        return listing

    @contextmanager
    def staged(self, names: Collection[str], folder: Path) -> Iterator[None]:
        """Copy the named files, in one pass over the archive, to a temporary file that can be read in any order."""
        size_bytes = sum(self._size_bytes[name] for name in names)
        with self._spool.filled(self._contents(names), size_bytes, folder):
            yield

    def read(self, name: str) -> bytes:
        """Return the content of a staged file."""
        return self._spool.read(name)

    def identity(self, names: Collection[str]) -> dict[str, str]:  # noqa: ARG002 (one for all)
        """SHA-256 of the archive file."""
        with self.path.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def state(self, names: Collection[str]) -> str:  # noqa: ARG002
        """Nothing more than `identity` is needed."""
        return ""

    def _contents(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        left = set(names)
        for name, member, tar in self._members() if left else ():
            if name in left:
                yield name, self._content(tar, member)
                left.remove(name)
                if not left:
                    return
        if left:
            raise DataError(f"{self.path}: {min(left)!r} is no longer in it; run the same command again")

    def _members(self) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
        # "r|" never seeks back, so no size in a header can send the reader round in circles.
        with (
            self._damage_named(),
            _unzipped(self.path) as plain,
            tarfile.open(fileobj=plain, mode="r|", tarinfo=_StrictTarInfo) as tar,
        ):
            while (member := tar.next()) is not None:
                name = self._checked_name(member)
                if member.isreg():
                    yield name, member, tar
                # tarfile remembers every member, 1 kB each, and every global header; a stream has no use for them.
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
                tar.pax_headers = {}
            while plain.read(1 << 20):
                pass  # up to the end, where gzip keeps the checksum of everything before

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            raise DataError(
                f"{self.path}: not a complete .tar.gz archive ({str(error) or 'it ends too early'}); "
                "download or copy it again"
            ) from error

    def _checked_name(self, member: tarfile.TarInfo) -> str:
        """Return the name without `./`, or raise `DataError` when the member is not an innocent file or folder."""
        sparse = member.issparse() or any(key.startswith("GNU.sparse") for key in member.pax_headers)
        faults = {
            fault_of_name(member.name): fault_of_name(member.name) is not None,
            "it is a link": member.issym() or member.islnk(),
            "it is a sparse file": sparse,
            "it is neither a plain file nor a folder": not (member.isreg() or member.isdir()),
            f"it is larger than {MAX_MEMBER_BYTES >> 20} MiB": member.size > MAX_MEMBER_BYTES,
            "its size is negative": member.size < 0,
        }
        for fault, found in faults.items():
            if found:
                raise DataError(f"{self.path}: member {member.name!r} is refused: {fault}")
        return str(PurePosixPath(member.name))

    def _content(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        with self._damage_named():
            content = _opened(tar, member).read()
        if len(content) != member.size:
            raise DataError(f"{self.path}: member {member.name!r} is cut off")
        return content


class _Unwound(BufferedIOBase):
    """A member of a stream, which cannot be wound back, and yet can be asked for its size before it is read."""

    def __init__(self, file: IO[bytes], size_bytes: int) -> None:
        self._file, self._size_bytes = file, size_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        return self._file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = SEEK_SET, /) -> int:
        return self._size_bytes if whence == SEEK_END else offset


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
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"member {header.name!r} is a sparse file")
        return header

    def _proc_gnusparse_10(self, *_: Any) -> None:
        # Its map lies in the data, of any length, and tarfile would hold all of it.
        raise tarfile.ReadError(f"member {self.name!r} is a sparse file")


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None, "only plain files are opened"
    return file


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
