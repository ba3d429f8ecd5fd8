"""The work shared out over processes and jobs: the same bytes, nothing twice, nothing left out without a reason."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import webdataset
from tiny_corpus import content_of, files, pack, read_all, shards_of, unpack

from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.errors import DataError, UsageError
from kws_dist.shards.index import load_index
from kws_dist.shards.plan import make_plan
from kws_dist.shards.read import open_dataset, pcm_of
from kws_dist.shards.write import merge_dataset, write_dataset, write_part

SPLITS = ("train", "val", "test", "noise")
BROKEN = ("yes/00000003_nohash_0.wav", "no/00000008_nohash_0.wav", "up/00000000_nohash_0.wav")


def test_two_processes_write_the_same_bytes_as_one(tiny_archive: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    heard: list[int] = []
    out = shards_of(tiny_archive, tmp_path / "out", workers=2, on_clips=heard.append)
    assert content_of(out) == content_of(tiny_dataset)
    assert sum(heard) == 38


def part(archive: Path, out: Path, index: int, count: int, *, seed: int = 0) -> int:
    source = SpeechCommands(archive)
    plan = make_plan(source, shard_clips=8, seed=seed)
    return write_part(source, plan, out, part=(index, count), task="tiny", command=["make", "it"])


@pytest.mark.parametrize("count", [2, 3, 10])
def test_parts_merged_in_any_order_are_the_dataset(
    tiny_archive: Path, tiny_dataset: Path, tmp_path: Path, count: int
) -> None:
    written = [part(tiny_archive, tmp_path, index, count) for index in reversed(range(count))]
    assert sum(written) == 7
    with pytest.raises(UsageError, match="unfinished"):
        open_dataset(tmp_path)
    assert merge_dataset(tmp_path).meta.digest == open_dataset(tiny_dataset).digest
    assert content_of(tmp_path) == content_of(tiny_dataset)
    with pytest.raises(UsageError, match="finished already"):
        merge_dataset(tmp_path)


def test_merging_too_early_names_what_is_missing_and_harms_nothing(
    tiny_archive: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    part(tiny_archive, tmp_path, 0, 2)
    with pytest.raises(UsageError, match=r"3 of 7 shards are missing, the first train-000001\.tar"):
        merge_dataset(tmp_path)
    part(tiny_archive, tmp_path, 1, 2)
    broken = bytearray((tmp_path / "val-000000.tar").read_bytes())
    broken[600] ^= 1
    (tmp_path / "val-000000.tar").write_bytes(broken)
    with pytest.raises(DataError, match=r"val-000000\.tar: clip '.*' is damaged"):
        merge_dataset(tmp_path)
    part(tiny_archive, tmp_path, 1, 2)
    merge_dataset(tmp_path)
    assert content_of(tmp_path) == content_of(tiny_dataset)


def test_parts_of_two_different_datasets_do_not_mix(tiny_archive: Path, tmp_path: Path) -> None:
    part(tiny_archive, tmp_path, 0, 2)
    with pytest.raises(UsageError, match="another unfinished dataset, begun with: make it"):
        part(tiny_archive, tmp_path, 1, 2, seed=1)


def test_a_recording_changed_between_two_parts_is_seen(tmp_path: Path) -> None:
    folder, out = unpack(tmp_path / "f", files()), tmp_path / "out"
    for index in (0, 1):
        source = SpeechCommands(root=folder)
        plan = make_plan(source, shard_clips=8, seed=0)
        if index == 0:
            write_part(source, plan, out, part=(0, 2), task="", command=[])
            clip = folder / "yes" / "00000003_nohash_0.wav"
            clip.write_bytes(clip.read_bytes()[:-1] + b"\x55")
    with pytest.raises(UsageError, match="some recordings were different"):
        write_part(source, plan, out, part=(1, 2), task="", command=[])


def test_a_recording_changed_before_a_repair_is_seen(tmp_path: Path) -> None:
    folder = unpack(tmp_path / "f", files())
    out = shards_of(folder, tmp_path / "out")
    clip = folder / "yes" / "00000003_nohash_0.wav"
    clip.write_bytes(clip.read_bytes()[:-1] + b"\x55")
    for shard in out.glob("*.tar"):
        shard.unlink()
    with pytest.raises(DataError, match="the recordings have changed since"):
        shards_of(folder, out)


def with_broken_clips(folder: Path) -> Path:
    """The tiny corpus with a clip cut off, one of noise instead of audio, and one that is empty."""
    content = files()
    content[BROKEN[0]] = content[BROKEN[0]][:-100]
    content[BROKEN[1]] = bytes(range(200))
    content[BROKEN[2]] = b""
    return pack(folder / "broken.tar.gz", content)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_used_is_left_out_and_listed_with_the_reason(tmp_path: Path, workers: int) -> None:
    out = shards_of(with_broken_clips(tmp_path), tmp_path / "out", workers=workers)
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert {(row["name"], row["word"], row["split"]) for row in rejected} == {
        ("yes/00000003_nohash_0", "yes", "test"),
        ("no/00000008_nohash_0", "no", "train"),
        ("up/00000000_nohash_0", "up", "val"),
    }
    assert sorted(row["reason"].rpartition(": ")[2] for row in rejected) == [
        "cut off after 780 of 830 samples",
        "not a WAV file",
        "not a WAV file",
    ]
    dataset = open_dataset(out)
    assert dataset.meta["rejected"] == 3
    assert dataset.meta["clips"] == {"train": 20, "val": 5, "test": 8, "noise": 2}
    assert not {row["name"] for row in rejected} & {key for split in SPLITS for key in dataset.rows(split).keys}


def test_continuing_and_repairing_keep_account_of_what_was_left_out(tmp_path: Path) -> None:
    archive = with_broken_clips(tmp_path)
    out = shards_of(archive, tmp_path / "out")
    whole = content_of(out)
    for lost in ("dataset.json", "rejected.jsonl", "train-000000.tar", "val-000000.idx"):
        (out / lost).unlink()
        assert content_of(shards_of(archive, out)) == whole
    (out / "rejected.jsonl").write_text("")
    assert content_of(shards_of(archive, out)) == whole


def test_parts_keep_account_too(tmp_path: Path) -> None:
    archive = with_broken_clips(tmp_path)
    whole = content_of(shards_of(archive, tmp_path / "whole"))
    for index in range(3):
        part(archive, tmp_path / "out", index, 3)
    assert len(merge_dataset(tmp_path / "out").rejected) == 3
    assert content_of(tmp_path / "out") == whole


def test_a_word_of_which_nothing_can_be_used_in_a_split_is_an_error_naming_it(tmp_path: Path) -> None:
    content = files() | {f"yes/{speaker:08x}_nohash_0.wav": b"RIFF" for speaker in range(2)}
    with pytest.raises(DataError, match=r"no clip of 'yes' in val could be used, such as yes/0000000\d_nohash_0"):
        shards_of(pack(tmp_path / "a.tar.gz", content), tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_shard_of_which_nothing_can_be_used_is_an_empty_tar(tmp_path: Path) -> None:
    content = files(noises=1) | {"_background_noise_/hum 0.wav": b"RIFF"}
    dataset = open_dataset(shards_of(pack(tmp_path / "a.tar.gz", content), tmp_path / "out"))
    assert len(dataset.rows("noise")) == 0
    index, _ = load_index(tmp_path / "out" / "noise-000000.idx")
    assert [row.word for row in index.rejected] == ["_background_noise_"]


def test_flac_holds_the_same_audio_under_the_same_digest_in_less_room(
    tiny_archive: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    source = SpeechCommands(tiny_archive)
    plan = make_plan(source, shard_clips=8, seed=0, codec="flac")
    write_dataset(source, plan, tmp_path / "out", task="tiny", command=[])
    audio, dataset = read_all(source), open_dataset(tmp_path / "out")
    assert dataset.codec == "flac"
    assert dataset.digest == open_dataset(tiny_dataset).digest
    for split in SPLITS:
        rows = dataset.rows(split)
        shards = [path.read_bytes() for path in rows.shard_paths]
        for i, key in enumerate(rows.keys):
            first = rows.record_offset[i]
            record = shards[rows.shard[i]][first : first + rows.record_bytes[i]]
            assert np.array_equal(pcm_of(rows, i, record), audio[key])
    samples = list(webdataset.WebDataset(str(tmp_path / "out" / "val-000000.tar"), shardshuffle=False))
    assert {sample["__key__"] for sample in samples} == set(dataset.rows("val").keys)
    assert all(sample["flac"].startswith(b"fLaC") for sample in samples)


SLOW_JOB = """
import sys, time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.shards.plan import make_plan
from kws_dist.shards.write import write_dataset

