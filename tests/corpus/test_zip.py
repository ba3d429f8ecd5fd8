"""What `ZipArchive` promises: any member in any order and process, and nothing from an archive that lies."""

import stat
import struct
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
from hostile_zip import ENCRYPTED, ZEROS_BYTES, Crafted, craft, deflated, zeros
from hypothesis import given, settings
from hypothesis import strategies as st
from own_recordings import word_files, zipped

from kws_dist.corpus.container import MAX_MEMBER_BYTES, Listing
from kws_dist.corpus.zip import ZipArchive
from kws_dist.errors import ClipError, DataError, UsageError

CONTENT = word_files(each=4) | {"readme.txt": b"hello " * 100, "empty.txt": b""}
GOOD = Crafted(name=b"yes/good.wav", content=b"good")


def read_all_of(path: Path) -> tuple[Listing, dict[str, bytes]]:
    """List an archive, looking into every member, and read what it lists."""
    archive = ZipArchive(path)
    listing = archive.scan(lambda _: lambda _: None)
    return listing, {name: archive.read(name) for name in listing.size_bytes}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_member_is_listed_with_its_size_and_read_as_it_was_packed(tmp_path: Path, method: int) -> None:
    archive = ZipArchive(zipped(tmp_path / "a.zip", CONTENT, method))
    listing = archive.scan()
    assert listing.size_bytes == {name: len(data) for name, data in CONTENT.items()}
    assert listing.refused == {}
    with archive.staged([], tmp_path):
        assert {name: archive.read(name) for name in reversed(CONTENT)} == CONTENT


def test_other_processes_read_from_it_too(tmp_path: Path) -> None:
    archive = ZipArchive(zipped(tmp_path / "a.zip", CONTENT))
    archive.scan()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert list(pool.map(archive.read, CONTENT)) == list(CONTENT.values())


def test_a_look_sees_the_content_of_what_it_asks_for(tmp_path: Path) -> None:
    seen: dict[str, bytes] = {}
    archive = ZipArchive(zipped(tmp_path / "a.zip", CONTENT))
    archive.scan(lambda name: (lambda file: seen.update({name: file.read()})) if name.endswith(".txt") else None)
    assert seen == {name: data for name, data in CONTENT.items() if name.endswith(".txt")}


def test_its_identity_is_its_checksum_whatever_it_is_called(tmp_path: Path) -> None:
    first, second = zipped(tmp_path / "a.zip", CONTENT), tmp_path / "b.zip"
    second.write_bytes(first.read_bytes())
    assert ZipArchive(first).identity([]) == ZipArchive(second).identity([])
    assert ZipArchive(first).identity([]) != ZipArchive(zipped(tmp_path / "c.zip", {"x": b""})).identity([])


def test_zips_as_people_make_them_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("yes")
        archive.writestr("./yes/a.wav", b"with a dot")
        archive.writestr("да/1.wav", b"with the mark for UTF-8")
        windows = zipfile.ZipInfo("b.wav")
        windows.create_system, windows.filename = 0, "no\\b.wav"
        archive.writestr(windows, b"with a backslash")
        with archive.open(zipfile.ZipInfo("streamed.wav"), "w", force_zip64=True) as file:
            file.write(b"with 64-bit sizes")
        archive.comment = b"a comment"
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    _, content = read_all_of(path)
    assert list(content) == ["yes/a.wav", "да/1.wav", "no/b.wav", "streamed.wav"]
    assert list(content.values())[2:] == [b"with a backslash", b"with 64-bit sizes"]


def test_a_name_in_utf_8_is_read_also_where_the_mark_is_missing_as_macos_packs_it(tmp_path: Path) -> None:
    path = craft(tmp_path / "a.zip", [Crafted(name="да.wav".encode(), flags=0)])
    assert list(ZipArchive(path).scan().size_bytes) == ["да.wav"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (b"/etc/evil.wav", "absolute"),
        (b"C:\\evil.wav", "absolute"),
        (b"yes/../../evil.wav", "'..'"),
        (b"..\\evil.wav", "'..'"),
        (b"../\x1b[2Jevil", "'..'"),
        (b"../", "'..'"),
        (b"yes/.//good.wav", "'yes/good.wav' is there twice"),
        (b"yes/good.wav", "'yes/good.wav' is there twice"),
    ],
)
def test_a_name_that_points_elsewhere_or_comes_twice_refuses_the_archive(
    tmp_path: Path, name: bytes, says: str
) -> None:
    path = craft(tmp_path / "a.zip", [GOOD, Crafted(name=name)])
    with pytest.raises(DataError, match=says) as caught:
        ZipArchive(path).scan()
    assert str(caught.value).isprintable()
    assert str(path) in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (Crafted(mode=stat.S_IFLNK | 0o777, content=b"/etc/passwd"), "it is a link"),
        (Crafted(mode=stat.S_IFCHR | 0o666), "neither a plain file nor a folder"),
        (Crafted(mode=stat.S_IFIFO | 0o666), "neither a plain file nor a folder"),
        (Crafted(flags=ENCRYPTED), "it is encrypted"),
        (Crafted(method=12), "packed by bzip2, which is not read here"),
        (Crafted(method=9), "packed by deflate64"),
        (Crafted(method=77), "packed by method 77"),
        (Crafted(size_bytes=MAX_MEMBER_BYTES + 1), "it is larger than 64 MiB"),
        (Crafted(name=b"yes/evil\x1b.wav"), "cannot be printed"),
        (Crafted(name=b"yes/\xfcbung.wav", flags=0), "its name is not UTF-8"),
        (Crafted(crc32=1), "it is damaged"),
        (Crafted(packed=b"\xff\xff"), "it is damaged"),
        (Crafted(packed=deflated(b"RIFF and so on")[:-4]), "it is damaged"),
        (Crafted(size_bytes=15), "it is damaged"),
        (Crafted(local_name=b"another.name"), "it is damaged"),
        (Crafted(content=b"RIFF", packed=b"RIFFRIFF", method=0), "it is damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_member_that_cannot_be_used_is_refused_by_name_and_the_others_are_read(
    tmp_path: Path, member: Crafted, says: str
) -> None:
    listing, content = read_all_of(craft(tmp_path / "a.zip", [member, GOOD]))
    ((name, reason),) = listing.refused.items()
    assert name.startswith("yes/")
    assert name.isprintable()
    assert says in reason
    assert content == {"yes/good.wav": b"good"}


