"""The doctor's verification: whatever happens to a dataset, it is found, all of it, and the file is named."""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spoken_corpus import WORDS, shards_of_recordings, spoken

from kws_dist.corpus.clip import Rejected
from kws_dist.errors import UsageError
from kws_dist.shards.index import ShardIndex, load_index, pack_index
from kws_dist.shards.meta import contents, load_meta, pack_rejected
from kws_dist.shards.record import padded
from kws_dist.shards.verify import Verified, verify
from kws_dist.shards.verify_clip import tar_header

LEFT_OUT = tuple(Rejected(name=f"yes/{i}.wav", reason="no samples", word="yes", split="train") for i in range(3))
run_many = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 train, 2 val, 2 test and 1 noise shard, and three recordings that were left out."""
    return shards_of_recordings(spoken().values(), tmp_path_factory.mktemp("whole") / "out", rejected=LEFT_OUT)


@pytest.fixture(scope="module")
def flac(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shards_of_recordings(spoken(2).values(), tmp_path_factory.mktemp("flac") / "out", codec="flac")


@contextmanager
def changed(path: Path, data: bytes | None) -> Iterator[None]:
    """Give a file other content, or remove it, for the time of one example."""
    before = path.read_bytes() if path.exists() else None
    path.unlink() if data is None else path.write_bytes(data)
    try:
        yield
    finally:
        path.unlink(missing_ok=True) if before is None else path.write_bytes(before)


def flipped(data: bytes, bit: int) -> bytes:
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    return bytes(broken)


def files_at_fault(verified: Verified) -> set[str]:
    """The files that are named; every sentence must begin with the path and end with a remedy."""
    for fault in verified.faults:
        assert fault.sentence.startswith(str(verified.root / fault.file)), fault.sentence
        assert "; " in fault.sentence
        assert "\n" not in fault.sentence
    return {fault.file for fault in verified.faults}


def all_files(root: Path) -> list[Path]:
    files = sorted(root.iterdir())
    assert len(files) == 2 + 2 * 7
    return files


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("*.tar"))


def test_a_dataset_as_it_was_written_has_no_fault(whole: Path, flac: Path) -> None:
    for root in (whole, flac):
        for workers in (1, 2):
            heard: list[int] = []
            verified = verify(root, workers=workers, on_clips=heard.append)
            assert verified.faults == []
            assert sum(heard) == verified.clips == sum(load_meta(root / "dataset.json").clips.values())
            assert all(shard.whole.all() for shard in verified.shards)


@given(data=st.data())
@run_many
def test_a_bit_flipped_in_any_file_is_found_and_the_file_named(whole: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(all_files(whole)))
    content = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    with changed(path, flipped(content, bit)):
        assert files_at_fault(verify(whole)) == {path.name}


@pytest.mark.parametrize("codec", ["wav", "flac"])
@given(data=st.data())
@run_many
def test_a_bit_flipped_in_a_shard_is_pinned_to_its_clip(
    whole: Path, flac: Path, codec: str, data: st.DataObject
) -> None:
    root = {"wav": whole, "flac": flac}[codec]
    path = data.draw(st.sampled_from(shards(root)))
    content = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * (len(content) - 1024) - 1))
    index, _ = load_index(path.with_suffix(".idx"))
    key = index.keys[int(np.searchsorted(index.rows["record_offset"], bit // 8, "right")) - 1]
    with changed(path, flipped(content, bit)):
        verified = verify(root)
    [fault] = verified.faults
    assert (fault.file, fault.clips) == (path.name, (key,))
    assert f"clip {key!r} is damaged" in fault.sentence
    [shard] = [shard for shard in verified.shards if shard.path == path]
    assert [key for key, is_whole in zip(index.keys, shard.whole, strict=True) if not is_whole] == [key]


@given(data=st.data())
@run_many
def test_any_file_cut_at_any_place_is_found_and_the_lost_clips_are_named(whole: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(all_files(whole)))
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    with changed(path, content[:cut]):
        verified = verify(whole)
    assert files_at_fault(verified) == {path.name}
    if path.suffix == ".tar":
        index, _ = load_index(path.with_suffix(".idx"))
        ends = index.rows["record_offset"] + index.rows["record_bytes"]
        lost = tuple(key for key, end in zip(index.keys, ends, strict=True) if end > cut)
        assert verified.faults[0].clips == lost
        assert "cut off" in verified.faults[0].sentence if lost else "the end of the tar" in verified.faults[0].sentence


def test_any_file_that_is_deleted_or_continued_is_found(whole: Path) -> None:
    for path in all_files(whole):
        with changed(path, None):
            assert files_at_fault(verify(whole)) == {path.name}
        for more in (b"\0", b"{}\n", bytes(10_240)):
            with changed(path, path.read_bytes() + more):
                assert files_at_fault(verify(whole)) == {path.name}


def test_a_shard_deleted_with_its_index_is_found(whole: Path) -> None:
    path = whole / "val-000001.tar"
    with changed(path, None), changed(path.with_suffix(".idx"), None):
        assert files_at_fault(verify(whole)) == {"val-000001.tar", "val-000001.idx"}


@given(data=st.data())
@settings(run_many, max_examples=30)
def test_two_files_swapped_are_found_and_it_is_said_which(whole: Path, data: st.DataObject) -> None:
    one, two = data.draw(st.lists(st.sampled_from(shards(whole)), min_size=2, max_size=2, unique=True))
    suffixes = data.draw(st.sampled_from([(".tar",), (".idx",), (".tar", ".idx")]))
    for suffix in suffixes:
        swap(one.with_suffix(suffix), two.with_suffix(suffix))
    verified = verify(whole)
    for suffix in suffixes:
        swap(one.with_suffix(suffix), two.with_suffix(suffix))
    assert files_at_fault(verified) == {path.with_suffix(suffix).name for path in (one, two) for suffix in suffixes}
    assert len(verified.faults) == 2 * len(suffixes)
    for fault in verified.faults:
        other = two if fault.file.startswith(one.stem) else one
        assert f"holds {other.stem}" in fault.sentence


def swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def test_everything_is_found_at_once(whole: Path) -> None:
    damaged, missing, cut = whole / "train-000000.tar", whole / "val-000000.tar", whole / "test-000001.tar"
    content = damaged.read_bytes()
    index, _ = load_index(damaged.with_suffix(".idx"))
    for number in (1, 4):
        content = flipped(content, 8 * (int(index.rows["audio_offset"][number]) + 50))
    with (
        changed(damaged, content),
        changed(missing, None),
        changed(cut, cut.read_bytes()[:-5000]),
        changed(whole / "rejected.jsonl", b""),
        changed(whole / "train-000002.idx", b"x"),
    ):
        verified = verify(whole, workers=2)
    files = ["train-000000.tar", "train-000000.tar", "val-000000.tar", "test-000001.tar"]
    assert [fault.file for fault in verified.faults] == [*files, "train-000002.idx", "rejected.jsonl"]
    assert [fault.clips for fault in verified.faults[:2]] == [(index.keys[1],), (index.keys[4],)]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("train-000002.tar", "not listed in dataset.json"),
        ("noise-000001.idx", "not listed in dataset.json"),
        ("train-000000.tar.tmp", "a command that was stopped"),
        ("unfinished.json", "a command that was stopped"),
        ("unfinished.json.node-17.tmp", "a command that was stopped"),
    ],
)
def test_what_does_not_belong_there_is_found(whole: Path, name: str, says: str) -> None:
    with changed(whole / name, b"{}"):
        [fault] = verify(whole).faults
    assert fault.file == name
    assert says in fault.sentence


def test_other_files_beside_a_dataset_are_no_business_of_the_doctor(whole: Path) -> None:
    with changed(whole / "README.md", b"mine"), changed(whole / "page.png", b""):
        assert verify(whole).faults == []


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the numbers and texts of a JSON value are."""
    if isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[name], (*place, name))
    else:
        yield place