class Slow(SpeechCommands):
    def read(self, key):
        with open(sys.argv[2], "a") as pids:
            import os
            pids.write(f"{os.getpid()}\\n")
        time.sleep(0.1)
        return super().read(key)

if __name__ == "__main__":
    source = Slow(Path(sys.argv[1]))
    write_dataset(source, make_plan(source, shard_clips=8, seed=0), Path(sys.argv[3]), task="", command=[], workers=2)
"""


def test_a_worker_that_is_killed_is_an_error_that_says_so(tiny_archive: Path, tmp_path: Path) -> None:
    with slow_job(tiny_archive, tmp_path) as (child, pids):
        os.kill(pids[0], signal.SIGKILL)
        _, error = child.communicate(timeout=30)
    assert child.returncode == 1
    assert "a worker process was killed" in error


def test_ctrl_c_ends_all_processes_and_leaves_nothing_half_written(tiny_archive: Path, tmp_path: Path) -> None:
    with slow_job(tiny_archive, tmp_path) as (child, pids):
        for _ in range(3):  # pressed again and again
            for pid in (child.pid, *pids):  # as a terminal does
                os.kill(pid, signal.SIGINT)
        child.communicate(timeout=30)
    assert child.returncode != 0
    assert not any(alive(pid) for pid in pids)
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_what_a_killed_job_left_behind_is_removed(tiny_archive: Path, tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    out = shards_of(tiny_archive, tmp_path / "out")
    left = out / f".spool-{os.uname().nodename}-{ended.pid}-abcdef.tmp"
    living = out / f".spool-{os.uname().nodename}-{os.getpid()}-abcdef.tmp"
    left.write_bytes(b"audio")
    living.write_bytes(b"audio")
    shards_of(tiny_archive, out)
    assert not left.exists()
    assert living.exists()


def test_no_worker_outlives_a_killed_parent(tiny_archive: Path, tmp_path: Path) -> None:
    with slow_job(tiny_archive, tmp_path) as (child, pids):
        child.kill()
    assert child.returncode == -signal.SIGKILL
    for pid in pids:
        until(lambda pid=pid: not alive(pid))


@contextmanager
def slow_job(archive: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run a job that takes its time, and give its process and the numbers of its two workers once both are at work."""
    (folder / "job.py").write_text(SLOW_JOB)
    log = folder / "pids"
    command = [sys.executable, str(folder / "job.py"), str(archive), str(log), str(folder / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        until(lambda: log.exists() and len(set(log.read_text().split())) == 2)
        yield child, sorted({int(pid) for pid in log.read_text().split()})


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does, for at most half a minute."""
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
