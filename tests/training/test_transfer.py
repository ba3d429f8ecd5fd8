"""A run begins with what another has learnt, word by word, and trains only what it is told to."""

import json
import shutil
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import SMALL, python, run
from run_folders import all_tensors, assert_identical
from safetensors.torch import load_file
from tiny_corpus import files, pack, shards_of

from kws_dist import models
from kws_dist.config import TrainConfig
from kws_dist.errors import UsageError
from kws_dist.metrics_file import read_metrics
from kws_dist.models.layers import layers
from kws_dist.training.checkpoint import Checkpoint
from kws_dist.training.transfer import freeze, frozen_modules, take_over

WORDS = ("yes", "no", "up")


def train(run_dir: Path, shards: Path, *more: str | Path) -> list[str]:
    return python("launch/train.py", "--data.shards", shards, "--run_dir", run_dir, *SMALL, *more)


@pytest.fixture(scope="module")
def source(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "source"
    run(train(run_dir, tiny_dataset))
    return run_dir


@pytest.fixture(scope="module")
def other_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two old words in another order, around a new one."""
    folder = tmp_path_factory.mktemp("other")
    words = ("down", "up", "yes")
    return shards_of(pack(folder / "a.tar.gz", files(words)), folder / "shards", words=words)


def best(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "checkpoints" / "best" / "average.safetensors")


def checkpoint(model: torch.nn.Module, words: tuple[str, ...]) -> Checkpoint:
    return Checkpoint(Path("source"), {"weights": dict(model.state_dict())}, {"words": list(words)})


def gru(num_classes: int, **params: int) -> torch.nn.Module:
    return models.build("gru", num_classes=num_classes, **{"hidden": 8, "layers": 1, **params})


def test_the_rows_of_shared_words_are_kept_whatever_their_order() -> None:
    theirs, ours = gru(3), gru(4)
    fresh = ours.classifier.weight.detach().clone()
    transfer = take_over(ours, ("down", "up", "no", "left"), checkpoint(theirs, WORDS))
    assert transfer.kept_words == ("up", "no")
    assert transfer.new_words == ("down", "left")
    assert torch.equal(ours.classifier.weight[1], theirs.classifier.weight[2])
    assert torch.equal(ours.classifier.bias[2], theirs.classifier.bias[1])
    assert torch.equal(ours.classifier.weight[[0, 3]], fresh[[0, 3]])
    assert torch.equal(ours.gru.weight_hh_l0, theirs.gru.weight_hh_l0)
    assert transfer.new == ()


def test_what_does_not_fit_is_new_and_is_named() -> None:
    theirs, ours = gru(3, mels=20), gru(3, mels=40)
    transfer = take_over(ours, WORDS, checkpoint(theirs, WORDS))
    assert "gru.weight_ih_l0" in transfer.new
    assert "gru.weight_hh_l0" in transfer.kept
    assert "new: norm.weight" in str(transfer)


def test_the_average_of_a_run_is_what_is_taken_over() -> None:
    theirs, averaged, ours = gru(3), gru(3), gru(3)
    both = {"weights": dict(theirs.state_dict()), "average": dict(averaged.state_dict())}
    take_over(ours, WORDS, Checkpoint(Path("source"), both, {"words": list(WORDS)}))
    assert torch.equal(ours.classifier.weight, averaged.classifier.weight)


def test_a_model_of_another_kind_is_refused() -> None:
    source = checkpoint(models.build("bcresnet", num_classes=3), WORDS)
    with pytest.raises(UsageError, match="none of its weights fits this model"):
        take_over(gru(3), WORDS, source)


KIN = {frozenset(("att_rnn", "mhatt_rnn")), frozenset(("gru", "mhatt_rnn"))}
"""Architectures that have layers of the same names and sizes in common."""


def test_of_all_pairs_of_architectures_only_kin_take_weights_from_each_other() -> None:
    """Norms of one width, and counters, are found in any two; a model that has nothing else of another is not begun."""
    built = {name: models.build(name, num_classes=3) for name in models.list_models()}
    accepted = set()
    for ours, theirs in product(built, built):
        with suppress(UsageError):
            take_over(built[ours], WORDS, checkpoint(built[theirs], WORDS))
            accepted.add(frozenset((ours, theirs)))
    assert accepted == KIN | {frozenset((name,)) for name in built}


def test_a_counter_of_batches_goes_with_its_norm_and_is_not_counted() -> None:
    theirs, ours = (models.build("tc_resnet", num_classes=3) for _ in range(2))
    ours.head_norm = torch.nn.BatchNorm1d(5)  # does not fit
    for model, batches in ((theirs, 7), (ours, 2)):
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.num_batches_tracked.fill_(batches)
    transfer = take_over(ours, WORDS, checkpoint(theirs, WORDS))
    counters = {name: int(count) for name, count in ours.state_dict().items() if name.endswith("num_batches_tracked")}
    assert counters.pop("head_norm.num_batches_tracked") == 2
    assert set(counters.values()) == {7}
    assert not any("num_batches_tracked" in name for name in (*transfer.kept, *transfer.new))


def test_only_the_last_layers_are_trained_if_so_many_are_asked_for() -> None:
    model = models.build("bcresnet", num_classes=3)
    freeze(model, TrainConfig(train_last_layers=2))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for layer in layers(model)[-2:] for name in layer}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"freeze": ("block.*",)}, "--train.freeze 'block.*' matches no parameter of this model; one is called 'block"),
        ({"freeze": ("*",)}, r"--train.freeze \* leaves nothing to train"),
        ({"train_last_layers": 99}, "--train.train_last_layers 99 should be from 1 to "),
    ],
)
def test_freezing_that_cannot_be_is_one_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        freeze(models.build("bcresnet", num_classes=3), TrainConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "params"), [("bcresnet", {}), ("res15", {"depth": 8, "narrow": True}), ("gru", {})])
def test_a_frozen_norm_keeps_its_statistics(name: str, params: dict[str, object]) -> None:
    model = models.build(name, num_classes=3, **params).train()
    freeze(model, TrainConfig(train_last_layers=1))
    assert all(isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d) for module in frozen_modules(model))
    for module in frozen_modules(model):
        module.eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.randn(4, 1, 40, 50))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"freeze": ("gru.*",)}, "gru.weight_ih_l0, gru.weight_ih_l0_reverse"),
        ({"train_last_layers": 1}, "norm.weight, norm.bias, gru.weight_ih_l0, gru.weight_ih_l0_reverse"),
        ({"freeze": ("classifier.*",)}, "classifier.weight, classifier.bias"),  # of "down" there is no row
    ],
)
def test_what_is_new_cannot_be_frozen(settings: Any, named: str) -> None:
    theirs, ours = gru(3, mels=20), gru(3, mels=40)
    transfer = take_over(ours, ("down", *WORDS[1:]), checkpoint(theirs, WORDS))
    with pytest.raises(UsageError, match=f"leave {named} untrained, and --init_from source has nothing that fits"):
        transfer.check_frozen(freeze(ours, TrainConfig(**settings)))
    transfer.check_frozen(freeze(ours, TrainConfig(freeze=("gru.weight_hh*",))))


def test_a_run_that_would_keep_random_weights_does_not_begin(source: Path, other_words: Path, tmp_path: Path) -> None:
    more = ("--init_from", source, "--train.freeze", "classifier.*")
    said = run(train(tmp_path / "new", other_words, *more), expect=2).stderr
    assert "they would stay random" in said
    assert len(said.strip().splitlines()) == 1


def test_freezing_without_weights_to_begin_with_is_warned_of(tiny_dataset: Path, tmp_path: Path) -> None:
    freezing = ("--train.freeze", "gru.*", "--train.epochs")
    said = run(train(tmp_path / "run", tiny_dataset, *freezing, "1")).stdout
    assert "warning: gru.weight_ih_l0, gru.weight_hh_l0" in said
    assert "stay random" in said
    assert "stay random" not in run(train(tmp_path / "run", tiny_dataset, *freezing, "2")).stdout, "they are resumed"


def test_a_run_begins_with_another_s_weights_and_says_what_is_new(
    source: Path, other_words: Path, tmp_path: Path
) -> None:
    said = run(train(tmp_path / "new", other_words, "--init_from", source, "--train.freeze", "gru.*", "norm.*")).stdout
    assert "of the classifier the rows of up, yes, new ones for down" in " ".join(said.split())
    old, new = best(source), best(tmp_path / "new")
    assert torch.equal(old["gru.weight_ih_l0"], new["gru.weight_ih_l0"])
    assert torch.equal(old["norm.running_mean"], new["norm.running_mean"])
    assert not torch.equal(old["attention.weight"], new["attention.weight"])
    result = json.loads((tmp_path / "new" / "result.json").read_text())
    assert list(result["test"]["per_word"]) == ["down", "up", "yes"]


def test_a_run_that_began_so_goes_on_as_any_other(source: Path, other_words: Path, tmp_path: Path) -> None:
    more = ("--init_from", str(source), "--train.layer_decay", "0.7")
    run(train(tmp_path / "whole", other_words, *more, "--train.epochs", "4", "--train.schedule", "constant"))
    run(train(tmp_path / "cut", other_words, *more, "--train.epochs", "2", "--train.schedule", "constant"))
    run(train(tmp_path / "cut", other_words, *more, "--train.epochs", "4", "--train.schedule", "constant"))
    assert_identical(tmp_path / "whole", tmp_path / "cut")


def test_other_features_than_those_of_the_source_are_warned_of(source: Path, other_words: Path, tmp_path: Path) -> None:
    more = ("--init_from", source, "--features.normalize", "clip", "--dry_run")
    said = " ".join(run(train(tmp_path / "new", other_words, *more)).stdout.split())
    assert "its weights were trained on other features: --features.normalize clip (there none)" in said
    assert not (tmp_path / "new").exists()


def test_clips_that_are_fitted_in_otherwise_than_there_are_warned_of(
    source: Path, other_words: Path, tmp_path: Path
) -> None:
    more = ("--init_from", source, "--data.pad", "center", "--data.clip_seconds", "0.5", "--data.long", "start")
    said = " ".join(run(train(tmp_path / "new", other_words, *more, "--dry_run")).stdout.split())
    assert "its weights were trained on other clips: " in said
    for changed in ("--data.pad center (there end)", "--data.clip_seconds 0.5 (there 1.0)", "--data.long start (there"):
        assert changed in said
    assert "other features" not in said


def test_a_run_that_was_stopped_before_its_end_can_be_begun_with_and_says_so(
    source: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    stopped = shutil.copytree(source, tmp_path / "stopped")
    (stopped / "state.json").write_text('{"status": "stopped", "step": 2}')
    said = {
        run_dir: run(train(tmp_path / "new", tiny_dataset, "--init_from", run_dir, "--dry_run")).stdout
        for run_dir in (source, stopped)
    }
    assert f"warning: {stopped} has not reached the end of its training" in said[stopped]
    assert "the end of its training" not in said[source]


def test_a_run_that_is_not_there_is_one_sentence(tiny_dataset: Path, tmp_path: Path) -> None:
    said = run(train(tmp_path / "new", tiny_dataset, "--init_from", tmp_path / "none"), expect=2).stderr
    assert "--init_from" in said
    assert "holds no trained model" in said
    said = run(train(tmp_path / "new", tiny_dataset, "--train.teacher", tmp_path / "none"), expect=2).stderr
    assert "--train.teacher" in said
    assert "holds no trained model" in said


# --- A teacher ---


def test_a_teacher_changes_what_is_learnt_and_a_run_with_one_goes_on(
    source: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    constant = ("--train.schedule", "constant", "--train.teacher", str(source))
    run(train(tmp_path / "whole", tiny_dataset, *constant, "--train.epochs", "2"))
    run(train(tmp_path / "cut", tiny_dataset, *constant, "--train.epochs", "1"))
    run(train(tmp_path / "cut", tiny_dataset, *constant, "--train.epochs", "2"))
    assert_identical(tmp_path / "whole", tmp_path / "cut")
    run(train(tmp_path / "alone", tiny_dataset, *constant[:2], "--train.epochs", "2"))
    alone, taught = all_tensors(tmp_path / "alone"), all_tensors(tmp_path / "whole")
    assert any(not torch.equal(alone[name], taught[name]) for name in alone)


def test_a_run_goes_on_with_its_teacher_wherever_that_lies_and_with_no_other(
    source: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    shutil.copytree(source, teacher)
    run(train(student, tiny_dataset, "--train.teacher", teacher, "--train.epochs", "1"))
    moved = teacher.rename(tmp_path / "moved")
    run(train(student, tiny_dataset, "--train.teacher", moved, "--train.epochs", "2"))
    shutil.rmtree(moved)
    run(train(moved, tiny_dataset, "--seed", "7"))
    said = run(train(student, tiny_dataset, "--train.teacher", moved, "--train.epochs", "3"), expect=2).stderr
    assert f"--run_dir {student}: teacher was " in said
    said = run(train(student, tiny_dataset, "--train.epochs", "3"), expect=2).stderr
    assert "and is now none" in said


def test_a_teacher_that_was_stopped_is_told_of(source: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "stopped")
    (tmp_path / "stopped" / "state.json").write_text(json.dumps({"status": "stopped", "step": 2}))
    said = run(train(tmp_path / "new", tiny_dataset, "--train.teacher", tmp_path / "stopped", "--dry_run")).stdout
    assert "has not reached the end of its training" in " ".join(said.split())


def test_a_teacher_may_have_other_features_and_hears_the_mixtures(
    source: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    more = ("--train.teacher", source, "--features.mels", "20", "--augment.mixup_probability", "0.5")
    run(train(tmp_path / "new", tiny_dataset, *more, "--train.teacher_labels", "hard", "--train.epochs", "1"))


def test_a_teacher_that_does_not_know_a_word_is_refused(source: Path, other_words: Path, tmp_path: Path) -> None:
    said = run(train(tmp_path / "new", other_words, "--train.teacher", source), expect=2).stderr
    assert "does not know down" in " ".join(said.split())


# --- When to end ---


def test_training_ends_when_validation_no_longer_improves(tiny_dataset: Path, tmp_path: Path) -> None:
    """A rate of nearly nothing never improves on the first epoch."""
    more = ("--train.learning_rate", "1e-12", "--train.patience_epochs", "2", "--train.epochs", "20")
    more = (*more, "--train.ema_decay", "0", "--train.optimizer", "sgd", "--train.warmup_epochs", "0")
    said = run(train(tmp_path / "run", tiny_dataset, *more, "--train.test_each_epoch")).stdout
    assert "no better for 2 epochs" in said
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["status"] == "finished"
    assert state["step"] < 20
    assert "is finished" in run(train(tmp_path / "run", tiny_dataset, *more, "--train.test_each_epoch")).stdout
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert len([record for record in records if "test/accuracy" in record]) == state["step"] // 2
    assert "test acc" in said


def test_patience_needs_a_validation_split(tmp_path: Path) -> None:
    content = {name: data for name, data in files().items() if not name.startswith("validation")}
    content["validation_list.txt"] = b""
    shards = shards_of(pack(tmp_path / "a.tar.gz", content), tmp_path / "shards")
    said = run(train(tmp_path / "run", shards, "--train.patience_epochs", "2"), expect=2).stderr
    assert "has no validation split" in " ".join(said.split())
    assert not (tmp_path / "run").exists()
