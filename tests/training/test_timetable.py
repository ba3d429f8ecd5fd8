"""What is due after which step, and which validation is the best."""

import math

import pytest

from kws_dist.config import TrainConfig
from kws_dist.training.progress import Progress
from kws_dist.training.schedule import learning_rate
from kws_dist.training.timetable import Timetable

PER_EPOCH = 10


def due(what: str, **settings: int) -> list[int]:
    """The steps of a run after which something is due."""
    timetable = Timetable(TrainConfig(**{"epochs": 3, **settings}), PER_EPOCH)
    return [step for step in range(1, timetable.total_steps + 1) if getattr(timetable, what)(step)]


def test_validation_is_due_by_epochs_or_by_steps_and_always_at_the_end() -> None:
    assert due("validates") == [10, 20, 30]
    assert due("validates", eval_every_epochs=2) == [20, 30]
    assert due("validates", eval_every_steps=8) == [8, 16, 24, 30]
    assert due("validates", steps=25) == [10, 20, 25]
    assert due("validates", steps=4, eval_every_steps=100) == [4]


def test_a_checkpoint_is_due_with_each_validation_each_epoch_and_as_asked_for() -> None:
    assert due("saves") == [10, 20, 30]
    assert due("saves", eval_every_epochs=3, save_every_steps=7) == [7, 10, 14, 20, 21, 28, 30]


def test_figures_are_read_before_anything_that_takes_longer_than_a_step() -> None:
    assert due("logs", log_every_steps=4, eval_every_steps=15) == [4, 8, 10, 12, 15, 16, 20, 24, 28, 30]


def test_a_run_of_so_many_steps_has_the_schedule_of_that_length() -> None:
    train = TrainConfig(schedule="cosine", warmup_epochs=0.0, learning_rate=1.0, steps=20, epochs=99)
    rates = [learning_rate(step, train, steps_per_epoch=PER_EPOCH) for step in (0, 10, 20)]
    assert rates == pytest.approx([1.0, 0.5, 0.0])


def figures(accuracy: float, loss: float, **more: float) -> dict[str, float]:
    return {"accuracy": accuracy, "loss": loss, **more}


def test_the_best_is_by_the_figure_asked_for_and_by_loss_where_that_ties() -> None:
    progress = Progress(step=1)
    assert progress.is_better(figures(0.1, 9.0), "accuracy")
    progress.note_best(figures(0.5, 1.0), "accuracy")
    assert progress.is_better(figures(0.6, 2.0), "accuracy")
    assert progress.is_better(figures(0.5, 0.9), "accuracy")
    assert not progress.is_better(figures(0.5, 1.0), "accuracy")
    progress.note_best(figures(0.5, 1.0), "loss")
    assert progress.is_better(figures(0.4, 0.9), "loss")
    assert not progress.is_better(figures(0.9, 1.1), "loss")
    progress.note_best(figures(0.5, 1.0, **{"recall/up": 0.3}), "recall/up")
    assert progress.is_better(figures(0.1, 9.0, **{"recall/up": 0.4}), "recall/up")


@pytest.mark.parametrize("by", ["accuracy", "loss"])
def test_what_is_not_a_number_is_never_better_and_always_bettered(by: str) -> None:
    progress = Progress(step=1)
    progress.note_best(figures(0.5, 1.0), by)
    assert not progress.is_better(figures(0.4, math.nan), by)
    progress.note_best(figures(0.5, math.nan), by)
    assert progress.is_better(figures(0.5, 1.0), by)


def test_patience_ends_at_a_validation_only() -> None:
    progress = Progress(step=40, validated_step=40, best_step=20)
    assert progress.out_of_patience(20)
    assert not progress.out_of_patience(21)
    assert not progress.out_of_patience(0)
    assert not Progress(step=41, validated_step=40, best_step=20).out_of_patience(20)
    assert not Progress(step=40, validated_step=40, best_step=0).out_of_patience(20)


def test_time_counts_over_all_jobs_of_a_run() -> None:
    assert Progress(train_s=61.0).out_of_time(1.0)
    assert not Progress(train_s=59.0).out_of_time(1.0)
    assert not Progress(train_s=1e9).out_of_time(0.0)
