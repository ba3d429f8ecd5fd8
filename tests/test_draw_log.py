"""The draw log holds what was handed to the training step, and sees whatever is repeated, missing or different."""

import json
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import SMALL, environment, python, run
from torch import nn

from kws_dist.config import parse
from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.workers import Batch, DeviceWorker
from kws_dist.draw_log import FOLDER, PADDING, DrawLog, difference, effective, last_place, next_job, problem, read_draws
from kws_dist.errors import DataError
from kws_dist.frontend.pipeline import FrontEnd
from kws_dist.shards.read import open_dataset
from kws_dist.training.data import open_data
from kws_dist.training.draws import training_sampler

STEPS, BATCH, CLIPS = 6, 12, 21


def worker(shards: Path, cut: BatchSlice) -> DeviceWorker:
    config = parse(["--data.shards", str(shards), "--data.balance", "0", "--train.global_batch", str(BATCH)])
    cpu = torch.device("cpu")
    data = open_data(config.data, cpu, ("train",))
    store = data.stores["train"]
    sampler = training_sampler(config, store.rows, data.dataset.words, streams=False)
    return DeviceWorker(store, sampler, FrontEnd(nn.Identity()), cut, cpu)


def job(run_dir: Path, shards: Path, *, begin: int = 0, end: int = STEPS, world: int = 1, accumulate: int = 1) -> None:
    """Take down what all ranks of a job are handed."""
    number = next_job(run_dir)
    for rank in range(world):
        cut = BatchSlice(global_batch=BATCH, accumulate=accumulate, rank=rank, world=world)
        for _ in DrawLog(run_dir, number, cut).watched(worker(shards, cut).batches)(begin, end):
            pass


def files(run_dir: Path) -> list[Path]:
    return sorted((run_dir / FOLDER).iterdir())


def change(run_dir: Path, *, file: int = -1, line: int = -1, **values: object) -> None:
    """Change a record of a file."""
    path = files(run_dir)[file]
    lines = path.read_text().splitlines()
    lines[line] = json.dumps(json.loads(lines[line]) | values)
    path.write_text("\n".join(lines) + "\n")


def without(run_dir: Path, line: int, *, file: int = -1) -> None:
    """Remove a record of a file."""
    path = files(run_dir)[file]
    lines = path.read_text().splitlines()
    del lines[line]
    path.write_text("\n".join(lines) + "\n")


def problem_of(run_dir: Path) -> str:
    return problem(read_draws(run_dir), steps=STEPS)


@pytest.fixture
def whole(tiny_dataset: Path, tmp_path: Path) -> Path:
    """One job on one rank."""
    job(tmp_path / "whole", tiny_dataset)
    return tmp_path / "whole"