def edited(meta: dict[str, Any], place: tuple[Any, ...]) -> dict[str, Any]:
    """Give one value of `dataset.json` another."""
    meta = json.loads(json.dumps(meta))
    inner = meta
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = inner[place[-1]] + 1 if isinstance(inner[place[-1]], int | float) else f"{inner[place[-1]]}x"
    return meta


def sealed(meta: dict[str, Any]) -> bytes:
    """Give an edited `dataset.json` the checksum that belongs to it, so that only what it describes can tell."""
    rest = {name: value for name, value in meta.items() if name != "checksum"}
    checksum = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return (json.dumps(rest | {"checksum": checksum}, indent=1, ensure_ascii=False) + "\n").encode()


@given(data=st.data())
@run_many
def test_any_value_edited_in_dataset_json_is_found(whole: Path, data: st.DataObject) -> None:
    path = whole / "dataset.json"
    meta = json.loads(path.read_bytes())
    place = data.draw(st.sampled_from(list(leaves(meta))))
    with changed(path, (json.dumps(edited(meta, place), indent=1) + "\n").encode()):
        assert "dataset.json" in files_at_fault(verify(whole))


@given(data=st.data())
@run_many
def test_a_value_edited_and_sealed_again_is_found_by_what_it_describes(whole: Path, data: st.DataObject) -> None:
    path = whole / "dataset.json"
    meta = json.loads(path.read_bytes())
    said_nowhere_else = {"task", "source", "command", "seed", "checksum"}
    places = [place for place in leaves(meta) if place[0] not in said_nowhere_else]
    with changed(path, sealed(edited(meta, data.draw(st.sampled_from(places))))):
        verified = verify(whole)
    assert verified.faults
    assert all("dataset.json" in fault.sentence for fault in verified.faults)


