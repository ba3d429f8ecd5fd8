"""Recordings in a `.zip`, read in any order and never unpacked to paths.

The standard library's `zipfile` reads the directory at the end of the archive. It believes what that says about sizes
and places, so the contents are read here, never more of them than a recording may have.
"""

import hashlib
import os
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO, FileIO
from pathlib import Path, PurePosixPath
from struct import Struct
from typing import NamedTuple

from kws_dist.corpus.container import (
    MAX_MEMBER_BYTES,
    TOO_LARGE,
    Listing,
    Look,
    fault_of_name,
    look_at_nothing,
)
from kws_dist.errors import ClipError, DataError, UsageError, printable

_MAX_DIRECTORY_BYTES = 64 << 20  # half a million recordings; zipfile holds ten times this in memory
_HEADER = Struct("<4s22xHH")  # of a member: signature, length of its name, length of what else there is
_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED, _PATCHED, _UTF8 = 0x1, 0x20, 0x800  # flag bits
_DAMAGED = (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError, EOFError, OverflowError)


class _Member(NamedTuple):
    header_offset: int
    end_offset: int
    """Where the next member begins, or the directory."""
    raw_name: bytes
    packed_bytes: int
    size_bytes: int
    crc32: int
    deflated: bool


class ZipArchive:
    """A `.zip`; a `Container`. Holds no open file, so that any process can read from it."""

    def __init__(self, path: Path, flag: str = "--archive") -> None:
        """`flag` is what the user named the archive by."""
        if not path.is_file():
            raise UsageError(f"{flag} {path}: there is no such file")
        self.path = path
        self._members: dict[str, _Member] = {}

    def scan(self, look: Look = look_at_nothing) -> Listing:
        """List every file; raises `DataError` if the archive is damaged, or made to do harm."""
        infos, directory_offset = self._directory()
        listing, members, seen = Listing(), dict[str, _Member](), set[str]()
        for info, end_offset in self._in_order(infos, directory_offset):
            raw_name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
            name = self._checked_name(info, raw_name, seen)
            if info.filename.endswith("/"):
                continue
            seen.add(name)
            fault = _fault(info, raw_name)
            if fault:
                listing.refused[name] = fault
                continue
            members[name] = _Member(
                info.header_offset,
                end_offset,
                raw_name,
                info.compress_size,
                info.file_size,
                info.CRC,
                info.compress_type == zipfile.ZIP_DEFLATED,
            )
        self._members = members
        for name, member in members.items():
            if (examine := look(name)) is not None:
                try:
                    examine(BytesIO(self.read(name)))
                except ClipError as error:
                    listing.refused[name] = str(error).removeprefix(f"{self.path}: {name}: ")
                    continue
            listing.size_bytes[name] = member.size_bytes
        return listing

    def staged(self, names: Collection[str], folder: Path) -> AbstractContextManager[None]:  # noqa: ARG002
        """Nothing to prepare: members can be read in any order."""
        return nullcontext()

    def read(self, name: str) -> bytes:
        """Return the content of a file; raises `ClipError` if it is not what the directory says."""
        member = self._members[name]
        with FileIO(self.path) as file:
            packed = _packed(file.fileno(), member)
        content = _inflated(packed, member.size_bytes) if member.deflated and packed is not None else packed
        if content is None or len(content) != member.size_bytes or zlib.crc32(content) != member.crc32:
            raise ClipError(f"{name}: it is damaged (not what the archive's directory says it is)")
        return content

    def identity(self, names: Collection[str]) -> dict[str, str]:  # noqa: ARG002 (one for all)
        """SHA-256 of the archive file."""
        with self.path.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def state(self, names: Collection[str]) -> str:  # noqa: ARG002
        """Nothing more than `identity` is needed."""
        return ""

    def _directory(self) -> tuple[list[zipfile.ZipInfo], int]:
        """Return what the directory at the end of the archive lists, and where that begins."""
        try:
            with _Bounded(self.path) as file, zipfile.ZipFile(file) as archive:
                return archive.infolist(), archive.start_dir
        except _DAMAGED as error:
            raise DataError(f"{self.path}: not a complete .zip archive ({error}); download or copy it again") from error

    def _in_order(self, infos: list[zipfile.ZipInfo], directory_offset: int) -> Iterator[tuple[zipfile.ZipInfo, int]]:
        """Yield the members as they lie in the archive, each with where it must end; two must not share bytes."""
        infos = sorted(infos, key=lambda info: info.header_offset)
        ends = [*(info.header_offset for info in infos[1:]), directory_offset]
        for info, end_offset in zip(infos, ends, strict=False):  # where nothing is listed there is one end more
            if info.header_offset < 0 or info.header_offset + _HEADER.size + info.compress_size > end_offset:
                raise DataError(f"{self.path}: member {info.filename!r} is refused: it shares its bytes with others")
            yield info, end_offset

    def _checked_name(self, info: zipfile.ZipInfo, raw_name: bytes, seen: Collection[str]) -> str:
        """Return the name as text, or raise `DataError` for one that is there twice or points out of the archive."""
        if info.create_system == 0 and b"/" not in raw_name:
            raw_name = raw_name.replace(b"\\", b"/")  # some programs for Windows write it so
        name = printable(raw_name)
        fault = fault_of_name(name)
        if fault:
            raise DataError(f"{self.path}: member {name!r} is refused: {fault}")
        name = str(PurePosixPath(name))
        if name in seen:
            raise DataError(f"{self.path}: member {name!r} is there twice")
        return name


