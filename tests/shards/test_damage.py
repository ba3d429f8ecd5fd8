"""Damage of any kind, anywhere in a dataset, is seen before a damaged clip is used, and pinned to a file."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kws_dist.errors import DataError
from kws_dist.shards.check import check_shard
from kws_dist.shards.index import load_index
from kws_dist.shards.read import Rows, open_dataset, verify_record

SPLITS = ("train", "val", "test", "noise")
TRAILER_BYTES = 1024
run_many = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_everything(root: Path, *, check_sizes: bool = True) -> list[str]:
    """Open the dataset and verify every clip; returns the keys that are damaged, or raises the first error."""
    dataset, bad = open_dataset(root, check_sizes=check_sizes), list[str]()
    for rows in map(dataset.rows, SPLITS):
        shards = [path.read_bytes() if path.exists() else b"" for path in rows.shard_paths]
        for i, key in enumerate(rows.keys):
            try:
                verify_record(rows, i, record_of(rows, i, shards))
            except DataError:
                if check_sizes:
                    raise
                bad.append(key)
    return bad


def record_of(rows: Rows, i: int, shards: list[bytes]) -> memoryview:
    return memoryview(shards[rows.shard[i]])[rows.record_offset[i] : rows.record_offset[i] + rows.record_bytes[i]]


@contextmanager
def changed(path: Path, data: bytes | None) -> Iterator[None]:
    """Give a file other content, or remove it, for the time of one example."""
    before = path.read_bytes()
    path.unlink() if data is None else path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


@contextmanager
def swapped(one: Path, two: Path) -> Iterator[None]:
    with changed(one, two.read_bytes()), changed(two, one.read_bytes()):
        yield


def flipped(data: bytes, bit: int) -> bytes:
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    return bytes(broken)


def tars(root: Path) -> list[Path]:
    return sorted(root.glob("*.tar"))


@given(data=st.data())
@run_many
def test_a_bit_flipped_in_any_record_is_seen_and_pinned_to_one_clip(tiny_dataset: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(tars(tiny_dataset)))
    content = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * (len(content) - TRAILER_BYTES) - 1))
    index, _ = load_index(path.with_suffix(".idx"))
    key = index.keys[sum(int(end) <= bit // 8 for end in index.rows["record_offset"]) - 1]
    with changed(path, flipped(content, bit)):
        with pytest.raises(DataError, match=f"{path.name}: clip '{key}' is damaged.*--data.on_bad_clip skip"):
            read_everything(tiny_dataset)
        assert read_everything(tiny_dataset, check_sizes=False) == [key]


@given(data=st.data())
@run_many
def test_a_shard_that_is_cut_is_seen_on_opening_with_the_first_clip_lost(
    tiny_dataset: Path, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(tars(tiny_dataset)))
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content) - TRAILER_BYTES - 1))
    index, _ = load_index(path.with_suffix(".idx"))
    lost = [
        key for key, row in zip(index.keys, index.rows, strict=True) if row["record_offset"] + row["record_bytes"] > cut
    ]
    with changed(path, content[:cut]):
        with pytest.raises(DataError, match=f"{path.name}: cut off; clip '{lost[0]}' is the first of {len(lost)} "):
            open_dataset(tiny_dataset)
        assert read_everything(tiny_dataset, check_sizes=False) == sorted(lost)


@given(data=st.data())
@run_many
def test_a_bit_flipped_anywhere_in_a_shard_is_seen_by_the_full_check(tiny_dataset: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(tars(tiny_dataset)))
    content = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    with changed(path, flipped(content, bit)), pytest.raises(DataError, match=path.name):
        check_shard(path)


@given(data=st.data())
@run_many
def test_a_damaged_index_is_seen_on_opening(tiny_dataset: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(tiny_dataset.glob("*.idx"))))
    content = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    cut = data.draw(st.integers(0, len(content) - 1))
    for broken in (flipped(content, bit), content[:cut], None):
        with changed(path, broken), pytest.raises(DataError, match=path.name):
            open_dataset(tiny_dataset)


def test_a_missing_shard_is_seen_on_opening(tiny_dataset: Path) -> None:
    for path in tars(tiny_dataset):
        with changed(path, None), pytest.raises(DataError, match=f"{path.name}: missing"):
            open_dataset(tiny_dataset)


def test_a_shard_with_something_behind_it_is_seen_on_opening(tiny_dataset: Path) -> None:
    path = tars(tiny_dataset)[0]
    with changed(path, path.read_bytes() + b"\0"), pytest.raises(DataError, match=path.name):
        open_dataset(tiny_dataset)


def test_two_shards_swapped_are_seen_with_or_without_their_indexes(tiny_dataset: Path) -> None:
    one, two = tiny_dataset / "train-000000.tar", tiny_dataset / "train-000001.tar"
    one_index, two_index = one.with_suffix(".idx"), two.with_suffix(".idx")
    with swapped(one, two):
        with pytest.raises(DataError, match="train-00000"):
            read_everything(tiny_dataset)
        with swapped(one_index, two_index), pytest.raises(DataError, match=r"train-000000\.idx: not the index"):
            open_dataset(tiny_dataset)


def sealed(meta: dict[str, Any]) -> dict[str, Any]:
    """Give an edited dataset.json the checksum that belongs to it, so that the checks behind it are reached."""
    rest = {name: value for name, value in meta.items() if name != "checksum"}
    return rest | {"checksum": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the numbers and texts of a JSON value are."""
    if isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[name], (*place, name))
    else:
        yield place


