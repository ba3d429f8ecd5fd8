"""A run that was ended anywhere goes on as if nothing had happened, and never on anything else."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launching import SMALL, environment, python, run
from run_folders import assert_identical, result_without_times

from kws_dist.metrics_file import read_metrics
from kws_dist.training.checkpoint import load, newest, problem, save, step_folders

Run = Path
LONG = ("--train.epochs", "8", "--train.save_every_steps", "1")


def train(run_dir: Path, shards: Path, *more: str | Path) -> list[str]:
    return python("launch/train.py", "--data.shards", shards, "--run_dir", run_dir, *SMALL, *more)


def state(run_dir: Path) -> dict[str, object]:
    return json.loads((run_dir / "state.json").read_text())


@pytest.fixture(scope="module")
def finished(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run of 3 epochs x 2 steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    run(train(run_dir, tiny_dataset))
    return run_dir


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run of 8 epochs x 2 steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    run(train(run_dir, tiny_dataset, *LONG))
    return run_dir


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_was_ended_in_mid_epoch_finishes_with_the_same_weights(
    whole: Run, tiny_dataset: Path, tmp_path: Path, end: signal.Signals
) -> None:
    cut = tmp_path / "cut"
    process = subprocess.Popen(train(cut, tiny_dataset, *LONG), env=environment(), stdout=subprocess.DEVNULL)
    while not (cut / "metrics.jsonl").exists() or len(read_metrics(cut / "metrics.jsonl")) < 9:
        assert process.poll() is None, "it ended before it could be ended"
        time.sleep(0.001)
    process.send_signal(end)
    assert process.wait() == (0 if end == signal.SIGTERM else -signal.SIGKILL)
    assert state(cut)["status"] == ("stopped" if end == signal.SIGTERM else "running")
    found = newest(cut / "checkpoints", pytest.fail)
    assert found is not None
    assert 0 < found.state["step"] < 16
    run(train(cut, tiny_dataset, *LONG))
    assert_identical(whole, cut)
    assert result_without_times(whole) == result_without_times(cut)
    steps = [record["step"] for record in read_metrics(cut / "metrics.jsonl") if "train/loss" in record]
    assert steps == list(range(1, 17))


def test_a_finished_run_says_so_and_more_epochs_extend_it(finished: Run, tiny_dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    before = (copy / "result.json").read_bytes()
    said = run(train(copy, tiny_dataset)).stdout
    assert "is finished" in said
    assert (copy / "result.json").read_bytes() == before
    run(train(copy, tiny_dataset, "--train.epochs", "4"))
    assert json.loads((copy / "result.json").read_text())["steps"] == 8
    assert state(copy)["status"] == "finished"


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_leads_to_the_same_end(
    finished: Run, tiny_dataset: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    weights = step_folders(copy / "checkpoints")[-1] / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    said = run(train(copy, tiny_dataset)).stdout
    assert "step-00000006 is skipped" in said
    assert "weights.safetensors" in said
    assert_identical(finished, copy)


def test_a_damaged_best_checkpoint_is_named_and_what_is_best_is_chosen_anew(
    finished: Run, tiny_dataset: Path, tmp_path: Path
) -> None:
    """As it is where nothing else is left to go on with: the weights that the run ends with are judged."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    weights = copy / "checkpoints" / "best" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    said = " ".join(run(train(copy, tiny_dataset, "--train.epochs", "4")).stdout.split())
    assert "the best checkpoint is lost" in said
    assert str(weights) in said
    result = json.loads((copy / "result.json").read_text())
    assert result["best_step"] in (6, 8), "validated again where it went on, and at its end"
    assert not problem(copy / "checkpoints" / "best")


