"""Writing: the same bytes every time, from wherever it was stopped, and never over somebody else's files."""

import fcntl
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest
from tiny_corpus import content_of, files, pack, shards_of, unpack

from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.errors import DataError, UsageError
from kws_dist.shards.plan import make_plan
from kws_dist.shards.read import open_dataset
from kws_dist.shards.write import write_dataset


def test_writing_twice_gives_the_same_bytes(tiny_archive: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    assert content_of(shards_of(tiny_archive, tmp_path / "again")) == content_of(tiny_dataset)


def test_the_digest_is_that_of_the_data_whatever_the_sharding(tiny_archive: Path, tmp_path: Path) -> None:
    outs = [
        shards_of(tiny_archive, tmp_path / f"{shard_clips}-{seed}", shard_clips=shard_clips, seed=seed)
        for shard_clips, seed in [(8, 0), (5, 0), (8, 1)]
    ]
    assert len({open_dataset(out).digest for out in outs}) == 1
    assert len({(out / "train-000000.tar").read_bytes() for out in outs}) == 3


def test_one_changed_sample_changes_the_digest(tiny_dataset: Path, tmp_path: Path) -> None:
    changed = files()
    name = "yes/00000003_nohash_0.wav"
    changed[name] = changed[name][:-1] + bytes([changed[name][-1] ^ 1])
    out = shards_of(pack(tmp_path / "a.tar.gz", changed), tmp_path / "out")
    assert open_dataset(out).digest != open_dataset(tiny_dataset).digest


def killed_at_event(number: int, archive: Path, out: Path) -> None:
    """Make the dataset in this process and kill it, as `kill -9` would, before the n-th file is begun or renamed."""
    seen = 0

    def on_event(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        begins_file = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_WRONLY
        if (begins_file or event == "os.rename") and str(out) in str(arguments[0]):
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(on_event)
    shards_of(archive, out, shard_clips=30)


def test_killed_before_any_step_the_same_command_ends_with_the_same_bytes(tiny_archive: Path, tmp_path: Path) -> None:
    wanted = content_of(shards_of(tiny_archive, tmp_path / "whole", shard_clips=30))
    fork = multiprocessing.get_context("fork")
    kills = 0
    while True:
        out = tmp_path / str(kills)
        child = fork.Process(target=killed_at_event, args=(kills, tiny_archive, out))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        if not (out / "dataset.json").exists():
            with pytest.raises(UsageError):
                open_dataset(out)
        assert content_of(shards_of(tiny_archive, out, shard_clips=30)) == wanted
        kills += 1
    assert kills >= 4 * 4  # two files begun and two renamed for each of four shards, at least


def test_continuing_keeps_the_shards_that_are_finished(tiny_archive: Path, tmp_path: Path) -> None:
    out = shards_of(tiny_archive, tmp_path / "out")
    times_ns = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "dataset.json").unlink()
    (out / "test-000001.tar").unlink()
    heard: list[int] = []
    shards_of(tiny_archive, out, on_clips=heard.append)
    assert (heard[0], sum(heard)) == (34, 38)
    rewritten = {path.name for path in out.iterdir() if path.stat().st_mtime_ns != times_ns[path.name]}
    assert rewritten == {"dataset.json", "test-000001.tar", "test-000001.idx"}


def test_a_finished_dataset_is_recognised_and_left_alone(tiny_archive: Path, tmp_path: Path) -> None:
    out = shards_of(tiny_archive, tmp_path / "out")
    times_ns = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    source = SpeechCommands(tiny_archive)
    plan = make_plan(source, shard_clips=8, seed=0)
    assert write_dataset(source, plan, out, task="tiny", command=["other", "spelling"]).was_complete
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == times_ns


@pytest.mark.parametrize("name", ["train-000001.tar", "train-000001.idx", "dataset.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "delete"])
def test_the_same_command_repairs_a_damaged_dataset(
    tiny_archive: Path, tiny_dataset: Path, tmp_path: Path, name: str, damage: str
) -> None:
    out = Path(shutil.copytree(tiny_dataset, tmp_path / "out"))
    data = bytearray((out / name).read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "delete":
        (out / name).unlink()
    else:
        (out / name).write_bytes(data[:1000] if damage == "cut" else data)
    assert content_of(shards_of(tiny_archive, out)) == content_of(tiny_dataset)


def test_another_dataset_in_the_folder_is_refused_and_kept(
    tiny_archive: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(tiny_dataset, tmp_path / "out"))
    with pytest.raises(UsageError, match="another finished dataset"):
        shards_of(tiny_archive, out, seed=1)
    (out / "dataset.json").unlink()
    with pytest.raises(UsageError, match=r"noise-000000\.tar was not made by this command"):
        shards_of(tiny_archive, out, seed=1)
    assert content_of(out).items() < content_of(tiny_dataset).items()


@pytest.mark.parametrize("name", ["train-000000.tar", "train-000099.tar", "dataset.json"])
def test_a_strangers_file_under_our_name_is_refused_and_kept(tiny_archive: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(UsageError, match=name):
        shards_of(tiny_archive, tmp_path)
    assert content_of(tmp_path) == {name: b"mine"}


def test_other_files_in_the_folder_are_left_alone(tiny_archive: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"mine")
    assert content_of(shards_of(tiny_archive, tmp_path)) == content_of(tiny_dataset) | {"notes.txt": b"mine"}


def test_two_writers_at_once_are_refused(tiny_archive: Path, tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="another process is writing"):
        shards_of(tiny_archive, tmp_path)
    os.close(handle)


def full_disk(archive: Path, out: Path, says: Path) -> None:
    """Make the dataset in a process that may write no file beyond 20 kB, as on a disk that is nearly full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        shards_of(archive, out)
    except DataError as error:
        says.write_text(str(error))


def test_a_full_disk_is_one_sentence_and_costs_nothing_that_was_finished(
    tiny_archive: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    folder = unpack(tmp_path / "folder", files())
    for corpus, remedy in [(folder, "the same command continues"), (tiny_archive, "make room and run it again")]:
        out, says = tmp_path / f"out-{remedy}", tmp_path / "says"
        child = multiprocessing.get_context("fork").Process(target=full_disk, args=(corpus, out, says))
        child.start()
        child.join()
        assert f"cannot be written (File too large); {remedy}" in says.read_text()
        assert not list(out.glob("*.tmp"))
        assert not list(out.glob(".*"))
        again = content_of(shards_of(corpus, out))
        assert again["train-000000.tar"] == (tiny_dataset / "train-000000.tar").read_bytes()
        assert open_dataset(out).digest == open_dataset(tiny_dataset).digest


def test_an_out_that_is_a_file_is_a_usage_error(tiny_archive: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="is not a folder"):
        shards_of(tiny_archive, tmp_path / "out")
