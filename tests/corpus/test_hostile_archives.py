"""Archives that are damaged or made to do harm: one clear sentence, nothing written, nothing half-read."""

import gzip
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_corpus import files, pack, read_all, tone, wav_file

from kws_dist.corpus.clip import Source
from kws_dist.corpus.container import MAX_MEMBER_BYTES
from kws_dist.corpus.folder import open_folder
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.corpus.wav import samples_of_wav
from kws_dist.errors import DataError, UsageError

CONTENT = files(speakers=6)
EVIL = "yes/evil_nohash_0.wav"


def member(name: str = EVIL, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (member("/etc/evil.wav"), "absolute"),
        (member("yes/../../evil.wav"), "'..'"),
        (member("yes/ev\x1bil.wav"), "cannot be printed"),
        (member(type=tarfile.SYMTYPE, linkname="/etc/passwd"), "link"),
        (member(type=tarfile.LNKTYPE, linkname="yes/00000000_nohash_0.wav"), "link"),
        (member(type=tarfile.FIFOTYPE), "neither a plain file nor a folder"),
        (member(type=tarfile.CHRTYPE, devmajor=1, devminor=5), "neither a plain file nor a folder"),
        (member(pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), "not a complete"),
        (member(pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "99"}), "sparse"),
        (member(pax_headers={"size": "-512"}), "negative"),
        (member(pax_headers={"comment": "x" * (1 << 20)}), "claims"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_member_that_is_no_plain_file_is_refused_by_name(tmp_path: Path, info: tarfile.TarInfo, says: str) -> None:
    archive = pack(tmp_path / "a.tar.gz", CONTENT, [(info, b"RIFF"), (member("yes/last.wav"), b"RIFF")])
    with pytest.raises(DataError, match=says) as caught:
        SpeechCommands(archive)
    assert str(archive) in str(caught.value)
    assert list(tmp_path.iterdir()) == [archive]


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    twice = member("./yes//00000000_nohash_0.wav")
    with pytest.raises(DataError, match=r"'yes/00000000_nohash_0.wav' is there twice"):
        SpeechCommands(pack(tmp_path / "a.tar.gz", CONTENT, [(twice, b"RIFF")]))


def test_a_member_larger_than_any_recording_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = member(size=MAX_MEMBER_BYTES + 1).tobuf()
    (tmp_path / "a.tar").write_bytes(header)
    with pytest.raises(DataError, match=f"'{EVIL}' is refused: it is larger than 64 MiB"):
        SpeechCommands(tmp_path / "a.tar")


def test_an_old_sparse_member_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(member(type=tarfile.GNUTYPE_SPARSE).tobuf() + bytes(1024))
    with pytest.raises(DataError, match="sparse"):
        SpeechCommands(tmp_path / "a.tar")


TEN_GB = 10 << 30


def old_sparse(real_bytes: int) -> bytes:
    """Return a header of GNU tar for a file of which nothing is packed but its size."""
    header = bytearray(member(type=tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[386:410] = f"{real_bytes:011o}\0{0:011o}\0".encode()  # where the one piece lies, and its length
    header[483:495] = f"{real_bytes:011o}\0".encode()
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def new_sparse(real_bytes: int) -> bytes:
    """Return the same as the pax format has it, with the map of its pieces before the data."""
    pieces = f"1\n{real_bytes}\n0\n".encode().ljust(512, b"\0")
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": EVIL,
        "GNU.sparse.realsize": str(real_bytes),
    }
    return member(size=512, pax_headers=headers).tobuf(tarfile.PAX_FORMAT) + pieces


@pytest.mark.parametrize("sparse", [old_sparse, new_sparse])
@pytest.mark.parametrize("open_source", [SpeechCommands, open_folder])
def test_ten_sparse_gigabytes_are_refused_at_once(
    tmp_path: Path, sparse: Callable[[int], bytes], open_source: Callable[[Path], Source]
) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(sparse(TEN_GB) + bytes(1024)))
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        assert tar.getmembers()[0].size == TEN_GB, "the library would follow it"
    with pytest.raises(DataError, match="sparse"):
        open_source(tmp_path / "a.tar.gz")


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (member(type=tarfile.BLKTYPE, devmajor=8, devminor=0), "neither a plain file nor a folder"),
        (member(type=tarfile.CHRTYPE, devmajor=1, devminor=5), "neither a plain file nor a folder"),
        (member("yes/caf\udce9.wav"), "cannot be printed"),
        (member("../evil.wav"), "'..'"),
    ],
)
@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_devices_and_names_that_are_no_text_are_refused_in_a_users_archive_too(
    tmp_path: Path, info: tarfile.TarInfo, says: str, tar_format: int
) -> None:
    (tmp_path / "a.tar").write_bytes(info.tobuf(tar_format) + bytes(1024))
    with pytest.raises(DataError, match=says) as caught:
        open_folder(tmp_path / "a.tar")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x1f\x8b", b"PK\x03\x04" + bytes(600), gzip.compress(b"", mtime=0)]
)
def test_a_file_that_is_no_archive_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar\.gz: not a complete \.tar\.gz archive"):
        SpeechCommands(path)


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--archive .*nowhere"):
        SpeechCommands(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"--root .*nowhere"):
        SpeechCommands(root=tmp_path / "nowhere")