def test_damage_that_nobody_looked_for_is_found_when_it_is_read(tmp_path: Path) -> None:
    archive = ZipArchive(craft(tmp_path / "a.zip", [Crafted(crc32=1), GOOD]))
    assert len(archive.scan().size_bytes) == 2
    with pytest.raises(ClipError, match=r"yes/evil\.wav: it is damaged"):
        archive.read("yes/evil.wav")
    assert archive.read("yes/good.wav") == b"good"


@pytest.mark.parametrize("at", [0, 10, 1 << 20])
def test_members_that_share_their_bytes_refuse_the_archive(tmp_path: Path, at: int) -> None:
    path = craft(tmp_path / "a.zip", [GOOD, Crafted(at=at)])
    with pytest.raises(DataError, match="it shares its bytes with others"):
        ZipArchive(path).scan()


def test_a_directory_too_large_to_hold_is_refused_before_it_is_read(tmp_path: Path) -> None:
    size_bytes = 80 << 20
    with (tmp_path / "a.zip").open("wb") as file:
        file.seek(size_bytes)
        file.write(struct.pack("<4s4HIIH", b"PK\x05\x06", 0, 0, 9, 9, size_bytes, 0, 0))
    with pytest.raises(DataError, match=r"a\.zip: it lists more members.*; unpack it and pass the folder"):
        ZipArchive(tmp_path / "a.zip").scan()


MEASURE = """
import resource, sys
from pathlib import Path
from kws_dist.corpus.folder import open_folder
from kws_dist.errors import UsageError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    open_folder(Path(sys.argv[1]))
except UsageError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(("claimed_bytes", "says"), [(ZEROS_BYTES, "larger than 64 MiB"), (32_044, "it is damaged")])
def test_a_gigabyte_of_zeros_is_refused_in_a_few_megabytes_of_memory(
    tmp_path: Path, claimed_bytes: int, says: str
) -> None:
    packed, crc32 = zeros()
    bomb = Crafted(packed=packed, crc32=crc32, size_bytes=claimed_bytes)
    path = craft(tmp_path / "a.zip", [bomb])
    assert path.stat().st_size < 2 << 20
    run = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    sentence, grown_kib = run.stdout.splitlines()
    assert "yes/evil.wav" in sentence
    assert says in sentence
    assert int(grown_kib) < 16 << 10


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(600), b"PK\x05\x06" + bytes(17)])
def test_a_file_that_is_no_archive_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip: not a complete \.zip archive \(.*\); download or copy it again"):
        ZipArchive(tmp_path / "a.zip").scan()


def test_a_file_that_is_not_there_is_a_usage_error_naming_the_flag(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--root .*nowhere"):
        ZipArchive(tmp_path / "nowhere", "--root")


def packed_content() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return zipped(Path(folder) / "a.zip", CONTENT).read_bytes()


PACKED = packed_content()


@given(cut=st.integers(0, len(PACKED) - 1))
@settings(deadline=None, max_examples=60)
def test_an_archive_cut_anywhere_is_an_error_and_never_a_smaller_one(cut: int) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(PACKED[:cut])
        file.flush()
        with pytest.raises(DataError):
            ZipArchive(Path(file.name)).scan()


@given(bits=st.lists(st.integers(0, 8 * len(PACKED) - 1), min_size=1, max_size=3))
@settings(deadline=None, max_examples=200)
def test_flipped_bits_are_an_error_or_a_refusal_and_never_other_content(bits: list[int]) -> None:
    changed = bytearray(PACKED)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    with tempfile.NamedTemporaryFile() as file:
        file.write(changed)
        file.flush()
        with suppress(DataError):
            _, content = read_all_of(Path(file.name))
            assert set(content.values()) <= set(CONTENT.values())