def test_a_checkpoint_that_lacks_what_going_on_takes_is_one_sentence(
    finished: Run, tiny_dataset: Path, tmp_path: Path
) -> None:
    found = load(step_folders(finished / "checkpoints")[-1])
    del found.state["progress"]["best_figure"]
    save(tmp_path / "other", found.tensors, found.state)
    said = run(train(tmp_path / "run", tiny_dataset, "--resume", tmp_path / "other"), expect=1).stderr
    assert f"{tmp_path / 'other' / 'state.json'} does not say all that going on takes" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("--seed", "1"), "seed was 0 and is now 1"),
        (("--data.balance", "0"), "sampler.kind was class_balanced and is now exactly_once"),
        (("--train.global_batch", "6"), "sampler.global_batch was 12 and is now 6"),
        (("--model.params", "hidden", "9"), "model.params was"),
        (("--train.learning_rate", "0.01"), "train.learning_rate was 0.05 and is now 0.01"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(
    finished: Run, tiny_dataset: Path, change: tuple[str, ...], named: str
) -> None:
    error = run(train(finished, tiny_dataset, "--train.epochs", "5", *change), expect=2).stderr
    assert named in error
    assert len(error.strip().splitlines()) == 1


def test_a_run_does_not_go_on_with_other_data(finished: Run, other_dataset: Path) -> None:
    error = run(train(finished, other_dataset), expect=2).stderr
    assert "was trained on another dataset" in error
    assert str(finished) in error


def test_a_used_folder_is_refused_when_told_never_to_resume(finished: Run, tiny_dataset: Path) -> None:
    assert "holds a run already" in run(train(finished, tiny_dataset, "--resume", "never"), expect=2).stderr


def test_a_new_run_can_begin_at_a_checkpoint_of_another(finished: Run, tiny_dataset: Path, tmp_path: Path) -> None:
    first = step_folders(finished / "checkpoints")[0]
    run(train(tmp_path / "new", tiny_dataset, "--resume", first))
    assert_identical(finished, tmp_path / "new")


def test_a_run_that_began_at_another_goes_on_with_its_own(finished: Run, tiny_dataset: Path, tmp_path: Path) -> None:
    """So a queue may give the same command again."""
    branch, path = tmp_path / "branch", step_folders(finished / "checkpoints")[0]
    command = train(branch, tiny_dataset, "--resume", path, "--train.epochs", "4")
    run(command)
    assert "is finished" in run(command).stdout
    inside = train(branch, tiny_dataset, "--resume", branch / "checkpoints" / "best")
    assert "goes on with its newest" in run(inside, expect=2).stderr


def test_a_checkpoint_of_another_model_is_refused(finished: Run, tiny_dataset: Path, tmp_path: Path) -> None:
    path = step_folders(finished / "checkpoints")[-1]
    for other in (("--model.params", "hidden", "9"), ("--train.ema_decay", "0"), ("--train.optimizer", "adam")):
        said = run(train(tmp_path / "run", tiny_dataset, "--resume", path, *other), expect=2).stderr
        assert "is of another model, optimizer or --train.ema_decay" in said


@pytest.mark.parametrize(
    "other",
    [
        ("--train.freeze", "norm.*"),
        ("--train.train_last_layers", "1"),
        ("--train.layer_decay", "0.5"),
        ("--train.decay_norms=False",),
    ],
)
def test_a_checkpoint_whose_optimizer_knew_other_parameters_is_refused(
    finished: Run, tiny_dataset: Path, tmp_path: Path, other: tuple[str, ...]
) -> None:
    """Its memory is kept by number: it would be that of others."""
    path = step_folders(finished / "checkpoints")[-1]
    said = run(train(tmp_path / "run", tiny_dataset, "--resume", path, *other), expect=2).stderr
    assert f"--resume {path} was trained with {other[0].partition('=')[0]} " in said


def test_memory_of_other_parameters_is_never_taken_over(finished: Run, tiny_dataset: Path, tmp_path: Path) -> None:
    """However a checkpoint came to hold it: an optimizer would read beyond its end."""
    found = load(step_folders(finished / "checkpoints")[-1])
    memory = found.tensors["optimizer"]
    last = max(int(key.partition(".")[0]) for key in memory)
    swapped = {
        f"{last - int(number)}.{name}": one for key, one in memory.items() for number, _, name in [key.partition(".")]
    }
    save(tmp_path / "other", {**found.tensors, "optimizer": swapped}, found.state)
    said = run(train(tmp_path / "run", tiny_dataset, "--resume", tmp_path / "other"), expect=1).stderr
    assert "the optimizer's memory in the checkpoint is of other parameters" in said


def test_there_is_one_thing_to_begin_with(finished: Run, tiny_dataset: Path, tmp_path: Path) -> None:
    path = step_folders(finished / "checkpoints")[-1]
    command = train(tmp_path / "run", tiny_dataset, "--resume", path, "--init_from", finished)
    assert "both say what to begin with" in run(command, expect=2).stderr


def test_one_folder_takes_one_job_at_a_time(tiny_dataset: Path, tmp_path: Path) -> None:
    command = train(tmp_path / "run", tiny_dataset, "--train.epochs", "100000")
    first = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert first.poll() is None
            time.sleep(0.01)
        assert "another process" in run(command, expect=2).stderr
    finally:
        first.kill()
        first.wait()
