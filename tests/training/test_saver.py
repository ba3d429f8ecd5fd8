"""Saving goes on beside training, and a disk that is full costs nothing but the newest checkpoint."""

import os
from pathlib import Path

import pytest
import torch
from damage import fill

from kws_dist.errors import DataError
from kws_dist.run import RunFolder
from kws_dist.training import checkpoint
from kws_dist.training.saver import Saver, Snapshot

BYTES = 400_000


def snapshot(step: int, *, is_best: bool = False) -> Snapshot:
    return Snapshot(step, {"weights": {"w": torch.full((BYTES // 4,), float(step))}}, {"step": step}, is_best)


def steps_on(disk: Path) -> list[str]:
    return [path.name for path in checkpoint.step_folders(disk / "checkpoints")]


def test_what_is_saved_is_what_the_tensors_were_when_it_was_asked_for(tmp_path: Path) -> None:
    one = snapshot(1)
    with Saver(RunFolder(tmp_path), pytest.fail, lambda *_: None) as saver:
        saver.save(one)
        one.tensors["weights"]["w"].zero_()
        saver.finish()
    loaded = checkpoint.load(tmp_path / "checkpoints" / "step-00000001")
    assert torch.equal(loaded.tensors["weights"]["w"], torch.ones(BYTES // 4))


def test_each_checkpoint_is_told_once_it_is_whole_and_by_the_caller_itself(tmp_path: Path) -> None:
    told: list[tuple[str, bool, str]] = []
    run = RunFolder(tmp_path)
    with Saver(run, pytest.fail, lambda path, best: told.append((path.name, best, checkpoint.problem(path)))) as saver:
        for step in (1, 2, 3):
            saver.save(snapshot(step, is_best=step == 2))
        assert len(told) < 3, "the third is still being written, or not yet asked for"
        saver.finish()
    assert told == [("step-00000001", False, ""), ("step-00000002", True, ""), ("step-00000003", False, "")]
    assert steps_on(tmp_path) == ["step-00000002", "step-00000003"]
    assert run.status() == "running"


def test_a_full_disk_keeps_what_is_there_and_the_best_comes_with_the_next_save(small_disk: Path) -> None:
    said: list[str] = []
    with Saver(RunFolder(small_disk), said.append, lambda *_: None) as saver:
        saver.save(snapshot(1, is_best=True))
        saver.save(snapshot(2))
        saver.wait()
        hog = fill(small_disk)
        saver.save(snapshot(3, is_best=True))
        saver.save(snapshot(4))
        saver.wait()
        assert steps_on(small_disk) == ["step-00000001", "step-00000002"]
        assert checkpoint.load(small_disk / "checkpoints" / "best").state["step"] == 1
        assert len(said) == 2
        assert "step 3 cannot be written (No space left on device), step-00000002 is kept; training goes on" in said[0]
        hog.unlink()
        saver.save(snapshot(5))
        saver.finish()
    assert steps_on(small_disk) == ["step-00000002", "step-00000005"]
    best = checkpoint.load(small_disk / "checkpoints" / "best")
    assert best.state["step"] == 3
    assert best.tensors["weights"]["w"][0] == 3.0


def test_a_last_checkpoint_for_which_there_is_no_room_is_an_error_that_says_what_to_do(small_disk: Path) -> None:
    said: list[str] = []
    with Saver(RunFolder(small_disk), said.append, lambda *_: None) as saver:
        saver.save(snapshot(1))
        saver.wait()
        hog = fill(small_disk)
        saver.save(snapshot(2))
        with pytest.raises(DataError, match=r"step 2 cannot be written .* make room, and the same command goes on"):
            saver.finish()
        assert len(said) == 1, "nobody is told that training goes on where it has ended"
        hog.unlink()
        saver.finish()  # is tried once more
    assert steps_on(small_disk) == ["step-00000001", "step-00000002"]


def test_no_draft_is_left_by_a_disk_that_fills_while_it_is_written(small_disk: Path) -> None:
    """As a quota does, which the question for free space does not see."""
    with Saver(RunFolder(small_disk), lambda _: None, lambda *_: None) as saver:
        saver.save(snapshot(1))
        saver.wait()
        fill(small_disk)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(small_disk / "checkpoints" / "step-00000002", snapshot(2).tensors, {"step": 2})
        assert list((small_disk / "checkpoints").glob("*.tmp"))
        saver.save(snapshot(3))
        saver.wait()
    assert not list((small_disk / "checkpoints").glob("*.tmp"))
    assert steps_on(small_disk) == ["step-00000001"]


def test_a_job_whose_folder_was_taken_over_saves_nothing_more(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.open(), Saver(run, pytest.fail, lambda *_: None) as saver:
        saver.save(snapshot(1))
        saver.wait()
        record = (tmp_path / "lock").read_text()
        (tmp_path / "lock").write_text(record.replace(str(os.getpid()), "1", 1).replace('"token": "', '"token": "x'))
        saver.save(snapshot(2))
        with pytest.raises(DataError, match="taken this folder over"):
            saver.wait()
    assert steps_on(tmp_path) == ["step-00000001"]


def test_what_could_not_be_written_is_forgotten_when_the_run_goes_back(small_disk: Path) -> None:
    with Saver(RunFolder(small_disk), lambda _: None, lambda *_: None) as saver:
        saver.save(snapshot(1, is_best=True))
        saver.wait()
        hog = fill(small_disk)
        saver.save(snapshot(2, is_best=True))
        saver.forget()
        hog.unlink()
        saver.save(snapshot(1))
        saver.finish()
    assert checkpoint.load(small_disk / "checkpoints" / "best").state["step"] == 1
