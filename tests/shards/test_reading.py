"""Opening a dataset: its rows are what was written, and any reader of tar files agrees."""

import io
import json
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
import webdataset
from tiny_corpus import files, pack, read_all, shards_of

from kws_dist.corpus.clip import Samples
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.errors import UsageError
from kws_dist.shards.check import check_shard
from kws_dist.shards.plan import make_plan
from kws_dist.shards.read import Rows, open_dataset, pcm_of, verify_record
from kws_dist.shards.write import write_part


def samples_of(rows: Rows, i: int) -> Samples:
    shard = rows.shard_paths[rows.shard[i]].read_bytes()
    record = memoryview(shard)[rows.record_offset[i] : rows.record_offset[i] + rows.record_bytes[i]]
    verify_record(rows, i, record)
    return pcm_of(rows, i, record)


def test_rows_are_the_clips_of_the_source_sorted_by_key(tiny_archive: Path, tiny_dataset: Path) -> None:
    source, dataset = SpeechCommands(tiny_archive), open_dataset(tiny_dataset)
    audio = read_all(source)
    assert dataset.words == tuple(source.words)
    assert dataset.splits == ("train", "val", "test")
    for split in ("train", "val", "test", "noise"):
        rows, clips = dataset.rows(split), [clip for clip in source.clips if clip.split == split]
        assert rows.keys == [clip.key for clip in clips]
        assert rows.speaker == [clip.speaker for clip in clips]
        labels = [-1 if split == "noise" else dataset.words.index(clip.word) for clip in clips]
        assert rows.label.tolist() == labels
        for i, key in enumerate(rows.keys):
            np.testing.assert_array_equal(samples_of(rows, i), audio[key])


def test_rows_have_the_types_and_shapes_that_readers_build_on(tiny_dataset: Path) -> None:
    rows = open_dataset(tiny_dataset).rows("train")
    unsigned, places = {"checksum", "record_checksum"}, {"shard"}
    for name in ("label", "shard", "record_offset", "record_bytes", "audio_offset", "n_samples", *unsigned):
        column = getattr(rows, name)
        assert column.shape == (len(rows),)
        assert column.dtype == (np.uint64 if name in unsigned else np.int32 if name in places else np.int64)


def test_resharding_changes_no_clips_number(tiny_archive: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    one = open_dataset(tiny_dataset).rows("train")
    other = open_dataset(shards_of(tiny_archive, tmp_path / "o", shard_clips=5, seed=4)).rows("train")
    assert one.keys == other.keys
    assert one.checksum.tolist() == other.checksum.tolist()
    assert one.record_offset.tolist() != other.record_offset.tolist()


def test_samples_are_a_view_into_the_record(tiny_dataset: Path) -> None:
    rows = open_dataset(tiny_dataset).rows("val")
    with rows.shard_paths[0].open("rb") as file:
        file.seek(int(rows.record_offset[2]))
        record = file.read(int(rows.record_bytes[2]))
    assert np.shares_memory(pcm_of(rows, 2, record), np.frombuffer(record, np.uint8))


def test_webdataset_reads_the_same_audio_and_labels(tiny_dataset: Path) -> None:
    dataset = open_dataset(tiny_dataset)
    for split in dataset.splits:
        rows = dataset.rows(split)
        read = [s for path in rows.shard_paths for s in webdataset.WebDataset(str(path), shardshuffle=False)]
        assert sorted(sample["__key__"] for sample in read) == rows.keys
        for sample in read:
            i = rows.keys.index(sample["__key__"])
            with wave.open(io.BytesIO(sample["wav"])) as file:
                assert file.getparams()[:4] == (1, 2, 16_000, rows.n_samples[i])
                assert file.readframes(file.getnframes()) == samples_of(rows, i).tobytes()
            word = dataset.words[rows.label[i]]
            about = {"word": word, "label": int(rows.label[i]), "speaker": rows.speaker[i]}
            assert json.loads(sample["json"]) == about


def test_a_shard_is_a_plain_tar_with_nothing_of_the_machine_in_it(tiny_dataset: Path) -> None:
    for path in tiny_dataset.glob("*.tar"):
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                about = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode)
                assert about == (0, 0, 0, "", "", 0o644)
            keys = check_shard(path).index.keys
            assert tar.getnames() == [f"{key}.{suffix}" for key in keys for suffix in ("wav", "json")]


def test_dataset_json_counts_what_is_there(tiny_dataset: Path) -> None:
    meta = json.loads((tiny_dataset / "dataset.json").read_text())
    assert meta["clips"] == {"train": 21, "val": 6, "test": 9, "noise": 2}
    assert meta["clips_per_word"]["val"] == {"no": 2, "up": 2, "yes": 2}
    assert [check_shard(tiny_dataset / entry["name"]).entry.sha256 for entry in meta["shards"]] == [
        entry["sha256"] for entry in meta["shards"]
    ]
    assert meta.pop("checksum")
    assert open_dataset(tiny_dataset).meta == meta


def test_a_split_that_is_not_there_is_answered_with_those_that_are(tiny_dataset: Path) -> None:
    with pytest.raises(UsageError, match="no split 'dev'; it has train, val, test, noise"):
        open_dataset(tiny_dataset).rows("dev")


def test_noise_may_be_empty(tmp_path: Path) -> None:
    dataset = open_dataset(shards_of(pack(tmp_path / "a.tar.gz", files(noises=0)), tmp_path / "out"))
    assert len(dataset.rows("noise")) == 0
    assert dataset.rows("noise").label.dtype == np.int64


def test_a_folder_without_a_finished_dataset_is_one_sentence(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no shards in this folder"):
        open_dataset(tmp_path)
    (tmp_path / "train-000000.tar.tmp").write_bytes((tiny_dataset / "train-000000.tar").read_bytes())
    with pytest.raises(UsageError, match=r"unfinished.*run the same make_shards command again"):
        open_dataset(tmp_path)


def test_an_unfinished_dataset_says_which_command_goes_on(tiny_archive: Path, tmp_path: Path) -> None:
    source = SpeechCommands(tiny_archive)
    plan = make_plan(source, shard_clips=8, seed=0)
    write_part(source, plan, tmp_path, part=(0, 2), task="tiny", command=["make", "the shards"])
    with pytest.raises(UsageError, match="unfinished, 4 of 7 shards are there; go on with: make 'the shards'"):
        open_dataset(tmp_path)