def test_a_vocabulary_that_is_too_short_for_the_labels_is_found(whole: Path) -> None:
    meta = json.loads((whole / "dataset.json").read_bytes())
    with changed(whole / "dataset.json", sealed({**meta, "words": ["yes", "no"]})):
        verified = verify(whole)
    assert files_at_fault(verified) == {path.with_suffix(".idx").name for path in shards(whole)[1:]}
    assert all("has labels for which dataset.json has no word" in fault.sentence for fault in verified.faults)


def test_dataset_json_laid_out_otherwise_is_found(whole: Path) -> None:
    path = whole / "dataset.json"
    with changed(path, json.dumps(json.loads(path.read_bytes())).encode()):
        [fault] = verify(whole).faults
    assert "its layout was changed" in fault.sentence


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{", b"[" * 200_000])
def test_without_dataset_json_the_shards_are_still_verified(whole: Path, content: bytes | None) -> None:
    shard = whole / "val-000001.tar"
    with changed(whole / "dataset.json", content):
        assert files_at_fault(verify(whole)) == {"dataset.json"}
        with changed(shard, flipped(shard.read_bytes(), 9000)):
            assert files_at_fault(verify(whole)) == {"dataset.json", shard.name}
        for data in (None, shard.read_bytes()[:-1], shard.read_bytes() + b"\0", flipped(shard.read_bytes(), -1)):
            with changed(shard, data):
                assert files_at_fault(verify(whole)) == {"dataset.json", shard.name}


def test_where_there_are_no_shards_it_is_wrong_use(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match=r"make_shards\.py"):
            verify(root)


def test_a_shard_without_its_index_is_compared_as_a_whole(whole: Path) -> None:
    path = whole / "train-000001.tar"
    with changed(path.with_suffix(".idx"), b"not an index"):
        assert files_at_fault(verify(whole)) == {"train-000001.idx"}
        with changed(path, flipped(path.read_bytes(), 70_000)):
            assert files_at_fault(verify(whole)) == {"train-000001.idx", "train-000001.tar"}


# Forgeries: every checksum of every file is made again, so that only the content can tell.


def forge(root: Path, shard: str, index: ShardIndex, content: bytes) -> None:
    """Write a shard and its index and make all that follows from them fit again."""
    path, entries, meta = root / shard, [], json.loads((root / "dataset.json").read_bytes())
    for row, number in zip(index.rows, range(len(index.rows)), strict=True):
        record = content[int(row["record_offset"]) :][: int(row["record_bytes"])]
        index.rows["record_checksum"][number] = xxhash.xxh3_64_intdigest(record)
    path.write_bytes(content)
    path.with_suffix(".idx").write_bytes(pack_index(index))
    for entry in meta["shards"]:
        data = (root / entry["name"]).read_bytes()
        idx = (root / entry["name"]).with_suffix(".idx").read_bytes()
        sha256, index_sha256 = hashlib.sha256(data).hexdigest(), hashlib.sha256(idx).hexdigest()
        entries.append({**entry, "bytes": len(data), "sha256": sha256, "index_sha256": index_sha256})
    indexes = [(entry["split"], load_index((root / entry["name"]).with_suffix(".idx"))[0]) for entry in meta["shards"]]
    forged = {**meta, "shards": entries, **contents(indexes, meta["words"])}
    (root / "dataset.json").write_bytes(sealed(forged))


def in_record(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Put new bytes in the place of old ones of the same length."""
    assert len(old) == len(new)

    def change(record: bytes) -> bytes:
        assert record.count(old) >= 1
        return record.replace(old, new)

    return change


def with_labels(**other: object) -> Callable[[bytes], bytes]:
    """Write other labels, with a header that fits."""

    def change(record: bytes) -> bytes:
        start = len(record) - 1024
        name = record[start : start + 100].rstrip(b"\0").decode()
        about = json.loads(record[start + 512 :].rstrip(b"\0"))
        text = json.dumps({**about, **other}).encode()
        return record[:start] + tar_header(name, len(text)) + text.ljust(padded(len(text)), b"\0")

    return change


def with_text(text: bytes) -> Callable[[bytes], bytes]:
    def change(record: bytes) -> bytes:
        start = len(record) - 1024
        name = record[start : start + 100].rstrip(b"\0").decode()
        return record[:start] + tar_header(name, len(text)) + text.ljust(padded(len(text)), b"\0")

    return change


def named(name: str) -> Callable[[bytes], bytes]:
    def change(record: bytes) -> bytes:
        text = record[-512:].rstrip(b"\0")
        return record[:-1024] + tar_header(name, len(text)) + record[-512:]

    return change


FORGED_RECORDS = {
    "label": (with_labels(label=2), "says label 2, and the index 0"),
    "a label that is no number": (with_labels(label=False), "says label False"),
    "word": (with_labels(word="no"), "says word 'no', and the index 'yes'"),
    "speaker": (with_labels(speaker="somebody"), "says speaker 'somebody'"),
    "no labels": (with_text(b"{}"), "has no 'label'"),
    "labels that are a list": (with_text(b"[0]"), "has no 'label'"),
    "labels that are no JSON": (with_text(b"{"), "cannot be read"),
    "labels twice": (with_text(b'{"label": 1, "label": 0, "speaker": "train-1", "word": "yes"}'), "is there twice"),
    "name of the labels": (named("yes/train-7.json"), "header of yes/train-1.json is wrong"),
    "header of the labels": (in_record(b"yes/train-1.json", b"yes/train-7.json"), "cannot be read (bad checksum)"),
    "name of the audio": (in_record(b"yes/train-1.wav", b"yes/train-7.wav"), "not that of yes/train-1.wav"),
    "kind of member": (lambda record: record[:156] + b"5" + record[157:], "its tar header"),
    "size of member": (lambda record: record[:124] + b"00000000001" + record[135:], "its tar header"),
    "tar magic": (lambda record: record[:257] + b"nope!" + record[262:], "its tar header"),
    "rate": (in_record(b"\x80\x3e\x00\x00\x00\x7d", b"\x40\x1f\x00\x00\x00\x7d"), "its WAV header"),
    "samples": (lambda record: record[:900] + bytes([record[900] ^ 1]) + record[901:], "its samples do not match"),
    "padding": (lambda record: record[: 512 + 44 + 16_000] + b"?" + record[512 + 44 + 16_001 :], "between its audio"),
    "padding of the labels": (lambda record: record[:-1] + b"?", "behind its labels"),
}


@pytest.mark.parametrize("what", FORGED_RECORDS)
def test_a_clip_that_was_written_wrongly_is_found_though_every_checksum_is_right(
    whole: Path, tmp_path: Path, what: str
) -> None:
    change, says = FORGED_RECORDS[what]
    root = shutil.copytree(whole, tmp_path / "out")
    name, number, index, content = clip_in(root, "yes/train-1")
    row = index.rows[number]
    first, size = int(row["record_offset"]), int(row["record_bytes"])
    record = change(content[first : first + size])
    assert len(record) == size
    forge(root, name, index, content[:first] + record + content[first + size :])
    [fault] = verify(root).faults
    assert (fault.file, fault.clips) == (name, ("yes/train-1",))
    assert says in fault.sentence
    assert f"remove {name}" in fault.sentence, "for the same command would keep it"


def clip_in(root: Path, key: str) -> tuple[str, int, ShardIndex, bytes]:
    """Find a clip: its shard, its number there, an index that can be changed, and the bytes of the shard."""
    for path in shards(root):
        index, _ = load_index(path.with_suffix(".idx"))
        if key in index.keys:
            writable = replace(index, rows=index.rows.copy())
            return path.name, index.keys.index(key), writable, path.read_bytes()
    raise AssertionError(key)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("label", 2, "says label 0, and the index 2"),
        ("speaker", 0, "says speaker"),
        ("checksum", 12345, "its samples do not match"),
    ],
)
def test_an_index_that_was_written_wrongly_is_found_though_every_checksum_is_right(
    whole: Path, tmp_path: Path, column: str, value: int, says: str
) -> None:
    root = shutil.copytree(whole, tmp_path / "out")
    name, number, index, content = clip_in(root, "yes/train-1")
    assert index.rows[column][number] != value
    index.rows[column][number] = value
    forge(root, name, index, content)
    [fault] = verify(root).faults
    assert (fault.file, fault.clips) == (name, ("yes/train-1",))
    assert says in fault.sentence


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("checksum", 12345, "its samples do not match"),
        ("n_samples", 7999, "has 8,000 samples, and its index says 7,999"),
    ],
)
def test_an_index_of_flac_that_was_written_wrongly_is_found(
    flac: Path, tmp_path: Path, column: str, value: int, says: str
) -> None:
    root = shutil.copytree(flac, tmp_path / "out")
    name, number, index, content = clip_in(root, "yes/train-1")
    index.rows[column][number] = value
    forge(root, name, index, content)
    [fault] = verify(root).faults
    assert (fault.file, fault.clips) == (name, ("yes/train-1",))
    assert says in fault.sentence


def test_flac_that_cannot_be_decoded_is_found_though_every_checksum_is_right(flac: Path, tmp_path: Path) -> None:
    root = shutil.copytree(flac, tmp_path / "out")
    name, number, index, content = clip_in(root, "yes/train-1")
    first = int(index.rows["audio_offset"][number])
    forge(root, name, index, content[:first] + b"nope" + content[first + 4 :])
    [fault] = verify(root).faults
    assert "its audio cannot be decoded" in fault.sentence


def test_labels_that_hold_more_than_they_must_are_no_fault(whole: Path, tmp_path: Path) -> None:
    root = shutil.copytree(whole, tmp_path / "out")
    name, number, index, content = clip_in(root, "yes/train-1")
    first, size = int(index.rows["record_offset"][number]), int(index.rows["record_bytes"][number])
    record = with_labels(source="mine.wav")(content[first : first + size])
    forge(root, name, index, content[:first] + record + content[first + size :])
    assert verify(root).faults == []


def test_a_plan_or_a_codec_that_is_not_that_of_the_dataset_is_found(whole: Path, tmp_path: Path) -> None:
    for changes, says in (({"plan_id": "0" * 32}, "of another plan"), ({"codec": "flac"}, "describes flac")):
        root = shutil.copytree(whole, tmp_path / says)
        name, _, index, content = clip_in(root, "yes/train-1")
        forge(root, name, replace(index, **changes), content)
        faults = verify(root).faults
        assert faults[0].file == name.replace(".tar", ".idx")
        assert says in faults[0].sentence


def test_the_same_shard_under_two_names_is_found(whole: Path, tmp_path: Path) -> None:
    root = shutil.copytree(whole, tmp_path / "out")
    _, _, index, content = clip_in(root, "yes/train-1")
    other = next(p.name for p in shards(root) if p.name.startswith("train") and p.read_bytes() != content)
    forge(root, other, index, content)
    verified = verify(root)
    assert {key for fault in verified.faults for key in fault.clips} == set(index.keys)
    assert all("is in train-000000.tar and in train-000001.tar" in fault.sentence for fault in verified.faults)


@given(data=st.data())
@settings(run_many, max_examples=30)
def test_rejected_jsonl_that_was_written_wrongly_is_found(whole: Path, data: st.DataObject) -> None:
    meta = json.loads((whole / "dataset.json").read_bytes())
    path = whole / "rejected.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    fewer = b"".join(data.draw(st.lists(st.sampled_from(lines), max_size=5)))
    if fewer != path.read_bytes():
        with changed(path, fewer):
            assert files_at_fault(verify(whole)) == {"rejected.jsonl"}
            if fewer.count(b"\n") != 3:
                forged = {**meta, "rejected_sha256": hashlib.sha256(fewer).hexdigest()}
                with changed(whole / "dataset.json", sealed(forged)):
                    assert files_at_fault(verify(whole)) == {"rejected.jsonl"}


def test_a_clip_that_only_an_index_says_was_left_out_is_found(whole: Path, tmp_path: Path) -> None:
    root = shutil.copytree(whole, tmp_path / "out")
    name, _, index, content = clip_in(root, "yes/train-1")
    gone = Rejected(name="no/gone", reason="damaged", word="no", split="train")
    forge(root, name, replace(index, rejected=(gone,)), content)
    [fault] = verify(root).faults
    assert fault.file == "rejected.jsonl"
    assert "'no/gone'" in fault.sentence
    meta = json.loads((root / "dataset.json").read_bytes())
    listed = pack_rejected([*LEFT_OUT, gone])
    (root / "rejected.jsonl").write_bytes(listed)
    mended = {**meta, "rejected": 4, "rejected_sha256": hashlib.sha256(listed).hexdigest()}
    (root / "dataset.json").write_bytes(sealed(mended))
    assert verify(root).faults == []


@given(parts=st.lists(st.integers(1, 80), min_size=1, max_size=2), size=st.integers(0, 8**11 - 1))
def test_tar_headers_made_for_comparison_are_those_of_tarfile(parts: list[int], size: int) -> None:
    key = "/".join("x" * length for length in parts)
    info = tarfile.TarInfo(key)
    info.size = size
    assert tar_header(key, size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_the_vocabulary_of_the_fixture_is_what_the_forgeries_assume(whole: Path) -> None:
    assert load_meta(whole / "dataset.json").words == list(WORDS) == ["yes", "no", "up"]
