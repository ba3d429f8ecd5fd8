"""Promises of adding a word: a run like any other, the old one untouched, and a report that says what it has cost."""

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import own_recordings
import pytest
import tiny_corpus
import torch
from launching import ROOT, environment, last_json, python, run

from kws_dist.config import load_file
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.errors import DataError, UsageError
from kws_dist.evaluation.interval import wilson_interval
from kws_dist.models.layers import from_last_block, layers
from kws_dist.rehearsal import choose_old, counts_of, open_new
from kws_dist.shards.plan import make_plan
from kws_dist.shards.read import open_dataset
from kws_dist.shards.write import write_dataset
from kws_dist.training.add_word import Wanted, prepare
from kws_dist.training.add_word_report import compare, sentences, share
from kws_dist.training.rebuild import rebuild

OLD = ["no", "up", "yes"]
BLOCKS = ("--model.name", "cnn4", "--model.params", "channels", "2", "--train.global_batch", "12")
RECIPE = ROOT / "configs" / "add_word.yaml"
FEW = ("--train.epochs", "2", "--train.global_batch", "12", "--train.log_every_steps", "1")


def recordings(word: str = "lights", number: int = 10) -> dict[str, bytes]:
    """Recordings of a word as users have them: stereo FLAC of another rate."""
    waves = [own_recordings.sine(0.3, rate_hz=44_100, tone_hz=3000 + 20 * i) for i in range(number)]
    stereo = [np.stack([wave, wave], axis=1) for wave in waves]
    return {f"{word}/take {i}.flac": own_recordings.encoded(w, 44_100, "FLAC") for i, w in enumerate(stereo)}


def unpacked(folder: Path, content: dict[str, bytes]) -> Path:
    return tiny_corpus.unpack(folder, content)


def add(run_dir: Path, root: Path, out: Path, *flags: str | Path) -> str:
    """Run the tool as a user does; returns what it prints."""
    command = ("--run_dir", run_dir, "--root", root, "--out", out, *FEW, *flags)
    return run(python("tools/add_word.py", *command)).stdout


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    flags = (*BLOCKS, "--train.epochs", "3", "--train.learning_rate", "0.05", "--train.warmup_epochs", "1")
    run(python("launch/train.py", "--data.shards", tiny_dataset, "--run_dir", run_dir, *flags))
    return run_dir


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten recordings of "lights", and four of "hush"."""
    return unpacked(tmp_path_factory.mktemp("words"), recordings() | recordings("hush", 4))


@pytest.fixture(scope="module")
def added(trained: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `trained` that has learnt "hush" and "lights" as well."""
    before, out = all_bytes(trained), tmp_path_factory.mktemp("runs") / "plus"
    said = add(trained, root, out, "--rehearsal_clips", "4")
    assert "new word 'lights': 8 recordings to train, 2 to test" in said
    assert "'hush' has 4 recordings; with fewer than 5 expect little" in said
    assert "'hush' is not tested" in said
    assert "1 of 3" in said
    assert "2 of 3" in said
    assert "3 of 3" in said
    assert all_bytes(trained) == before
    return out


def test_the_new_run_knows_the_word_and_is_a_run_like_any_other(added: Path) -> None:
    trained = rebuild(added)
    assert trained.words == (*OLD, "hush", "lights")
    assert last_json(run(python("launch/evaluate.py", "--run_dir", added)).stdout)["n"] == 9 + 2
    assert read(added / "result.json")["test"]["n"] == 9 + 2


def test_old_words_are_rehearsed_and_all_their_tests_kept(added: Path, tiny_dataset: Path) -> None:
    now, before = open_dataset(added / "data"), open_dataset(tiny_dataset)
    counts = now.meta["clips_per_word"]
    assert counts["train"] == {**dict.fromkeys(OLD, 4), "hush": 4, "lights": 8}
    assert counts["test"] == {**dict.fromkeys(OLD, 3), "hush": 0, "lights": 2}
    assert set(before.rows("test").keys) < set(now.rows("test").keys)
    assert set(before.rows("val").keys) == set(now.rows("val").keys)
    assert before.rows("noise").checksum.tolist() == now.rows("noise").checksum.tolist()


