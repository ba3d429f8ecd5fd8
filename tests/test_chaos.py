"""A training that is attacked at random ends as if nothing had been; the tool that attacks would see if it did not."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from launching import python, run
from safetensors.torch import load_file, save_file

from kws_dist.chaos_attacks import FULL_DISK, KINDS, Kind, kinds_for, plan
from kws_dist.chaos_job import BrokenPromiseError, Course, Job
from kws_dist.chaos_log import ChaosLog, Hit, Life
from kws_dist.chaos_verdict import verdict

SETTINGS = (
    # without batch norm, whose statistics are averaged over the ranks at each save, and so depend on when that is
    *("--model.name", "rnn", "--model.params", "hidden", "8", "dropout", "0.1"),
    *("--train.global_batch", "12", "--train.learning_rate", "0.05", "--train.warmup_epochs", "1"),
    *("--train.log_every_steps", "1", "--train.precision", "fp32", "--train.ema_decay", "0.9"),
    *("--train.eval_every_epochs", "5", "--train.save_every_steps", "7"),
)


def chaos(out: Path, *words: str | Path) -> list[str]:
    return python("tools/chaos.py", "--out", out, "--hang_s", "120", *words)


def attacks(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if ", start " in line and " (" in line]


@pytest.fixture(scope="module")
def finished(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of 20 steps with a draw log."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    settings = ("--data.shards", tiny_dataset, "--run_dir", run_dir, *SETTINGS, "--train.epochs", "10")
    run(python("launch/train.py", *settings, "--tracking.draws"))
    return run_dir


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy to be tampered with."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


# The promise


def test_fifteen_random_attacks_change_nothing(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = ("--data.shards", tiny_dataset, *SETTINGS, "--train.epochs", "60")
    said = run(chaos(tmp_path / "out", "--kills", "15", "--", *settings)).stdout
    assert len(attacks(tmp_path / "out" / "chaos.log")) == 15
    assert "finished, with the same draws, weights and figures as undisturbed" in said
    assert said.strip().endswith("all promises kept")


@pytest.mark.dist
def test_two_processes_that_are_attacked_together_or_one_by_one_end_the_same(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = ("--data.shards", tiny_dataset, *SETTINGS, "--train.epochs", "30")
    run(chaos(tmp_path / "out", "--kills", "5", "--processes", "2", "--seed", "1", "--", *settings))
    assert len(attacks(tmp_path / "out" / "chaos.log")) == 5
    assert "all promises kept" in (tmp_path / "out" / "chaos.log").read_text()


# That a broken one is seen


def test_a_run_on_other_clips_ends_the_tool_with_1_and_is_kept(
    finished: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = ("--data.shards", tiny_dataset, *SETTINGS, "--train.epochs", "10", "--seed", "1")
    said = run(chaos(tmp_path / "out", "--kills", "1", "--reference", finished, "--", *settings), expect=1).stdout
    assert "BROKEN: round 1: " in said.splitlines()[-1]
    assert "round-0001/draws: the run trained at draw 0 of step 0 on clip" in said.splitlines()[-1]
    assert (tmp_path / "out" / "round-0001" / "state.json").exists()


def test_a_training_that_fails_by_itself_is_no_reference(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = ("--data.shards", tiny_dataset, *SETTINGS, "--train.learning_rate", "1e30", "--train.max_bad_steps", "2")
    said = run(chaos(tmp_path / "out", "--", *settings), expect=1).stderr
    assert "the undisturbed training was not finished (exit code 1)" in said


def test_an_undisturbed_run_passes(finished: Path, copy: Path) -> None:
    assert verdict(copy, finished, same_bits=True) == ""


def test_an_unfinished_run_is_named(finished: Path, copy: Path) -> None:
    state = json.loads((copy / "state.json").read_text())
    (copy / "state.json").write_text(json.dumps(state | {"status": "running"}))
    assert verdict(copy, finished, same_bits=True) == f"{copy} is running, not finished"
    (copy / "state.json").write_text(json.dumps(state | {"step": 19}))
    assert "ended at step 19, and the undisturbed run at step 20" in verdict(copy, finished, same_bits=True)


def test_a_draw_log_with_another_clip_is_named(finished: Path, copy: Path) -> None:
    [log] = (copy / "draws").iterdir()
    lines = log.read_text().splitlines()
    record = json.loads(lines[5])
    record["clips"][3] += 1
    log.write_text("\n".join([*lines[:5], json.dumps(record), *lines[6:]]) + "\n")
    assert "trained at draw 51 of step 4 on clip" in verdict(copy, finished, same_bits=False)
    log.write_text("\n".join([*lines[:5], *lines[6:]]) + "\n")
    assert "step 4 is missing" in verdict(copy, finished, same_bits=False)


@pytest.mark.parametrize("checkpoint", ["step-00000020", "best"])
@pytest.mark.parametrize("name", ["weights", "average", "optimizer"])
def test_a_changed_bit_of_a_weight_is_named(finished: Path, copy: Path, checkpoint: str, name: str) -> None:
    file = copy / "checkpoints" / checkpoint / f"{name}.safetensors"
    tensors = load_file(file)
    tensor = next(iter(tensors))
    tensors[tensor].view(-1)[0] += 1e-7
    save_file(tensors, file)
    assert f"{checkpoint}/{name}.safetensors is not the same: {tensor} differs first, 1 of" in verdict(
        copy, finished, same_bits=True
    )
    assert verdict(copy, finished, same_bits=False) == ""


def test_another_figure_and_a_missing_checkpoint_are_named(finished: Path, copy: Path) -> None:
    result = json.loads((copy / "result.json").read_text())
    result["test"]["loss"] += 1e-9
    (copy / "result.json").write_text(json.dumps(result))
    assert "result.json: test.loss is" in verdict(copy, finished, same_bits=True)
    shutil.rmtree(copy / "checkpoints" / "best")
    assert "checkpoints/best is missing" in verdict(copy, finished, same_bits=True)


BY_NAME = {kind.name: kind for kind in KINDS}
KILL, TERM, FROZEN = BY_NAME["kill -9"], BY_NAME["SIGTERM"], BY_NAME["frozen for a while"]


@pytest.mark.parametrize(
    ("kinds", "phase", "exit_code", "status", "began", "problem"),
    [
        ([KILL], "training", -9, "running", 14, ""),
        ([TERM], "training", 0, "stopped", 14, ""),
        ([TERM], "conclusion", 0, "finished", 14, ""),
        ([TERM], "start-up", -15, "running", None, ""),
        ([TERM, KILL], "training", -9, "running", 14, ""),
        ([], "training", 0, "finished", 14, ""),
        ([FROZEN], "training", 0, "finished", 14, ""),
        ([KILL], "training", -9, "running", 7, "began at step 7; the newest checkpoint was of step 14"),
        ([TERM], "training", -15, "running", 14, "though it was asked to stop (SIGTERM)"),
        ([FROZEN], "training", 1, "running", 14, "by itself"),
        ([FULL_DISK], "saving", 1, "running", 14, "by itself"),
        ([FULL_DISK, FROZEN], "conclusion", 1, "running", 14, "by itself"),
        ([], "training", 1, "running", 14, "by itself"),
        ([], "training", 0, "stopped", 14, "nobody had asked"),
        ([], "training", 0, "running", 14, "exit code 0 and the run running"),
    ],
)
def test_an_end_that_is_not_as_promised_is_named(
    kinds: list[Kind], phase: str, exit_code: int, status: str, began: int | None, problem: str
) -> None:
    hits = [Hit(number, 0.0, kind, "all", phase, 3) for number, kind in enumerate(kinds)]
    life = Life(1, 2, checkpoint=14, hits=hits, began=began, exit_code=exit_code, status=status, said="something")
    assert problem in life.broken_promise()
    assert bool(problem) == bool(life.broken_promise())


# How it attacks


def goes_on(process: psutil.Process) -> bool:
    """Whether it has not ended; one that has may still be listed, until whoever inherited it takes note."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_full_disk_may_end_a_job_that_says_so() -> None:
    hits = [Hit(1, 0.0, FULL_DISK, "the run's", "conclusion", 3)]
    life = Life(1, 2, checkpoint=14, hits=hits, began=14, exit_code=1, status="running", no_room=True)
    assert life.broken_promise() == ""
    life.hits.append(Hit(2, 0.0, TERM, "launcher", "conclusion", 3))
    assert life.broken_promise() == ""
    life.hits = [Hit(1, 0.0, FROZEN, "rank 0", "conclusion", 3)]
    assert "by itself" in life.broken_promise()


