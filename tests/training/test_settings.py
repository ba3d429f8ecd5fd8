"""Settings that make no sense are refused before anything is built; those that do nothing here are told of."""

from pathlib import Path

import pytest
from jobs import a_job
from launching import python, run

from kws_dist.config import load_text
from kws_dist.errors import UsageError
from kws_dist.training.check import check
from kws_dist.training.report import warnings


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("epochs: 0", "--train.epochs 0 should be 1 or more"),
        ("learning_rate: -0.1", "--train.learning_rate -0.1 should be a finite number of 0 or more"),
        ("learning_rate: nan", "--train.learning_rate nan should be a finite number of 0 or more"),
        ("step_epochs: [10, inf]", "--train.step_epochs inf should be a finite number of 0 or more"),
        ("momentum: 1", "--train.momentum 1.0 should be from 0 to below 1"),
        ("ema_decay: 1", "--train.ema_decay 1.0 should be from 0 to below 1"),
        ("final_share: 1.5", "--train.final_share 1.5 should be from 0 to 1"),
        ("schedule: exponential", "--train.final_share 0.0 should be above 0 with --train.schedule exponential, which"),
        ("layer_decay: 0", "--train.layer_decay 0.0 should be above 0"),
        ("teacher_weight: 5", "--train.teacher_weight 5.0 should be above 0 and at most 1"),
        ("teacher_weight: 0", "--train.teacher_weight 0.0 should be above 0 and at most 1"),
        ("teacher_temperature: 0", "--train.teacher_temperature 0.0 should be above 0"),
        ("{nesterov: yes, momentum: 0}", "--train.nesterov True should be off where --train.momentum is 0"),
        ("{precision: fp16, optimizer: muon}", "--train.precision fp16 should be bf16 or fp32"),
        ("{patience_epochs: 3, best_by: last}", "--train.patience_epochs 3 should be 0 with --train.best_by last"),
        ("{schedule: step, step_epochs: [20, 10]}", "--train.step_epochs 20.0 10.0 should be in rising order"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_sentence(settings: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(load_text(f"train:\n  {settings}", name="test").train)
    assert str(caught.value).startswith(sentence)


def test_the_defaults_make_sense() -> None:
    check(load_text("", name="test").train)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("--train.focal_gamma", "3"), "--train.focal_gamma has no effect: --train.loss is cross_entropy, not focal"),
        (("--train.hold_epochs", "1"), "--train.hold_epochs has no effect: --train.schedule is cosine, not hold"),
        (("--train.teacher_weight", "0.9"), "--train.teacher_weight has no effect: there is no --train.teacher"),
        (("--train.teacher_labels", "hard"), "--train.teacher_labels has no effect: there is no --train.teacher"),
        (
            ("--train.nesterov", "--train.optimizer", "adam"),
            "--train.nesterov has no effect: --train.optimizer is adam, not sgd or muon",
        ),
        (
            ("--train.final_share", "0.1", "--train.schedule", "constant"),
            "--train.final_share has no effect: --train.schedule is constant",
        ),
        (
            ("--train.class_weights", "balanced"),
            "--train.class_weights balanced has no effect: with --data.balance 1 all words are drawn equally often",
        ),
        (("--train.warmup_epochs", "9"), "the rate never gets beyond its warm-up: --train.warmup_epochs is 9"),
        (
            ("--train.schedule", "hold", "--train.hold_epochs", "2"),
            "the rate never falls: --train.hold_epochs 2 reach to the end of 3 epochs",
        ),
        (
            ("--train.schedule", "step", "--train.step_epochs", "1", "7"),
            "the rate does not drop at epoch 7: the run has 3",
        ),
    ],
)
def test_a_setting_that_does_nothing_is_told_of(settings: tuple[str, ...], said: str, tiny_dataset: Path) -> None:
    with a_job(tiny_dataset) as (job, _):
        before = warnings(job)
    with a_job(tiny_dataset, *settings) as (job, _):
        assert set(warnings(job)) - set(before) == {said}


def test_a_rehearsal_tells_of_it_too(tiny_dataset: Path, tmp_path: Path) -> None:
    words = ("--data.shards", tiny_dataset, "--run_dir", tmp_path / "run", "--train.focal_gamma", "3", "--dry_run")
    assert "--train.focal_gamma has no effect" in " ".join(run(python("launch/train.py", *words)).stdout.split())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (("num_classes", "5"), "--model.params num_classes 5: it is the number of words in --data.shards, and no"),
        (("name", "gru"), "--model.params name gru: it is --model.name, and no parameter"),
    ],
)
def test_what_is_said_elsewhere_is_no_parameter_of_a_model(
    settings: tuple[str, ...], sentence: str, tiny_dataset: Path
) -> None:
    with pytest.raises(UsageError) as caught, a_job(tiny_dataset, "--model.params", *settings):
        pass
    assert str(caught.value).startswith(sentence)