def test_only_the_last_block_and_the_classifier_are_trained(added: Path, trained: Path) -> None:
    before, after = rebuild(trained).model, rebuild(added).model
    last = from_last_block(before)
    of_before, of_after = before.state_dict(), after.state_dict()
    fixed = [name for names in layers(before)[:-last] for name in names]
    moved = [name for names in layers(before)[-last:] for name in names if not name.startswith("classifier.")]
    assert fixed
    assert moved
    assert [name for name in fixed if not torch.equal(of_before[name], of_after[name])] == []
    assert [name for name in moved if torch.equal(of_before[name], of_after[name])] == []


def test_features_and_augmentation_are_those_of_the_old_run(added: Path, trained: Path) -> None:
    before, after = load_file(trained / "config.yaml"), load_file(added / "config.yaml")
    assert (after.features, after.augment, after.model) == (before.features, before.augment, before.model)
    assert after.train.optimizer == load_file(RECIPE).train.optimizer


def test_the_report_says_what_both_models_are_judged_by(added: Path, trained: Path) -> None:
    report = read(added / "add_word.json")
    old = report["old_words"]
    before = last_json(run(python("launch/evaluate.py", "--run_dir", trained)).stdout)
    after = last_json(run(python("launch/evaluate.py", "--run_dir", added)).stdout)
    for figures, evaluated in ((old["before"], before), (old["after"], after)):
        assert figures["correct"] == sum(evaluated["per_word"][word]["correct"] for word in OLD)
        assert (figures["low"], figures["high"]) == wilson_interval(figures["correct"], 9)
    assert {word: one["after"]["n"] for word, one in old["per_word"].items()} == dict.fromkeys(OLD, 3)
    test = report["new_words"]["lights"]["test"]
    assert (test["correct"], test["n"]) == (after["per_word"]["lights"]["correct"], 2)
    page = (added / "add_word.md").read_text()
    assert all(word in page for word in [*OLD, "lights (new)"])