class _Bounded(FileIO):
    """A file of which nobody reads more at once than the directory of an archive may take."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > _MAX_DIRECTORY_BYTES:
            raise DataError(f"{self.name}: it lists more members than any recordings; unpack it and pass the folder")
        return super().read(max(size, 0)) or b""


def _fault(info: zipfile.ZipInfo, raw_name: bytes) -> str | None:
    """Say why a member cannot be used, though the others can."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    faults = {
        "its name is not UTF-8": not _is_utf8(raw_name),
        "its name holds characters that cannot be printed": not info.orig_filename.isprintable(),
        "it is a link": kind == stat.S_IFLNK,
        "it is neither a plain file nor a folder": kind not in (0, stat.S_IFREG, stat.S_IFLNK),
        "it is encrypted": bool(info.flag_bits & _ENCRYPTED),
        f"it is packed by {_method(info)}, which is not read here; pack it the usual way (deflate)": info.compress_type
        not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        or bool(info.flag_bits & _PATCHED),
        TOO_LARGE: max(info.file_size, info.compress_size) > MAX_MEMBER_BYTES,
    }
    return next((fault for fault, found in faults.items() if found), None)


def _is_utf8(name: bytes) -> bool:
    # Also where the flag that says so is missing: macOS packs names in UTF-8 without it.
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _method(info: zipfile.ZipInfo) -> str:
    names = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstandard", 95: "xz", 98: "ppmd"}
    return names.get(info.compress_type, f"method {info.compress_type}")


def _packed(handle: int, member: _Member) -> bytes | None:
    """Return the bytes of a member as they lie in the archive, None if they do not lie where they should."""
    header = os.pread(handle, _HEADER.size + len(member.raw_name), member.header_offset)
    if len(header) < _HEADER.size + len(member.raw_name):
        return None
    signature, name_bytes, extra_bytes = _HEADER.unpack_from(header)
    first = member.header_offset + _HEADER.size + name_bytes + extra_bytes
    innocent = signature == _SIGNATURE and header[_HEADER.size :] == member.raw_name
    if not innocent or name_bytes != len(member.raw_name) or first + member.packed_bytes > member.end_offset:
        return None
    return os.pread(handle, member.packed_bytes, first)


def _inflated(packed: bytes, size_bytes: int) -> bytes | None:
    """Return the content, None if it is damaged or does not end after `size_bytes`."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(packed, size_bytes + 1)
    except zlib.error:
        return None
    return content if inflater.eof else None
