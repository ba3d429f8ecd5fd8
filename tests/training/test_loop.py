"""What the loop does between steps: when it validates, saves, goes back, gives up and ends."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from jobs import a_job
from run_folders import assert_identical

from kws_dist.errors import DataError, TrainingError, UsageError
from kws_dist.metrics_file import read_metrics
from kws_dist.training.checkpoint import newest, step_folders
from kws_dist.training.session import run_job
from kws_dist.training.stop import StopRequest

DIVERGING = ("--train.learning_rate", "1e30", "--train.warmup_epochs", "0", "--train.max_bad_steps", "3")


def train(shards: Path, run_dir: Path, *settings: str | Path) -> None:
    """Train a small model for 3 epochs x 2 steps, unless settings say otherwise."""
    with a_job(shards, "--run_dir", run_dir, *settings) as (job, _):
        run_job(job, StopRequest())


def steps_with(run_dir: Path, figure: str) -> list[int]:
    return [record["step"] for record in read_metrics(run_dir / "metrics.jsonl") if figure in record]


def content(run_dir: Path, name: str) -> dict[str, Any]:
    return json.loads((run_dir / name).read_text())


def progress(run_dir: Path) -> dict[str, Any]:
    found = newest(run_dir / "checkpoints", pytest.fail)
    assert found is not None
    return found.state["progress"]


def test_a_run_can_be_so_many_steps_long_and_be_validated_at_any_step(tiny_dataset: Path, tmp_path: Path) -> None:
    train(tiny_dataset, tmp_path, "--train.steps", "5", "--train.eval_every_steps", "2")
    assert steps_with(tmp_path, "train/loss") == [1, 2, 3, 4, 5]
    assert steps_with(tmp_path, "val/accuracy") == [2, 4, 5]
    assert steps_with(tmp_path, "val_raw/accuracy") == [2, 4, 5]  # beside the average, whose figure counts
    assert content(tmp_path, "result.json")["steps"] == 5
    assert content(tmp_path, "state.json")["status"] == "finished"


def test_without_an_average_there_is_one_figure_of_validation(tiny_dataset: Path, tmp_path: Path) -> None:
    train(tiny_dataset, tmp_path, "--train.steps", "2", "--train.ema_decay", "0")
    assert steps_with(tmp_path, "val/accuracy") == [2]
    assert steps_with(tmp_path, "val_raw/accuracy") == []


@pytest.mark.parametrize("by", ["loss", "balanced_accuracy", "recall/yes"])
def test_the_best_checkpoint_is_by_the_figure_asked_for(tiny_dataset: Path, tmp_path: Path, by: str) -> None:
    train(tiny_dataset, tmp_path, "--train.best_by", by, "--train.epochs", "4")
    found = progress(tmp_path)
    if by == "loss":
        losses = {r["step"]: r["val/loss"] for r in read_metrics(tmp_path / "metrics.jsonl") if "val/loss" in r}
        assert found["best_step"] == min(losses, key=lambda step: losses[step])
        assert found["best_figure"] == pytest.approx(min(losses.values()))
    else:
        assert 0.0 <= found["best_figure"] <= 1.0


UNCHANGING = ("--model.name", "rnn", "--train.learning_rate", "0", "--train.ema_decay", "0")
"""With these no validation is better than the first."""


@pytest.mark.parametrize(("by", "best"), [("accuracy", 2), ("last", 6)])
def test_by_last_the_newest_is_the_best_and_is_what_the_run_is_judged_by(
    tiny_dataset: Path, tmp_path: Path, by: str, best: int
) -> None:
    train(tiny_dataset, tmp_path, *UNCHANGING, "--train.best_by", by)
    assert content(tmp_path, "result.json")["best_step"] == best


def test_a_run_by_last_that_goes_on_is_judged_by_its_new_end(tiny_dataset: Path, tmp_path: Path) -> None:
    last = (*UNCHANGING, "--train.best_by", "last")
    train(tiny_dataset, tmp_path, *last, "--train.epochs", "1")
    shutil.rmtree(tmp_path / "checkpoints" / "best")
    train(tiny_dataset, tmp_path, *last, "--train.epochs", "2", "--train.eval_every_steps", "1")
    assert steps_with(tmp_path, "val/accuracy") == [2, 2, 3, 4]  # what was best is lost, so the second is anew
    assert content(tmp_path, "result.json")["best_step"] == 4


def test_a_figure_that_validation_does_not_give_is_refused_with_a_guess(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--train\.best_by recall/yse.*did you mean recall/yes"):
        train(tiny_dataset, tmp_path, "--train.best_by", "recall/yse")


def test_a_run_that_goes_wrong_goes_back_once_at_a_lower_rate(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_dataset, tmp_path, *DIVERGING, "--train.max_bad_steps", "1", "--train.rollback_factor", "1e-31")
    said = capsys.readouterr().out
    assert "warning: step 1 had a loss or gradient that is not finite, at learning rate 9.33e+29" in said
    assert "back to step 0, and on at 1e-31 of the rate" in said
    assert progress(tmp_path)["rollbacks"] == 1
    assert progress(tmp_path)["rate_factor"] == pytest.approx(1e-31)
    steps = steps_with(tmp_path, "train/loss")
    assert steps == sorted(set(steps))  # nothing is recorded twice
    assert steps[-1] == 6
    assert content(tmp_path, "state.json")["status"] == "finished"


@pytest.mark.parametrize(("factor", "rollbacks"), [("0.5", 1), ("0", 0)])
def test_a_run_that_goes_wrong_again_ends_and_names_clips(
    tiny_dataset: Path, tmp_path: Path, factor: str, rollbacks: int
) -> None:
    with pytest.raises(
        TrainingError, match=r"steps \d+ to \d+ had a loss.*the last batch began with \w+/0000.*clip_norm"
    ):
        train(tiny_dataset, tmp_path, *DIVERGING, "--train.rollback_factor", factor)
    assert progress(tmp_path)["rollbacks"] == rollbacks


def test_skipped_steps_do_not_move_the_schedule(tiny_dataset: Path, tmp_path: Path) -> None:
    bad = ("--train.learning_rate", "1e30", "--train.warmup_epochs", "0", "--train.schedule", "linear")
    with pytest.raises(TrainingError, match="not finite"):
        train(tiny_dataset, tmp_path, *bad, "--train.max_bad_steps", "4", "--train.rollback_factor", "0")
    records = [record for record in read_metrics(tmp_path / "metrics.jsonl") if "train/loss" in record]
    moved = [(r["train/skipped_steps"], r["train/learning_rate"]) for r in records]
    rates = {0: 1e30, 1: 1e30 * 5 / 6}
    skipped_before = [0, *(skipped for skipped, _ in moved)]
    for number, (_, rate) in enumerate(moved):
        assert rate == pytest.approx(rates.get(number - skipped_before[number], rates[1]), rel=1e-6)


def test_a_run_ends_when_its_time_is_up_and_is_judged(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_dataset, tmp_path, "--train.max_minutes", "1e-6", "--train.epochs", "50")
    state = content(tmp_path, "state.json")
    assert state["status"] == "finished"
    assert state["step"] < 100
    assert steps_with(tmp_path, "val/accuracy") == [state["step"]]
    assert "--train.max_minutes" in capsys.readouterr().out
    train(tiny_dataset, tmp_path, "--train.max_minutes", "1e-6", "--train.epochs", "50")
    assert "is finished" in capsys.readouterr().out
    train(tiny_dataset, tmp_path, "--train.steps", "6")  # no limit of time any more
    assert content(tmp_path, "state.json")["step"] == 6


def test_saving_is_tried_before_the_first_step(tiny_dataset: Path, tmp_path: Path) -> None:
    train(tiny_dataset, tmp_path, "--train.steps", "1")
    assert [path.name for path in step_folders(tmp_path / "checkpoints")] == ["step-00000000", "step-00000001"]


def test_a_run_begun_anew_from_its_first_checkpoint_is_the_same_run(tiny_dataset: Path, tmp_path: Path) -> None:
    train(tiny_dataset, tmp_path / "whole", "--train.steps", "4")
    train(tiny_dataset, tmp_path / "begun", "--train.steps", "1")
    first = tmp_path / "begun" / "checkpoints" / "step-00000000"
    train(tiny_dataset, tmp_path / "again", "--train.steps", "4", "--resume", first)
    assert_identical(tmp_path / "whole", tmp_path / "again")


def test_a_damaged_validation_clip_is_met_before_the_first_step(tiny_dataset: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_dataset, shards)
    tar = shards / "val-000000.tar"
    data = bytearray(tar.read_bytes())
    at = data.index(b"RIFF") + 100
    data[at] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DataError, match=r"val-000000\.tar"):
        train(shards, tmp_path / "run", "--data.residency", "host")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