@pytest.fixture
def twice(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A job that ended behind step 3, and one that went on from a checkpoint of step 2."""
    job(tmp_path / "twice", tiny_dataset, end=4)
    job(tmp_path / "twice", tiny_dataset, begin=2)
    return tmp_path / "twice"


def test_the_log_is_what_the_batches_hold_with_padding_told_apart(whole: Path, tiny_dataset: Path) -> None:
    steps = effective(read_draws(whole))
    batches: list[Batch] = list(worker(tiny_dataset, BatchSlice(global_batch=BATCH)).batches(0, STEPS))
    for step, batch in enumerate(batches):
        assert np.array_equal(steps[step] != PADDING, batch.weights.numpy() > 0)
        assert np.array_equal(steps[step][steps[step] >= 0], batch.draws.clip[batch.weights.numpy() > 0])
    epoch = np.concatenate([steps[0], steps[1]])
    assert sorted(epoch[epoch >= 0]) == list(range(CLIPS)), "the log itself shows that an epoch has every clip once"


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (3, 2), (1, 4)])
def test_files_of_ranks_joined_are_the_log_of_one(
    whole: Path, tiny_dataset: Path, tmp_path: Path, world: int, accumulate: int
) -> None:
    job(tmp_path / "many", tiny_dataset, world=world, accumulate=accumulate)
    assert len(files(tmp_path / "many")) == world
    assert problem_of(tmp_path / "many") == ""
    assert difference(read_draws(tmp_path / "many"), read_draws(whole)) == ""


def test_a_job_that_goes_on_from_a_checkpoint_on_other_ranks_changes_nothing(
    whole: Path, twice: Path, tiny_dataset: Path
) -> None:
    job(twice, tiny_dataset, begin=3, world=2)
    assert [(stretch.job, stretch.begin, stretch.world) for stretch in read_draws(twice)] == [
        *((1, 0, 1), (2, 2, 1), (3, 3, 2))
    ]
    assert problem_of(twice) == ""
    assert difference(read_draws(twice), read_draws(whole)) == ""


def test_a_job_that_goes_back_logs_where_to(whole: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    cut = BatchSlice(global_batch=BATCH)
    watched = DrawLog(tmp_path / "back", 1, cut).watched(worker(tiny_dataset, cut).batches)
    first = watched(0, STEPS)
    list(islice(first, 4))
    first.close()
    list(watched(2, STEPS))
    assert [stretch.begin for stretch in read_draws(tmp_path / "back")] == [0, 2]
    assert problem_of(tmp_path / "back") == ""
    assert difference(read_draws(tmp_path / "back"), read_draws(whole)) == ""


def test_other_clips_the_second_time_are_seen(twice: Path) -> None:
    change(twice, line=2, clips=[20, *range(11)])
    assert problem_of(twice).startswith("job 2 trained at draw 36 of step 3 on clip 20, not on clip")


def test_a_missing_step_a_missing_rank_and_a_step_too_many_are_seen(
    whole: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    assert problem(read_draws(whole), steps=7) == "step 6 is missing"
    assert problem(read_draws(whole), steps=5) == "step 5 was trained, behind the end of 5 steps"
    without(whole, 3)
    assert problem_of(whole) == "step 2 is missing"
    job(tmp_path / "two", tiny_dataset, world=2)
    without(tmp_path / "two", 3)
    assert problem_of(tmp_path / "two") == "draw 30 of step 2 is missing, and 5 more of that step"


def test_a_job_that_begins_behind_the_end_of_those_before_it_is_seen(tiny_dataset: Path, tmp_path: Path) -> None:
    job(tmp_path / "gap", tiny_dataset, end=3)
    job(tmp_path / "gap", tiny_dataset, begin=4)
    assert problem_of(tmp_path / "gap") == "job 2 began at step 4, and no job had trained step 3"


def test_a_step_of_a_killed_job_counts_only_when_trained_again_by_all_ranks(tiny_dataset: Path, tmp_path: Path) -> None:
    job(tmp_path / "two", tiny_dataset, end=4, world=2)
    without(tmp_path / "two", -1)  # rank 1 was killed before rank 0
    assert "of step 3 is missing" in problem(read_draws(tmp_path / "two"), steps=4)
    job(tmp_path / "two", tiny_dataset, begin=2, world=2)
    assert problem_of(tmp_path / "two") == ""


def test_a_clip_in_the_place_of_another_is_a_difference(whole: Path, twice: Path) -> None:
    assert difference(read_draws(twice), read_draws(whole)) == ""
    clips = effective(read_draws(whole))[5].tolist()
    change(whole, clips=[*clips[:7], clips[7] + 1, *clips[8:]])
    assert difference(read_draws(twice), read_draws(whole)) == (
        f"the run trained at draw 67 of step 5 on clip {clips[7]}, not on clip {clips[7] + 1} of the other run"
    )


def test_a_record_cut_off_by_a_kill_is_left_out_and_other_damage_is_named(twice: Path, tiny_dataset: Path) -> None:
    path = files(twice)[0]
    path.write_bytes(path.read_bytes()[:-9])
    assert problem_of(twice) == ""
    job(twice, tiny_dataset, begin=3)
    path.write_bytes(path.read_bytes().replace(b'"step":1', b'"step";1'))
    with pytest.raises(DataError, match=r"job-00001-rank-0-of-1\.jsonl is damaged"):
        read_draws(twice)


def test_two_ranks_with_the_same_draws_are_named(tiny_dataset: Path, tmp_path: Path) -> None:
    job(tmp_path / "two", tiny_dataset, world=2)
    change(tmp_path / "two", line=1, first_draw=0)
    with pytest.raises(DataError, match="draw 0 does not belong to step 0, or is there twice"):
        read_draws(tmp_path / "two")


def test_a_run_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--tracking\.draws"):
        read_draws(tmp_path)


def test_a_kill_loses_nothing_that_was_handed_over(tiny_dataset: Path, tmp_path: Path) -> None:
    script = (
        "import sys, test_draw_log as t; from pathlib import Path; run_dir, shards = map(Path, sys.argv[1:])\n"
        "cut = t.BatchSlice(global_batch=t.BATCH)\n"
        "for _ in t.DrawLog(run_dir, 1, cut).watched(t.worker(shards, cut).batches)(0, 10**6): print(flush=True)"
    )
    command = [sys.executable, "-c", script, tmp_path / "killed", tiny_dataset]
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(command, env=environment() | paths, stdout=subprocess.PIPE)
    assert process.stdout
    handed_over = len([process.stdout.readline() for _ in range(50)])
    process.send_signal(signal.SIGKILL)
    handed_over += len(process.stdout.readlines())
    process.wait()
    assert handed_over <= len(effective(read_draws(tmp_path / "killed"))) <= handed_over + 1


def test_a_training_logs_every_step_that_the_dry_run_before_it_does_not(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = ("--data.shards", tiny_dataset, "--run_dir", tmp_path / "run", *SMALL, "--tracking.draws")
    run(python("launch/train.py", *settings, "--dry_run"))
    assert not (tmp_path / "run").exists()
    run(python("launch/train.py", *settings))
    assert problem_of(tmp_path / "run") == ""
    drawn = np.concatenate(list(effective(read_draws(tmp_path / "run")).values()))
    labels = open_dataset(tiny_dataset).rows("train").label[drawn]
    assert np.bincount(labels).tolist() == [24, 24, 24], "each word as often as the others"


def test_where_a_run_is_can_be_told_from_the_end_of_its_last_file(twice: Path, tiny_dataset: Path) -> None:
    place = last_place(twice)
    assert place is not None
    assert (place.job, place.begin, place.step) == (2, 2, STEPS - 1)
    cut = BatchSlice(global_batch=BATCH)
    begun = DrawLog(twice, 3, cut).watched(worker(tiny_dataset, cut).batches)(4, STEPS)
    next(begun)
    place = last_place(twice)
    assert place is not None
    assert (place.job, place.begin, place.step) == (3, 4, 4)
    begun.close()


def test_a_run_that_has_not_begun_is_nowhere(tmp_path: Path) -> None:
    assert last_place(tmp_path) is None
