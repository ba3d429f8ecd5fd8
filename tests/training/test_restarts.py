"""A job whose processes die is restarted by torchrun, or goes on with another number of them, on the same draws."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from launching import ROOT, SMALL, environment
from run_folders import assert_identical

from kws_dist.draw_log import difference, effective, problem, read_draws
from kws_dist.metrics_file import read_metrics

pytestmark = pytest.mark.dist

STEPS, BATCH = 40, 24  # which 4 x 1, 2 x 3 and 3 x 2 divide
SETTINGS = (*SMALL, "--train.global_batch", str(BATCH), "--train.steps", str(STEPS), "--train.save_every_steps", "5")
SETTINGS = (*SETTINGS, "--train.eval_every_steps", "10", "--tracking.draws", "--tracking.wandb", "disabled")
TIMEOUT_S = 240


def torchrun(processes: int, run_dir: Path, shards: Path, *, restarts: int = 0) -> list[str]:
    """Return the command line of a training in so many processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    place = ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "--max_restarts", str(restarts)]
    script = [str(ROOT / "launch" / "train.py"), "--data.shards", str(shards), "--run_dir", str(run_dir)]
    return [*launcher, *place, *script, *SETTINGS]


def started(command: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def until_step(run_dir: Path, step: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a run has been trained so far."""
    deadline_s = time.monotonic() + TIMEOUT_S
    metrics = run_dir / "metrics.jsonl"
    while not metrics.exists() or max((record["step"] for record in read_metrics(metrics)), default=0) < step:
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def trained(run_dir: Path, shards: Path, processes: int) -> Path:
    """Train, or go on, to the end."""
    subprocess.run(torchrun(processes, run_dir, shards), env=environment(), capture_output=True, check=True)
    assert json.loads((run_dir / "state.json").read_text())["status"] == "finished"
    return run_dir


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run in two processes."""
    return trained(tmp_path_factory.mktemp("runs") / "whole", tiny_dataset, 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_is_restarted_and_the_end_is_the_same(
    whole: Path, tiny_dataset: Path, tmp_path: Path, rank: int
) -> None:
    """Rank 0 writes checkpoints and holds the lock of the run folder, rank 1 does neither."""
    run_dir = tmp_path / "run"
    process = started(torchrun(2, run_dir, tiny_dataset, restarts=2))
    until_step(run_dir, 12, process)
    workers = [child for child in psutil.Process(process.pid).children() if "RANK" in child.environ()]
    next(worker for worker in workers if worker.environ()["RANK"] == str(rank)).send_signal(signal.SIGKILL)
    assert process.wait(TIMEOUT_S) == 0
    draws = read_draws(run_dir)
    assert problem(draws, steps=STEPS) == ""
    assert difference(draws, read_draws(whole)) == ""
    assert len(draws) == 2, "one job was killed, and one took over"
    assert_identical(whole, run_dir)


def test_on_four_then_two_then_three_processes_the_draws_are_those_of_two(
    whole: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    for processes, step in ((4, 8), (2, 22)):
        process = started(torchrun(processes, run_dir, tiny_dataset))
        until_step(run_dir, step, process)
        (run_dir / "stop").touch()
        assert process.wait(TIMEOUT_S) == 0
        assert json.loads((run_dir / "state.json").read_text())["status"] == "stopped"
    trained(run_dir, tiny_dataset, 3)
    draws = read_draws(run_dir)
    assert problem(draws, steps=STEPS) == ""
    assert difference(draws, read_draws(whole)) == ""
    assert len(draws) == 3
    assert sorted(effective(draws)) == list(range(STEPS))