@given(data=st.data())
@run_many
def test_any_value_that_is_edited_in_dataset_json_is_seen(tiny_dataset: Path, data: st.DataObject) -> None:
    path = tiny_dataset / "dataset.json"
    meta = json.loads(path.read_text())
    *above, last = data.draw(st.sampled_from(list(leaves(meta))))
    inner = meta
    for name in above:
        inner = inner[name]
    inner[last] = inner[last] + 1 if isinstance(inner[last], int | float) else f"{inner[last]}x"
    with changed(path, json.dumps(meta).encode()), pytest.raises(DataError, match=r"dataset\.json"):
        open_dataset(tiny_dataset)


def edits() -> list[tuple[str, Any]]:
    return [
        ("format_version", 3),
        ("format_version", None),
        ("sample_rate_hz", 8000),
        ("codec", "flac"),
        ("codec", "mp3"),
        ("words", ["yes", "no", "up"]),
        ("words", ["no", "up"]),
        ("words", ["no", "up", "up"]),
        ("words", "no"),
        ("clips", {"train": 20, "val": 6, "test": 9, "noise": 2}),
        ("clips_per_word", {}),
        ("digest", "0" * 64),
        ("shards", []),
        ("shards", [{"name": "../../etc/passwd"}]),
        ("shards", None),
        ("seed", "0"),
    ]


@pytest.mark.parametrize(("field", "value"), edits())
def test_an_edited_dataset_json_is_an_error_naming_it(tiny_dataset: Path, field: str, value: object) -> None:
    path = tiny_dataset / "dataset.json"
    meta = json.loads(path.read_text()) | {field: value}
    with changed(path, json.dumps(sealed(meta)).encode()), pytest.raises(DataError, match=r"dataset\.json"):
        open_dataset(tiny_dataset)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "val-000000.tar"),
        ("name", "/etc/passwd"),
        ("name", "train-000007.tar"),
        ("split", "val"),
        ("clips", 6),
        ("bytes", 1),
        ("bytes", True),
        ("index_sha256", "0" * 64),
    ],
)
def test_an_edited_entry_of_a_shard_is_a_data_error(tiny_dataset: Path, field: str, value: object) -> None:
    path = tiny_dataset / "dataset.json"
    meta = json.loads(path.read_text())
    meta["shards"][0][field] = value
    with changed(path, json.dumps(sealed(meta)).encode()), pytest.raises(DataError, match=str(tiny_dataset)):
        open_dataset(tiny_dataset)


@given(bit=st.integers(0, 8 * 2000 - 1), cut=st.integers(0, 1999))
@run_many
def test_a_damaged_dataset_json_is_an_error_or_changes_no_clip(tiny_dataset: Path, bit: int, cut: int) -> None:
    path = tiny_dataset / "dataset.json"
    content, whole = path.read_bytes(), open_dataset(tiny_dataset)
    with changed(path, content[:cut]), pytest.raises(DataError, match=r"dataset\.json"):
        open_dataset(tiny_dataset)
    with changed(path, flipped(content, bit)):
        try:
            dataset = open_dataset(tiny_dataset)
        except DataError:
            return
    assert (dataset.words, dataset.digest) == (whole.words, whole.digest)
    assert all(dataset.rows(split).keys == whole.rows(split).keys for split in SPLITS)


@pytest.mark.parametrize("content", [None, 1, "text", [], [{}], {}, {"format_version": 1}, {"shards": [[]]}])
def test_any_other_json_in_its_place_is_a_data_error(tiny_dataset: Path, content: object) -> None:
    path = tiny_dataset / "dataset.json"
    with changed(path, json.dumps(content).encode()), pytest.raises(DataError, match=r"dataset\.json"):
        open_dataset(tiny_dataset)


def test_json_that_is_nested_without_end_is_a_data_error(tiny_dataset: Path) -> None:
    path = tiny_dataset / "dataset.json"
    with changed(path, b"[" * 200_000), pytest.raises(DataError, match=r"dataset\.json"):
        open_dataset(tiny_dataset)
