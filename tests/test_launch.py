"""Wrong input gets one clear sentence and exit code 2; damage gets one that names shard and key, and exit code 1."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_corpus
import torch
from launching import SMALL, last_json, python, run

from kws_dist.shards.read import open_dataset


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    run(python("launch/train.py", "--data.shards", tiny_dataset, "--run_dir", run_dir, *SMALL))
    return run_dir


def sentence(*arguments: str | Path, expect: int = 2, script: str = "launch/train.py") -> str:
    """Return the one line that a wrong command is answered with."""
    error = run(python(script, *arguments), expect=expect).stderr.strip()
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1, error
    return error


def test_a_run_folder_holds_what_is_promised(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    promised = {"config.yaml", "env.json", "metrics.jsonl", "state.json", "result.json", "checkpoints"}
    assert promised | {"results.png", "confusion.png"} <= names
    result = json.loads((trained / "result.json").read_text())
    assert result["test"]["n"] == 9
    assert 0 <= result["test"]["accuracy_low"] <= result["test"]["accuracy"] <= result["test"]["accuracy_high"] <= 1
    assert result["train_clips_per_s"] > 0
    assert result["best_step"] in (2, 4, 6)
    assert json.loads((trained / "state.json").read_text())["status"] == "finished"
    steps = [path.name for path in sorted((trained / "checkpoints").iterdir())]
    assert steps == ["best", "step-00000004", "step-00000006"]


def test_missing_shards_are_said(tmp_path: Path) -> None:
    assert "--data.shards" in sentence("--run_dir", tmp_path / "run")
    assert "nowhere" in sentence("--data.shards", "nowhere", "--run_dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_file_of_settings_is_said() -> None:
    assert "nowhere.yaml" in sentence("--config", "nowhere.yaml")


def test_an_unfinished_folder_of_shards_is_said(tiny_dataset: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_dataset, shards)
    (shards / "dataset.json").unlink()
    assert "unfinished" in sentence("--data.shards", shards, "--run_dir", tmp_path / "run")


def test_a_typing_mistake_in_a_flag_or_a_file_is_answered_with_what_was_meant(tmp_path: Path) -> None:
    said = run(python("launch/train.py", "--train.epoch", "3"), expect=2)
    assert "--train.epochs" in said.stdout + said.stderr
    file = tmp_path / "mistake.yaml"
    file.write_text("train: {lerning_rate: 0.1}\n")
    said = run(python("launch/train.py", "--config", file), expect=2)
    assert "--train.learning_rate" in said.stdout + said.stderr
    assert "mistake.yaml" in said.stdout + said.stderr


def test_a_global_batch_that_does_not_divide_is_answered_with_ones_that_do(tiny_dataset: Path, tmp_path: Path) -> None:
    said = sentence(
        *("--data.shards", tiny_dataset, "--run_dir", tmp_path / "run"),
        *("--train.global_batch", "13", "--train.accumulate", "4"),
    )
    assert "13" in said
    assert "12, 16" in said


def test_an_unknown_model_and_an_unknown_parameter_are_said(tiny_dataset: Path, tmp_path: Path) -> None:
    common = ("--data.shards", tiny_dataset, "--run_dir", tmp_path / "run")
    assert "bcresnet" in sentence(*common, "--model.name", "bcresnett")
    assert "tau" in sentence(*common, "--model.name", "bcresnet", "--model.params", "tao", "1")


@pytest.mark.parametrize("residency", ["device", "host"])
def test_a_flipped_bit_is_named_and_can_be_skipped(tiny_dataset: Path, tmp_path: Path, residency: str) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_dataset, shards)
    rows = open_dataset(shards).rows("train")
    damaged = rows.shard_paths[rows.shard[5]]
    content = bytearray(damaged.read_bytes())
    content[rows.audio_offset[5] + 300] ^= 1
    damaged.write_bytes(content)
    command = ("--data.shards", shards, "--run_dir", tmp_path / "run", "--data.residency", residency, *SMALL)
    said = run(python("launch/train.py", *command), expect=1).stderr
    assert damaged.name in said
    assert rows.keys[5] in said
    assert "Traceback" not in said
    done = run(python("launch/train.py", *command, "--data.on_bad_clip", "skip", "--run_dir", tmp_path / "other"))
    assert rows.keys[5] in done.stdout
    assert json.loads((tmp_path / "other" / "result.json").read_text())["skipped_clips"] == 1


def test_a_truncated_shard_is_named(tiny_dataset: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_dataset, shards)
    shard = shards / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    said = sentence("--data.shards", shards, "--run_dir", tmp_path / "run", expect=1)
    assert "train-000000.tar" in said
    assert any(key in said for key in open_dataset(tiny_dataset).rows("train").keys)


def test_evaluation_repeats_the_result_from_the_run_folder_alone(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "moved")
    figures = last_json(run(python("launch/evaluate.py", "--run_dir", tmp_path / "moved")).stdout)
    result = json.loads((trained / "result.json").read_text())["test"]
    # torch may take another kernel for weights that ask for gradients, which rounds differently.
    assert figures["loss"] == pytest.approx(result.pop("loss"), rel=1e-6)
    assert {name: figures[name] for name in result} == result


def test_evaluation_says_in_which_precision_and_takes_another(trained: Path) -> None:
    command = python("launch/evaluate.py", "--run_dir", trained)
    of_the_run, other = (last_json(run([*command, *more]).stdout) for more in ((), ("--precision", "bf16")))
    assert (of_the_run["precision"], other["precision"]) == ("fp32", "bf16")
    assert other["loss"] == pytest.approx(of_the_run["loss"], rel=0.05)
    assert other["loss"] != of_the_run["loss"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is for GPUs, and here is one")
def test_a_precision_that_is_not_to_be_had_here_is_refused(trained: Path) -> None:
    said = sentence("--run_dir", trained, "--precision", "fp16", script="launch/evaluate.py")
    assert said == "--precision fp16 needs a GPU: choose fp32 or bf16"


def test_labels_of_other_shards_are_matched_by_word(trained: Path, tiny_archive: Path, tmp_path: Path) -> None:
    shards = tiny_corpus.shards_of(tiny_archive, tmp_path / "turned", words=("up", "no", "yes"))
    assert open_dataset(shards).words == ("up", "no", "yes")
    command = python("launch/evaluate.py", "--run_dir", trained, "--data.shards", shards)
    result = json.loads((trained / "result.json").read_text())
    assert last_json(run(command).stdout)["per_word"] == result["test"]["per_word"]


def test_words_that_the_model_does_not_know_are_listed(trained: Path, tmp_path: Path) -> None:
    files = tiny_corpus.files(words=("yes", "zebra", "yak"))
    shards = tiny_corpus.shards_of(tiny_corpus.pack(tmp_path / "other.tar.gz", files), tmp_path / "shards")
    said = sentence("--run_dir", trained, "--data.shards", shards, script="launch/evaluate.py")
    assert "yak" in said
    assert "zebra" in said
    assert "no, up, yes" in said


def test_a_training_that_goes_wrong_says_where(tiny_dataset: Path, tmp_path: Path) -> None:
    said = sentence(
        *("--data.shards", tiny_dataset, "--run_dir", tmp_path / "run", *SMALL),
        *("--train.learning_rate", "1e30", "--train.max_bad_steps", "2"),
        expect=1,
    )
    assert "not finite" in said
    assert "learning rate" in said
    assert any(key in said for key in open_dataset(tiny_dataset).rows("train").keys)


def test_settings_written_by_a_run_reproduce_it(trained: Path, tmp_path: Path) -> None:
    run(python("launch/train.py", "--config", trained / "config.yaml", "--run_dir", tmp_path / "again"))
    first, again = (json.loads((folder / "result.json").read_text()) for folder in (trained, tmp_path / "again"))
    assert first["test"] == again["test"]
    assert np.isclose(first["val"]["loss"], again["val"]["loss"])