def started(tmp_path: Path, code: str, *, hang_s: float = 60.0) -> Job:
    """A job that is any Python code."""
    return Job([sys.executable, "-c", code], "-c", tmp_path, tmp_path / "said", hang_s)


def wait_for(what: Callable[[], bool]) -> None:
    """Poll; the deadline is pytest's."""
    while not what():
        time.sleep(0.01)


def test_a_job_is_killed_with_what_has_left_its_session(tmp_path: Path) -> None:
    child = [sys.executable, "-c", "import signal; signal.pause()"]
    code = f"import subprocess as s, signal; s.Popen({child!r}, start_new_session=True); signal.pause()"
    job = started(tmp_path, code)
    wait_for(lambda: len(job.processes()) == 2)
    processes = job.processes()
    job.kill()
    assert not any(goes_on(process) for process in processes)
    assert job.wait() == -signal.SIGKILL


def test_a_job_is_over_when_its_last_process_is_gone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    child = [sys.executable, "-c", f"open({str(tmp_path / 'pipe')!r}).read()"]
    job = started(tmp_path, f"import subprocess as s; s.Popen({child!r}, start_new_session=True)")
    wait_for(lambda: not job.runs)
    assert len(job.processes()) == 1
    with (tmp_path / "pipe").open("w"):
        pass
    assert job.wait() == 0
    assert job.processes() == []


