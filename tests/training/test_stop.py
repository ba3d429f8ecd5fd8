"""A stop is heard wherever a job is, all ranks obey it together, and the run goes on as if there had been none."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from jobs import a_job
from launching import SMALL, environment, python, run, two_ranks
from run_folders import assert_identical, result_without_times

from kws_dist.metrics_file import read_metrics
from kws_dist.training.checkpoint import newest
from kws_dist.training.session import run_job
from kws_dist.training.stop import StopRequest

LONG = ("--train.steps", "100000", "--train.eval_every_epochs", "1000")
TIMEOUT_S = 120


class StopAtLook(StopRequest):
    """Is asked to stop just before it is looked at for the n-th time."""

    def __init__(self, look: int) -> None:
        super().__init__()
        self._looks_left, self.reason = look, "a test"

    @property
    def asked(self) -> bool:
        self._looks_left -= 1
        return self._looks_left < 0

    @asked.setter
    def asked(self, value: bool) -> None:
        assert not value


def train_here(shards: Path, run_dir: Path, stop: StopRequest) -> dict[str, object]:
    """Train 3 epochs x 2 steps, with two batches of validation; returns how it ended."""
    settings = ("--run_dir", run_dir, "--train.eval_every_steps", "1", "--train.test_each_epoch")
    with a_job(shards, *settings) as (job, _):
        run_job(job, stop)
    return json.loads((run_dir / "state.json").read_text())


def test_a_stop_heard_at_any_look_leads_to_the_same_end(tiny_dataset: Path, tmp_path: Path) -> None:
    """The looks are in start-up, after steps, in each of the validations, and in the last evaluation."""
    whole = tmp_path / "whole"
    assert train_here(tiny_dataset, whole, StopRequest())["status"] == "finished"
    steps_stopped_at = []
    for look in range(1000):
        run_dir = tmp_path / f"look-{look}"
        ended = train_here(tiny_dataset, run_dir, StopAtLook(look))
        if ended["status"] == "finished":
            break
        assert ended["status"] == "stopped"
        steps_stopped_at.append(ended["step"])
        assert train_here(tiny_dataset, run_dir, StopRequest())["status"] == "finished"
        assert_identical(whole, run_dir)
        assert result_without_times(whole) == result_without_times(run_dir)
        steps = [record["step"] for record in read_metrics(run_dir / "metrics.jsonl") if "val/loss" in record]
        assert steps == [1, 2, 3, 4, 5, 6], "each validation once"
    assert set(steps_stopped_at) == {0, 1, 2, 3, 4, 5, 6}
    assert steps_stopped_at.count(6) >= 4, "in the last step, in its validations and in the final evaluation"


def until(condition: object, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a condition of a living process holds."""
    deadline_s = time.monotonic() + TIMEOUT_S
    assert callable(condition)
    while not condition():
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def started(command: list[str], run_dir: Path, *, steps: int = 3) -> "subprocess.Popen[bytes]":
    """Start a training, and return when it has taken some steps."""
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, start_new_session=True)
    metrics = run_dir / "metrics.jsonl"
    until(lambda: metrics.exists() and len(read_metrics(metrics)) >= steps, process)
    return process


def state(run_dir: Path) -> dict[str, object]:
    return json.loads((run_dir / "state.json").read_text())


@pytest.mark.parametrize("by", ["SIGUSR1", "SIGINT", "file"])
def test_a_signal_or_a_file_stops_a_training_and_it_goes_on(tiny_dataset: Path, tmp_path: Path, by: str) -> None:
    run_dir = tmp_path / "run"
    command = python("launch/train.py", "--data.shards", tiny_dataset, "--run_dir", run_dir, *SMALL, *LONG)
    process = started(command, run_dir)
    if by == "file":
        (run_dir / "stop").touch()
    else:
        process.send_signal(signal.Signals[by])
    assert process.wait(TIMEOUT_S) == 0
    assert state(run_dir)["status"] == "stopped"
    assert by in str(state(run_dir)["reason"]) or state(run_dir)["reason"] == f"the file {run_dir / 'stop'}"
    assert not (run_dir / "stop").exists(), "it is not for the next job"
    step = state(run_dir)["step"]
    assert isinstance(step, int)
    said = run([*command[:-4], "--train.steps", str(step + 2)]).stdout
    assert f"starts at      step {step} of {step + 2}" in said