def test_the_same_command_again_changes_nothing_and_more_epochs_go_on(
    added: Path, trained: Path, root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "plus"
    shutil.copytree(added, out)
    step, report = read(out / "state.json")["step"], read(out / "add_word.json")
    assert "is finished" in add(trained, root, out, "--rehearsal_clips", "4")
    assert read(out / "add_word.json") == {**report, "out": str(out)}
    said = add(trained, root, out, "--rehearsal_clips", "4", "--train.epochs", "3")
    assert f"step {step} of {step * 3 // 2}" in said
    assert read(out / "state.json")["step"] == step * 3 // 2


def test_the_end_is_the_model_also_after_more_epochs_and_validations(trained: Path, root: Path, tmp_path: Path) -> None:
    """With a rate of 0 no validation is better than the first, so that it would be chosen."""
    fixed = ("--train.train_last_layers", "1", "--train.learning_rate", "0", "--train.ema_decay", "0")
    for more in (("--train.epochs", "1"), ("--train.epochs", "2", "--train.eval_every_steps", "2")):
        add(trained, root, tmp_path / "plus", *fixed, *more)
        result = read(tmp_path / "plus" / "result.json")
        assert result["best_step"] == result["steps"] == read(tmp_path / "plus" / "state.json")["step"]


def test_a_word_can_be_added_to_a_run_with_an_added_word(added: Path, tmp_path: Path) -> None:
    add(added, unpacked(tmp_path / "words", recordings("music", 8)), tmp_path / "out")
    assert rebuild(tmp_path / "out").words == (*OLD, "hush", "lights", "music")
    assert read(tmp_path / "out" / "add_word.json")["old_words"]["before"]["n"] == 9 + 2


def test_too_few_recordings_to_test_are_said_plainly(added: Path) -> None:
    hush = read(added / "add_word.json")["new_words"]["hush"]
    assert (hush["train_clips"], hush["test"]) == (4, None)
    assert "New word 'hush': not tested" in (added / "add_word.md").read_text()


@pytest.mark.parametrize(("number", "train", "test"), [(7, 7, 0), (8, 6, 2), (10, 8, 2), (20, 16, 4)])
def test_how_many_recordings_are_held_out(tmp_path: Path, number: int, train: int, test: int) -> None:
    content = recordings(number=number) | recordings("music", 5)
    counts = counts_of(open_new(unpacked(tmp_path, content), clip_seconds=1.0, speaker_from=None, split=None))
    assert counts["lights"] == Counter({"train": train, "test": test})
    assert counts["music"] == Counter({"train": 5})


def test_folders_called_train_and_test_are_taken_as_they_are(tmp_path: Path) -> None:
    content = {f"train/{name}": data for name, data in recordings(number=3).items()}
    content |= {f"test/{name}": data for name, data in recordings(number=6).items()}
    counts = counts_of(open_new(unpacked(tmp_path, content), clip_seconds=1.0, speaker_from=None, split=None))
    assert counts == {"lights": Counter({"train": 3, "test": 6})}


# --- runs with `_unknown_` and `_silence_` ---


@pytest.fixture(scope="module")
def with_unknown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of two words, of silence, and of two more words as `_unknown_`."""
    folder = tmp_path_factory.mktemp("unknown")
    archive = tiny_corpus.pack(
        folder / "a.tar.gz",
        tiny_corpus.files(("yes", "no", "up", "left"), noises=0)
        | {"_background_noise_/hum.wav": tiny_corpus.wav_file(tiny_corpus.tone(500, n_samples=20 * 16_000))},
    )
    source = SpeechCommands(archive, words=["yes", "no"], unknown="all", silence=True)
    plan = make_plan(source, shard_clips=20, seed=0)
    write_dataset(source, plan, folder / "shards", task="tiny", command=["make", "it"])
    return folder / "shards"


@pytest.mark.parametrize("spelt", ["up", "Up"])
def test_clips_of_the_new_word_are_no_longer_unknown(with_unknown: Path, spelt: str) -> None:
    dataset = open_dataset(with_unknown)
    old = choose_old(dataset, dataset.words, {spelt}, clips_per_word=0, seed=0)
    kept = Counter(clip.key.partition("/")[0] for clip in old.place if clip.word == "_unknown_")
    assert kept == Counter({"left": 12})
    assert old.left_out == Counter({"train": 7, "val": 2, "test": 3})
    assert old.untold == 0


def test_a_run_with_unknown_and_silence_learns_a_word_that_was_unknown(with_unknown: Path, tmp_path: Path) -> None:
    flags = (*BLOCKS, "--train.epochs", "1")
    run(python("launch/train.py", "--data.shards", with_unknown, "--run_dir", tmp_path / "run", *flags))
    said = add(tmp_path / "run", unpacked(tmp_path / "words", recordings("up", 8)), tmp_path / "out")
    assert "12 clips of _unknown_ are of the new words, and are left out" in said
    source = open_dataset(tmp_path / "out" / "data").meta["source"]
    assert source["silence"] is True, "by which training knows that silence is drawn anew"
    assert {"_silence_", "_unknown_", "yes", "no", "up"} == set(rebuild(tmp_path / "out").words)


# --- mistakes ---


def wanted(run_dir: Path, root: Path, out: Path, shards: str = "") -> Wanted:
    return Wanted(run_dir=run_dir, root=root, out=out, recipe=RECIPE, shards=shards)


def refused(run_dir: Path, root: Path, out: Path) -> str:
    """Return the sentence that a wrong wish is answered with, before anything is written."""
    with pytest.raises(UsageError) as error:
        prepare(wanted(run_dir, root, out))
    return str(error.value)


def test_a_known_word_is_refused_in_one_sentence(trained: Path, tmp_path: Path) -> None:
    root = unpacked(tmp_path / "words", recordings("yes"))
    command = ("--run_dir", trained, "--root", root, "--out", tmp_path / "out")
    said = run(python("tools/add_word.py", *command), expect=2).stderr
    assert "knows yes already" in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_known_word_in_other_case_is_refused(trained: Path, tmp_path: Path) -> None:
    said = refused(trained, unpacked(tmp_path / "words", recordings("Yes")), tmp_path / "out")
    assert "'Yes' differs only in case from 'yes'" in said


def test_no_recordings_are_said(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "words" / "lights").mkdir(parents=True)
    assert "no recordings" in refused(trained, tmp_path / "words", tmp_path / "out")


def test_a_run_that_is_not_there_or_not_finished_is_refused(trained: Path, root: Path, tmp_path: Path) -> None:
    assert "there is no such folder" in refused(tmp_path / "nowhere", root, tmp_path / "out")
    stopped = tmp_path / "stopped"
    shutil.copytree(trained, stopped)
    (stopped / "state.json").write_text('{"status": "stopped", "step": 2}')
    assert "is stopped, not finished" in refused(stopped, root, tmp_path / "out")


def test_a_damaged_run_is_said(trained: Path, root: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    weights = run_dir / "checkpoints" / "best" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"weights\.safetensors"):
        prepare(wanted(run_dir, root, tmp_path / "out"))


def test_shards_that_are_gone_are_said_and_can_be_named(
    root: Path, tiny_dataset: Path, other_dataset: Path, tmp_path: Path
) -> None:
    run_dir, shards = tmp_path / "run", tmp_path / "shards"
    shutil.copytree(tiny_dataset, shards)
    flags = (*BLOCKS, "--train.epochs", "1")
    run(python("launch/train.py", "--data.shards", shards, "--run_dir", run_dir, *flags))
    assert prepare(wanted(run_dir, root, tmp_path / "out")).same_data
    shutil.rmtree(shards)
    assert "--data.shards DIR" in refused(run_dir, root, tmp_path / "out")
    assert not prepare(wanted(run_dir, root, tmp_path / "out", str(other_dataset))).same_data


def test_the_run_itself_and_other_runs_are_not_written_to(trained: Path, root: Path, added: Path) -> None:
    assert "is the run itself" in refused(trained, root, trained)
    music = unpacked(added.parent / "music_words", recordings("music"))
    assert "other settings" in refused(added, music, trained)


def test_a_mistyped_setting_is_answered(trained: Path, root: Path, tmp_path: Path) -> None:
    command = python("tools/add_word.py", "--run_dir", trained, "--root", root, "--out", tmp_path / "out")
    done = subprocess.run(
        [*command, "--train.epoch", "3"], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--train.epochs" in done.stderr + done.stdout
    assert not (tmp_path / "out").exists()


# --- what the figures are said to mean ---


def report_of(right_before: int, lost: int, won: int, n: int = 1000) -> dict[str, Any]:
    """Report on `n` old clips of one word, of which `lost` are wrong only after, and `won` only before."""
    clip = np.arange(n)
    before = np.where(clip < right_before, 0, 1)
    after = np.where((clip < lost) | (clip >= right_before + won), 1, 0)
    return compare(before == 0, after == 0)


@pytest.mark.parametrize(
    ("lost", "won", "excludes", "change"),
    [
        (40, 1, True, "become worse"),
        (0, 30, True, "become better"),
        (10, 1, False, "become worse"),
        (5, 4, False, "no change is proved"),
        (0, 0, False, "no change is proved"),
    ],
)
def test_the_report_says_if_the_interval_excludes_the_value_before(
    lost: int, won: int, excludes: bool, change: str
) -> None:
    old = report_of(950, lost, won)
    assert (old["right_before_only"], old["right_after_only"]) == (lost, won)
    low, high = wilson_interval(950 - lost + won, 1000)
    assert old["after_excludes_before"] == excludes == (not low <= 0.95 <= high)
    report = {"old_words": {**old, "split": "test", "taken_for_new_words": share(np.zeros(1000, bool))}}
    said = sentences({**report, "new_words": {}, "old_clips_are_those_of_the_run": True})
    assert ("excludes" in said[0]) == excludes
    assert change in said[1]


def test_the_sign_test_is_exact() -> None:
    assert report_of(950, 1, 5)["sign_test_p"] == pytest.approx(2 * (1 + 6) / 2**6)
    assert report_of(950, 3, 3)["sign_test_p"] == 1.0