def test_a_job_without_a_sign_of_life_hangs(tmp_path: Path) -> None:
    job = started(tmp_path, "import signal; print('the last word', flush=True); signal.pause()", hang_s=1.0)
    with pytest.raises(BrokenPromiseError, match="hangs: no sign of life for 1 s; it last said: the last word"):
        job.wait()
    job.kill()


def test_the_last_words_are_those_of_a_rank_and_not_of_its_launcher(tmp_path: Path) -> None:
    from_elastic = "1121 18:52:39 1 torch/distributed/elastic/multiprocessing/api.py:1002]"
    lines = [
        "no room",
        "",
        f"W{from_elastic} Sending process 2 closing signal",
        f"E{from_elastic} failed (exitcode: 1)",
        "===",
    ]
    job = started(tmp_path, f"print(*{lines!r}, 'ChildFailedError', sep=chr(10))")
    job.wait()
    assert job.said() == "no room"
    assert not job.found_no_room()
    full = started(tmp_path, "print('result.json: No space left on device')")
    full.wait()
    assert full.found_no_room()


def test_every_kind_comes_as_often_as_the_others_in_an_order_of_the_seed() -> None:
    kinds = kinds_for(2, disk=True)
    assert set(kinds) == set(KINDS)
    plans = [plan(number, 3, kinds) for number in range(5 * len(kinds))]
    assert all([one.kind for one in plans].count(kind) == 5 for kind in kinds)
    assert plans == [plan(number, 3, kinds) for number in range(5 * len(kinds))]
    assert plans != [plan(number, 4, kinds) for number in range(5 * len(kinds))]
    assert {one.early for one in plans} == {True, False}
    assert any(one.next_soon_s is not None for one in plans)
    assert FULL_DISK not in kinds_for(2, disk=False)
    assert not any("one rank" in kind.name for kind in kinds_for(1, disk=True))


def test_the_course_of_a_run_is_read_from_its_folder(finished: Path) -> None:
    course = Course.of(finished)
    assert course.steps == 20
    assert course.validated == {10, 20}
    assert 0 < course.train_s < 300


def test_the_log_says_what_became_of_each_attack(tmp_path: Path) -> None:
    log = ChaosLog(tmp_path / "log", say=lambda _: None)
    frozen, killed = Hit(1, 3.0, FROZEN, "rank 0", "training", 5), Hit(2, 4.0, KILL, "all", "saving", 9)
    log.life(Life(1, 1, 0, [frozen, killed], 0, -9, "running", "its last words"))
    log.life(Life(1, 2, 7, [], 7, 0, "finished", "bye"))
    log.round(1, "good")
    first, second, last = (tmp_path / "log").read_text().splitlines()
    assert first == "    3.0 s     1  frozen for a while (rank 0), round 1, start 1, training at step 5: it went on"
    assert second == (
        "    4.0 s     2  kill -9 (all), round 1, start 1, saving at step 9:"
        ' exit code -9 saying "its last words", running, went on at step 7'
    )
    assert last == "round 1: good"
    assert log.summary()[-1] == "2 attacks, 2 starts, 1 rounds"
    assert any(line.split() == ["kill", "-9", "1", "0", "0", "0", "1", "0", "3.0", "3"] for line in log.summary())


# What is asked for wrongly


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "give them after --"),
        (("--", "--run_dir", "some"), "--run_dir after --"),
        (("--processes", "0", "--", "--seed", "1"), "--processes (0,)"),
        (("--reference", "nowhere", "--", "--seed", "1"), "--reference nowhere is no finished run"),
        (("--tmpfs", ".", "--", "--seed", "1"), "--tmpfs . should be where a small disk"),
    ],
)
def test_wrong_use_is_answered_in_one_sentence(tmp_path: Path, words: tuple[str, ...], named: str) -> None:
    said = run(python("tools/chaos.py", "--out", tmp_path / "out", *words), expect=2).stderr.strip()
    assert named in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
