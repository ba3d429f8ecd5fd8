"""Zip archives that say other than they hold, written byte by byte: no library would write them."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ZEROS_BYTES = 1 << 30
UTF8, ENCRYPTED = 0x800, 0x1


@dataclass(frozen=True, kw_only=True)
class Crafted:
    """A member, honest unless something is said here."""

    name: bytes = b"yes/evil.wav"
    content: bytes = b"RIFF and so on"
    packed: bytes | None = None
    """In place of the deflated content."""
    method: int = 8
    flags: int = UTF8
    mode: int = 0o100644
    crc32: int | None = None
    size_bytes: int | None = None
    local_name: bytes | None = None
    at: int | None = None
    """Where the directory says that it is."""


def craft(path: Path, members: Sequence[Crafted]) -> Path:
    """Write a `.zip` of the members."""
    body, directory = b"", b""
    for member in members:
        packed = deflated(member.content) if member.packed is None else member.packed
        crc32 = zlib.crc32(member.content) if member.crc32 is None else member.crc32
        size_bytes = len(member.content) if member.size_bytes is None else member.size_bytes
        fields = struct.pack("<HHHHIII", member.flags, member.method, 0, 0x21, crc32, len(packed), size_bytes)
        at = len(body) if member.at is None else member.at
        local_name = member.name if member.local_name is None else member.local_name
        body += b"PK\x03\x04" + struct.pack("<H", 20) + fields + struct.pack("<HH", len(local_name), 0)
        body += local_name + packed
        directory += b"PK\x01\x02" + struct.pack("<BBH", 20, 3, 20) + fields
        directory += struct.pack("<HHHHHII", len(member.name), 0, 0, 0, 0, member.mode << 16, at) + member.name
    count = len(members)
    path.write_bytes(
        body + directory + struct.pack("<4s4HIIH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0)
    )
    return path


def deflated(content: bytes) -> bytes:
    """Return the content as a zip holds it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def zeros() -> tuple[bytes, int]:
    """Return a gigabyte of zeros, deflated to one megabyte, and its checksum."""
    packer, block = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(1 << 24)
    # After a full flush the same block packs to the same bytes, so that it needs to be packed only once.
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    crc32 = 0
    for _ in range(ZEROS_BYTES // len(block)):
        crc32 = zlib.crc32(block, crc32)
    return packed * (ZEROS_BYTES // len(block)) + packer.flush(), crc32