def read_everything(path: Path) -> dict[str, np.ndarray]:
    source = SpeechCommands(path)
    return read_all(source)


@contextmanager
def as_file(data: bytes) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def plain_tar() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return gzip.decompress(pack(Path(folder) / "a.tar.gz", CONTENT).read_bytes())


PLAIN = plain_tar()
PACKED = gzip.compress(PLAIN, compresslevel=1)
CLIPS = 20


@given(cut=st.integers(0, len(PACKED) - 1))
@settings(deadline=None, max_examples=60)
def test_a_gzip_cut_anywhere_is_an_error_and_never_a_smaller_corpus(cut: int) -> None:
    with as_file(PACKED[:cut]) as path, pytest.raises(DataError):
        SpeechCommands(path)


@given(bit=st.integers(0, 8 * len(PACKED) - 1))
@settings(deadline=None, max_examples=60)
def test_a_bit_flipped_in_a_gzip_is_an_error_or_changes_nothing(bit: int) -> None:
    with as_file(flipped(PACKED, bit)) as path, suppress(DataError):
        assert len(read_everything(path)) == CLIPS  # bits of gzip's own header, such as its time, mean nothing


def end_of_members() -> int:
    with tarfile.open(fileobj=io.BytesIO(PLAIN)) as tar:
        last = tar.getmembers()[-1]
        return last.offset_data + -(-last.size // 512) * 512


@given(cut=st.integers(0, end_of_members()))
@settings(deadline=None, max_examples=60)
def test_a_tar_cut_anywhere_is_an_error_also_between_two_members(cut: int) -> None:
    with as_file(PLAIN[:cut]) as path, pytest.raises(DataError):
        SpeechCommands(path)


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(PLAIN)) as tar:
        header = tar.getmembers()[7].offset
    (tmp_path / "a.tar").write_bytes(flipped(PLAIN, 8 * (header + 3)))
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert len(tar.getmembers()) == 7, "the library's own reader does take it for the end"
    with pytest.raises(DataError, match=f"bad header at byte {header:,}"):
        SpeechCommands(tmp_path / "a.tar")


@given(data=st.binary(max_size=3000), wrap=st.booleans())
@settings(deadline=None, max_examples=100)
def test_noise_in_place_of_an_archive_raises_nothing_but_a_data_error(data: bytes, wrap: bool) -> None:
    with as_file(gzip.compress(data) if wrap else data) as path, pytest.raises(DataError):
        SpeechCommands(path)


SOUND = wav_file(tone(1))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (wav_file(tone(1), rate_hz=8000), "8000 Hz, not 16000"),
        (wav_file(tone(1), channels=2), "2 channels, not 1"),
        (wav_file(tone(1), sample_bytes=1), "8-bit samples, not 16-bit"),
        (wav_file(tone(1)[:0]), "no samples"),
        (b"", "not a WAV file"),
        (b"fLaC" + bytes(100), "not a WAV file"),
        (SOUND[:20], "not a complete WAV file"),
        (SOUND[:-100], "cut off after 750 of 800 samples"),
        (SOUND[:20] + b"\x03" + SOUND[21:], "not a PCM WAV file"),
    ],
)
def test_audio_of_another_kind_is_an_error_naming_the_member_and_the_fault(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = pack(tmp_path / "a.tar.gz", CONTENT | {"yes/odd_nohash_0.wav": content})
    source = SpeechCommands(path)
    with pytest.raises(DataError, match=f"yes/odd_nohash_0.wav: .*{says}"):
        read_all(source, ["yes/odd_nohash_0"])


@given(bit=st.integers(0, 8 * len(SOUND) - 1), cut=st.integers(0, len(SOUND)))
@settings(deadline=None, max_examples=100)
def test_a_damaged_wav_gives_samples_or_a_data_error(bit: int, cut: int) -> None:
    with suppress(DataError):
        assert samples_of_wav(flipped(SOUND, bit)[:cut], "x").dtype == np.int16


SPARSE_MAP = """
import resource, sys
from pathlib import Path
from kws_dist.corpus.tar import TarArchive
from kws_dist.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    TarArchive(Path(sys.argv[1])).scan()
except DataError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_the_map_of_a_sparse_file_is_not_held_in_memory(tmp_path: Path) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": EVIL, "GNU.sparse.realsize": "9"}
    data = b"4000000\n" + b"0\n1\n" * 4_000_000
    archive = pack(tmp_path / "a.tar.gz", CONTENT, [(member(pax_headers=headers), data)])
    told = subprocess.run([sys.executable, "-c", SPARSE_MAP, archive], capture_output=True, text=True, check=True)
    says, grown_mib = told.stdout.splitlines()
    assert "is a sparse file" in says
    assert int(grown_mib) < 32