def test_a_job_that_may_take_so_long_stops_by_itself(tiny_dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    limit = ("--train.job_minutes", "0.05")
    said = run(python("launch/train.py", "--data.shards", tiny_dataset, "--run_dir", run_dir, *SMALL, *LONG, *limit))
    assert state(run_dir)["status"] == "stopped"
    assert "stopped by --train.job_minutes 0.05: step" in said.stdout


def test_a_file_from_before_the_job_is_taken_away_and_not_obeyed(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    os.utime(tmp_path / "stop", (0, 0))
    said = run(python("launch/train.py", "--data.shards", tiny_dataset, "--run_dir", tmp_path, *SMALL)).stdout
    assert f"{tmp_path / 'stop'} is older than this job: it is removed" in " ".join(said.split())
    assert state(tmp_path)["status"] == "finished"


def test_a_stop_before_there_is_anything_to_stop_leaves_a_run_that_goes_on(tiny_dataset: Path, tmp_path: Path) -> None:
    """A signal that comes while data are opened: here, before the first of the steps that follow it."""
    command = [sys.executable, "-c", STARTS_UP, "--data.shards", str(tiny_dataset), "--run_dir", str(tmp_path), *SMALL]
    assert run(command)
    assert state(tmp_path) | {"time": ""} == {"status": "stopped", "step": 0, "reason": "SIGTERM", "time": ""}
    run(python("launch/train.py", *command[3:]))
    assert state(tmp_path)["status"] == "finished"


STARTS_UP = """
import os, signal, sys
from kws_dist.config import parse
from kws_dist.training.ranks import make_accelerator
from kws_dist.training.job import build_job
from kws_dist.training.session import run_job
from kws_dist.training.stop import StopRequest
config = parse(sys.argv[1:])
with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    run_job(build_job(config, make_accelerator(config.train)), stop)
"""

STUCK = """
import hashlib, os, signal
from kws_dist.training.stop import StopRequest
with StopRequest(grace_s=1.0):
    os.kill(os.getpid(), signal.SIGTERM)
    hashlib.pbkdf2_hmac("sha256", b"a collective that hangs", b"in C", 2 * 10**9)
"""


def test_a_stop_that_takes_too_long_ends_by_force() -> None:
    done = run([sys.executable, "-c", STUCK], expect=1)
    assert "the stop took longer than --train.stop_grace_s 1: left by force" in done.stderr
    assert "the same command goes on" in done.stderr


def ranks_of(launcher: "subprocess.Popen[bytes]") -> dict[int, psutil.Process]:
    """Return the processes that a launcher started, by rank."""
    children = psutil.Process(launcher.pid).children()
    return {int(child.environ()["RANK"]): child for child in children if "RANK" in child.environ()}


@pytest.mark.dist
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_stops_all_in_good_order(tiny_dataset: Path, tmp_path: Path, rank: int) -> None:
    run_dir = tmp_path / "run"
    command = two_ranks("launch/train.py", "--data.shards", tiny_dataset, "--run_dir", run_dir, *SMALL, *LONG)
    process = started(command, run_dir)
    ranks_of(process)[rank].send_signal(signal.SIGUSR1)
    assert process.wait(TIMEOUT_S) == 0
    assert state(run_dir)["status"] == "stopped"


@pytest.mark.dist
def test_a_rank_that_hangs_does_not_keep_a_stop_from_ending(tiny_dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    grace = ("--train.stop_grace_s", "2")
    command = two_ranks("launch/train.py", "--data.shards", tiny_dataset, "--run_dir", run_dir, *SMALL, *LONG, *grace)
    process = started(command, run_dir)
    ranks = ranks_of(process)
    ranks[1].suspend()
    try:
        ranks[0].send_signal(signal.SIGTERM)
        ranks[0].wait(30)
    finally:
        ranks[1].kill()
    assert process.wait(TIMEOUT_S) == 1
    assert state(run_dir)["status"] == "running", "nobody could say that it was stopped in good order"
    assert newest(run_dir / "checkpoints", pytest.fail)


@pytest.mark.dist
def test_a_stop_between_two_saves_changes_no_bit_on_two_ranks(tiny_dataset: Path, tmp_path: Path) -> None:
    """Saving makes the ranks' batch-norm statistics the same, which a run that is not stopped there does not do."""
    settings = ("--data.shards", tiny_dataset, *SMALL, "--train.global_batch", "2", "--train.steps", "66")

    def command(run_dir: Path) -> list[str]:
        return two_ranks("launch/train.py", "--run_dir", run_dir, *settings)

    run(command(tmp_path / "whole"))
    run_dir, was_between = tmp_path / "stopped", False
    for step in (3, 14, 25, 36, 47):  # an epoch has 11 steps, after which it saves anyway
        process = started(command(run_dir), run_dir, steps=step)
        ranks_of(process)[0].send_signal(signal.SIGUSR1)
        assert process.wait(TIMEOUT_S) == 0
        found = newest(run_dir / "checkpoints", pytest.fail)
        assert found
        if was_between := "own_buffers" in found.tensors:
            break
    assert was_between
    run(command(run_dir))
    assert_identical(tmp_path / "whole", run_dir)
    assert result_without_times(tmp_path / "whole") == result_without_times(run_dir)
