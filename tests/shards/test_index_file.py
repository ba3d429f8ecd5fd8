"""The index file: what is written comes back, and nothing that is not an index gets through."""

import struct
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from kws_dist.errors import DataError
from kws_dist.shards.index import ROW, ShardIndex, load_index, pack_index, parse_index


def make_index(clips: int = 3) -> ShardIndex:
    rows = np.zeros(clips, ROW)
    rows["n_samples"] = np.arange(clips) + 100
    rows["audio_bytes"] = 44 + 2 * rows["n_samples"]
    rows["record_bytes"] = 2048
    rows["record_offset"] = 2048 * np.arange(clips)
    rows["audio_offset"] = rows["record_offset"] + 512
    rows["label"] = np.arange(clips) - 1
    rows["speaker"] = np.arange(clips) % 2
    rows["checksum"] = rows["record_checksum"] = 2**64 - 1
    return ShardIndex(rows, tuple(f"yes/k_{i}" for i in range(clips)), ("", "Zoë"), "ab" * 16)


def sealed(body: bytes) -> bytes:
    """Give a body the checksum that belongs to it, so that the checks behind the checksum are reached."""
    return body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))


@pytest.mark.parametrize("clips", [0, 1, 3])
def test_what_is_written_comes_back(clips: int) -> None:
    index = make_index(clips)
    back = parse_index(pack_index(index))
    assert np.array_equal(back.rows, index.rows)
    assert (back.keys, back.speakers, back.plan_id) == (index.keys, index.speakers, index.plan_id)
    assert back.shard_bytes == 2048 * clips + 1024


DATA = pack_index(make_index())


@given(bit=st.integers(0, 8 * len(DATA) - 1))
def test_any_flipped_bit_is_seen(bit: int) -> None:
    broken = bytearray(DATA)
    broken[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError):  # noqa: PT011 (the sentence depends on the bit)
        parse_index(bytes(broken))


@given(cut=st.integers(0, len(DATA) - 1), extra=st.binary(min_size=1, max_size=99))
def test_a_short_or_long_file_is_seen(cut: int, extra: bytes) -> None:
    for data in (DATA[:cut], DATA + extra):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_index(data)


@given(start=st.integers(8, len(DATA) - 9), patch=st.binary(min_size=1, max_size=16))
@settings(max_examples=500)
def test_a_forged_index_gives_sound_rows_or_a_value_error(start: int, patch: bytes) -> None:
    body = bytearray(DATA[:-8])
    body[start : start + len(patch)] = patch
    try:
        index = parse_index(sealed(bytes(body)))
    except ValueError:
        return
    rows = index.rows
    ends = rows["record_offset"].astype(object) + rows["record_bytes"]
    assert list(rows["record_offset"][1:]) == list(ends[:-1])
    assert all(rows["audio_offset"].astype(object) + rows["audio_bytes"] <= ends)
    assert len(set(index.keys)) == len(index.keys) == len(rows)
    assert all(rows["speaker"] < len(index.speakers))


@given(data=st.binary(max_size=300), magic=st.booleans())
@settings(max_examples=300)
def test_noise_in_place_of_an_index_is_a_value_error(data: bytes, magic: bool) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_index(sealed(b"KWSINDEX" + struct.pack("<I", 1) + data) if magic else data)


def test_a_header_that_claims_more_than_the_file_holds_allocates_nothing() -> None:
    body = struct.pack("<8sI4s16sIIQQQ", b"KWSINDEX", 2, b"wav", bytes(16), 2**32 - 1, 2**32 - 1, 2**63, 2**63, 0)
    with pytest.raises(ValueError, match="where its header says"):
        parse_index(sealed(body))


def test_an_index_of_a_later_version_says_so() -> None:
    with pytest.raises(ValueError, match="format version 3, and this program reads 2"):
        parse_index(sealed(DATA[:8] + struct.pack("<I", 3) + DATA[12:-8]))


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "train-000000.idx").write_bytes(DATA[:-1])
    for name in ("train-000000.idx", "nowhere.idx"):
        with pytest.raises(DataError, match=name):
            load_index(tmp_path / name)
