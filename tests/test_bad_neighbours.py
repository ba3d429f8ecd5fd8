"""What goes on around a training and must not harm it: a second job, a disk without permission to write, a clock.

W&B that cannot be reached, hangs or dies is in test_tracking.py; faults of disks during a save are in the crash tests.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from launching import SMALL, environment, freeze, python, run
from run_folders import assert_identical, result_without_times
from terminal import Terminal
from tiny_corpus import tone, wav_file

from kws_dist.metrics_file import read_metrics
from kws_dist.run_lock import Owner
from kws_dist.training.checkpoint import step_folders

LONG = ("--train.epochs", "8", "--train.save_every_steps", "1")
WITHOUT_POWERS = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


def train(run_dir: Path, shards: Path, *more: str | Path) -> list[str]:
    return python("launch/train.py", "--data.shards", shards, "--run_dir", run_dir, *SMALL, *more)


def newest_step(run_dir: Path) -> int:
    return int(step_folders(run_dir / "checkpoints")[-1].name.removeprefix("step-"))


def until_underway(process: subprocess.Popen[str], run_dir: Path) -> None:
    """Wait until a training has taken some steps, and has most of them before it."""
    while not (run_dir / "metrics.jsonl").exists() or len(read_metrics(run_dir / "metrics.jsonl")) < 5:
        assert process.poll() is None, "it ended before anything could happen to it"
        time.sleep(0.001)


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to: 8 epochs x 2 steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    run(train(run_dir, tiny_dataset, *LONG))
    return run_dir


@pytest.fixture
def read_only_disk(tiny_dataset: Path, whole: Path, tmp_path: Path) -> Iterator[Path]:
    """A disk with a run, its shards and a recording, which nobody can write to."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", disk], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here: that takes root")
    try:
        shutil.copytree(whole, disk / "run")
        shutil.copytree(tiny_dataset, disk / "shards")
        (disk / "recording.wav").write_bytes(wav_file(tone(0, n_samples=16_000)))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def assert_one_sentence(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert [part for part in parts if part not in done.stderr] == []


def test_a_second_job_is_refused_and_the_first_one_ends_as_if_it_had_been_alone(
    whole: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = train(folder, tiny_dataset, *LONG)
    first = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, text=True)
    try:
        until_underway(first, folder)
        freeze(first.pid)  # or it might end before the second one has come to the folder
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        refused = run(command, expect=2)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 0
    finally:
        first.kill()
        first.wait()
    who = f"another process is writing to it (process {first.pid} on {os.uname().nodename}, since "
    assert_one_sentence(refused, f"--run_dir {folder}: {who}", "or choose another --run_dir")
    assert_identical(whole, folder)
    assert result_without_times(whole) == result_without_times(folder)


def test_a_job_that_woke_up_after_another_machine_had_taken_over_ends_at_its_next_save(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = train(folder, tiny_dataset, *LONG)
    frozen = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        until_underway(frozen, folder)
        freeze(frozen.pid)
        saved_step = newest_step(folder)
        later = replace(Owner.this_process(), host="node9", machine="another")
        (folder / "lock").write_bytes(later.record())
        frozen.send_signal(signal.SIGCONT)
        _, said = frozen.communicate()
    finally:
        frozen.kill()
        frozen.wait()
    assert frozen.returncode == 1
    assert f"{folder}: another job (process {os.getpid()} on node9" in said
    assert len(said.strip().splitlines()) == 1
    assert saved_step <= newest_step(folder) <= saved_step + 1, "but for one that was on its way"
    assert not (folder / "result.json").exists()
    assert (folder / "lock").read_bytes() == later.record()


@pytest.mark.parametrize("run_dir", ["run", "new"])
def test_a_run_folder_on_a_read_only_disk_is_refused_in_one_sentence(read_only_disk: Path, run_dir: str) -> None:
    folder = read_only_disk / run_dir
    refused = run(train(folder, read_only_disk / "shards", "--train.epochs", "9"), expect=2)
    assert_one_sentence(refused, f"--run_dir {folder} cannot be", "(Read-only file system)", "choose another")


def test_a_run_folder_that_belongs_to_someone_else_is_refused_in_one_sentence(
    whole: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "lock").unlink()
    folder.chmod(0o555)
    command = train(folder, tiny_dataset, "--train.epochs", "9")
    if os.geteuid() == 0:  # who may write anywhere
        if subprocess.run([*WITHOUT_POWERS, "true"], capture_output=True, check=False).returncode:
            pytest.skip("root cannot give up its powers here")
        command = [*WITHOUT_POWERS, *command]
    refused = run(command, expect=2)
    assert_one_sentence(refused, f"--run_dir {folder} cannot be written to (Permission denied)", "choose another")
    assert not (folder / "lock").exists()


def test_a_run_on_a_read_only_disk_can_be_used(whole: Path, read_only_disk: Path, tmp_path: Path) -> None:
    there = ("--run_dir", read_only_disk / "run")
    evaluated = run(python("launch/evaluate.py", *there, "--data.shards", read_only_disk / "shards"))
    figures = json.loads(evaluated.stdout.splitlines()[-1])
    assert figures["correct"] == json.loads((whole / "result.json").read_text())["test"]["correct"]
    assert "recording.wav" in run(python("tools/predict.py", *there, "--json", read_only_disk / "recording.wav")).stdout
    run(python("tools/export.py", *there, "--out", tmp_path / "mine.pt"))
    assert (tmp_path / "mine.pt").stat().st_size > 0


def test_shards_on_a_read_only_disk_can_be_trained_on(whole: Path, read_only_disk: Path, tmp_path: Path) -> None:
    run(train(tmp_path / "run", read_only_disk / "shards", *LONG))
    assert_identical(whole, tmp_path / "run")


@pytest.fixture
def clock(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """An environment whose programs see their clock go back by a day, and on, as soon as a file is there; that file."""
    library, set_back = tmp_path / "set_back.so", tmp_path / "now"
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) for a library that sets a program's clock back")
    source = Path(__file__).with_name("set_back.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    return {**environment(), "LD_PRELOAD": str(library), "SET_BACK": str(set_back)}, set_back


def test_a_clock_that_is_set_back_changes_nothing_but_the_times_that_are_written_down(
    whole: Path, tiny_dataset: Path, tmp_path: Path, clock: tuple[dict[str, str], Path]
) -> None:
    folder, (environment_of_it, set_back) = tmp_path / "run", clock
    command = train(folder, tiny_dataset, *LONG, "--tracking.tensorboard")
    process = subprocess.Popen(command, env=environment_of_it, stdout=subprocess.DEVNULL, text=True)
    try:
        until_underway(process, folder)
        freeze(process.pid)
        set_back.touch()
        assert "another process is writing to it" in run(command, expect=2).stderr
        process.send_signal(signal.SIGCONT)
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()
    ended = datetime.fromisoformat(json.loads((folder / "state.json").read_text())["time"])
    assert timedelta(hours=23) < datetime.now(ended.tzinfo) - ended < timedelta(hours=25), "else the clock was not back"
    assert_identical(whole, folder)
    assert result_without_times(whole) == result_without_times(folder)
    records = read_metrics(folder / "metrics.jsonl")
    times_s = [record["time_s"] for record in records]
    assert times_s == sorted(times_s)
    assert 0 < times_s[-1] < 3600
    assert all(record[name] >= 0 for record in records for name in record if name.endswith("_s"))
    assert (folder / "lock").read_bytes() == b""


def test_a_job_whose_clock_is_behind_takes_over_from_one_that_died(
    whole: Path, tiny_dataset: Path, tmp_path: Path, clock: tuple[dict[str, str], Path]
) -> None:
    folder, (environment_of_it, set_back) = tmp_path / "run", clock
    command = train(folder, tiny_dataset, *LONG)
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, text=True)
    with suppress(AssertionError):
        until_underway(process, folder)
    process.kill()
    process.wait()
    set_back.touch()
    again = subprocess.run(command, env=environment_of_it, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (0, "")
    assert_identical(whole, folder)


def test_the_time_left_on_a_terminal_is_right_when_the_clock_is_set_back(
    tiny_dataset: Path, tmp_path: Path, clock: tuple[dict[str, str], Path]
) -> None:
    folder, (environment_of_it, set_back) = tmp_path / "run", clock
    command = train(folder, tiny_dataset, "--train.steps", "200000")
    with Terminal(command, 100, environment=environment_of_it) as terminal:
        terminal.until_shown("gradient norm")
        before = len(read_metrics(folder / "metrics.jsonl"))
        set_back.touch()
        lines = terminal.until(lambda _: len(read_metrics(folder / "metrics.jsonl")) > before + 100, "100 more records")
        terminal.press("\x03")
        assert terminal.ended() == 0
    (left,) = [re.findall(r"eta (.+)", line) for line in lines if "eta " in line]
    assert re.match(r"\d+ (h|min|s)\b", left[0]), left
    assert json.loads((folder / "state.json").read_text())["status"] == "stopped"
