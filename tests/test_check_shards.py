"""`tools/check_shards.py` as it is used: run as a program, by a person, by another program, and on real recordings."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launching import SMALL, environment, python, run
from spoken_corpus import WORDS, Recording, shards_of_recordings, spoken, word

TOOL = Path(__file__).parents[1] / "tools" / "check_shards.py"
HZ = {"yes": 400, "no": 1200, "up": 3000}


def check(*arguments: object, columns: int = 100, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the tool; whatever happens, standard error holds at most one sentence."""
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    settings = {**environment(), "COLUMNS": str(columns)}
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    assert done.returncode == expect, f"{done.stdout}\n{done.stderr}"
    assert done.stderr.count("\n") == (1 if expect == 2 else 0), done.stderr
    return done


def recordings(per_split: int = 8) -> dict[str, Recording]:
    """Words that differ by their pitch, so that a model learns them within seconds."""
    made = spoken(per_split)
    for number, (key, one) in enumerate(made.items()):
        if one.word in HZ:
            made[key] = replace(one, samples=word(number, hz=HZ[one.word] + number, n_samples=16_000))
    return made


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shards_of_recordings(recordings().values(), tmp_path_factory.mktemp("good") / "out", shard_clips=20)


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A speaker in two splits, the same audio under two words, and twelve clips that are silent but for a sample."""
    made = recordings()
    made["yes/val-0"] = replace(made["yes/val-0"], speaker="train-1")
    made["no/train-2"] = replace(made["no/train-2"], samples=made["yes/train-2"].samples)
    for i in range(12):
        samples = np.zeros(16_000, np.int16)
        samples[i] = 1
        made[f"up/empty-{i}"] = Recording(f"up/empty-{i}", "up", "train", samples, speaker="train-1")
    return shards_of_recordings(made.values(), tmp_path_factory.mktemp("poor") / "out")


@pytest.fixture(scope="module")
def trained(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    more = ("--model.params", "hidden", "16", "layers", "1", "dropout", "0", "--train.epochs", "12")
    run(python("launch/train.py", "--data.shards", good, "--run_dir", run_dir, *SMALL, *more))
    return run_dir


def test_a_good_dataset_is_said_to_be_good_in_the_last_line(good: Path) -> None:
    said = check(good).stdout.splitlines()
    assert said[-1] == "all 73 clips of 7 shards are as they were written"
    assert said[0].startswith(f"{good}: spoken, 7 shards of wav, ")
    [yes] = [line.split() for line in said if line.startswith(" yes")]
    assert yes[:6] == ["yes", "8", "8", "8", "1.00", "1.00"]
    assert "speakers: 24" in said


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_no_table_is_wider_than_the_terminal(poor: Path, columns: int) -> None:
    said = check(poor, columns=columns, expect=1).stdout
    tables = [line for line in said.splitlines() if line.startswith(" ") and not line.startswith("  ")]
    assert len(tables) > 10
    assert max(map(len, tables)) <= columns


def test_what_is_wrong_ends_with_exit_code_1_and_is_listed_with_examples(poor: Path) -> None:
    said = check(poor, expect=1).stdout
    last = said.splitlines()[-1]
    assert last.startswith("all 85 clips of ")
    assert last.endswith("; wrong: a speaker in two splits (1), the same audio under two words (1)")
    assert "train-1: 15 clips in train, 1 clip in val" in said
    assert "train: no/train-2 = yes/train-2" in said
    assert said.count("up/empty-") == 10
    assert "and 2 more; --json lists them all" in said


def test_json_is_all_there_is_on_standard_output_and_holds_every_key(poor: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.png"
    found: dict[str, Any] = json.loads(check(poor, "--json", "--plot", page, expect=1).stdout)
    assert page.read_bytes().startswith(b"\x89PNG")
    assert (found["is_fine"], found["clips"], found["faults"], found["suspects"]) == (False, 85, [], None)
    near_empty = found["findings"]["near_empty"]
    assert near_empty["clips"] == len(near_empty["items"]) == 12
    assert {key for item in near_empty["items"] for key in item["keys"]} == {f"up/empty-{i}" for i in range(12)}
    assert found["findings"]["audio_under_two_words"]["is_error"]
    assert found["findings"]["clipped"]["items"] == []
    assert found["words"]["up"]["clips"] == {"train": 20, "val": 8, "test": 8}


def test_every_fault_is_named_and_the_way_to_mend_it(good: Path, tmp_path: Path) -> None:
    root = shutil.copytree(good, tmp_path / "out")
    shard = root / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    (root / "noise-000000.tar").unlink()
    said = check(root, expect=1).stdout
    assert said.splitlines()[-1] == "2 faults in 7 shards"
    assert f"  {root}/train-000000.tar: clip '" in said
    assert f"  {root}/noise-000000.tar: missing, with 1 clip; make the shards again" in said
    assert "the command in dataset.json: make it" in said
    assert " yes" in said, "what is whole is examined nevertheless"
    faults = json.loads(check(root, "--json", expect=1).stdout)["faults"]
    assert [fault["file"] for fault in faults] == ["train-000000.tar", "noise-000000.tar"]
    assert [len(fault["clips"]) for fault in faults] == [1, 1]


def test_without_dataset_json_the_shards_are_verified_and_it_is_said_what_is_not_done(
    good: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(good, tmp_path / "out")
    (root / "dataset.json").unlink()
    said = check(root, "--plot", tmp_path / "page.png", expect=1).stdout
    assert f"{root}/dataset.json: missing" in said
    assert "the recordings were not examined" in said
    assert not (tmp_path / "page.png").exists()
    assert json.loads(check(root, "--json", expect=1).stdout)["findings"] == {}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere: there is no such folder"),
        ([TOOL.parent], "there are no shards in this folder"),
        (["GOOD", "--workers", "-1"], "--workers -1"),
        (["GOOD", "--worst", "0"], "--worst 0"),
        (["GOOD", "--plot", "nowhere/page.png"], "--plot nowhere/page.png: there is no folder nowhere"),
        (["GOOD", "--run_dir", "nowhere"], "--run_dir nowhere: there is no such folder"),
        (["GOOD", "--run_dir", TOOL.parent], "holds no trained model"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(good: Path, arguments: list[object], says: str) -> None:
    done = check(*(good if argument == "GOOD" else argument for argument in arguments), expect=2)
    assert says in done.stderr
    assert done.stdout == ""


def test_debug_shows_the_traceback() -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL), "nowhere", "--debug"], capture_output=True, text=True, check=False
    )
    assert "Traceback" in done.stderr


def test_labels_that_were_swapped_are_the_ones_a_trained_model_believes_least(trained: Path, tmp_path: Path) -> None:
    made = recordings()
    swapped = {"yes/train-3": "no", "no/test-5": "up", "up/val-1": "yes"}
    for key, word_ in swapped.items():
        made[key] = replace(made[key], word=word_)
    # Another order of labels: words are matched by name.
    root = shards_of_recordings(made.values(), tmp_path / "out", words=tuple(reversed(WORDS)), shard_clips=20)
    found = json.loads(check(root, "--run_dir", trained, "--worst", 5, "--json").stdout)["suspects"]
    assert len(found) == 5
    assert {one["key"]: one["word"] for one in found[:3]} == swapped
    for one in found[:3]:
        assert one["heard"] == one["key"].partition("/")[0]
        assert one["split"] == one["key"].partition("/")[2].partition("-")[0]
        assert one["word_probability"] < 0.5 < one["heard_probability"]
    assert [one["loss"] for one in found] == sorted((one["loss"] for one in found), reverse=True)
    said = check(root, "--run_dir", trained, "--worst", 3).stdout
    assert f"labels that the model of {trained} believes least" in said
    assert all(key in said for key in swapped)


def test_a_model_is_not_asked_about_damaged_data_or_words_it_does_not_know(
    good: Path, trained: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(good, tmp_path / "out")
    (root / "rejected.jsonl").write_text("?")
    assert "was not asked: mend the faults first" in check(root, "--run_dir", trained, expect=1).stdout
    other = [replace(one, word="maybe") if one.word == "up" else one for one in recordings().values()]
    shards_of_recordings(other, tmp_path / "other", words=("yes", "no", "maybe"))
    assert "does not know: maybe" in check(tmp_path / "other", "--run_dir", trained, expect=2).stderr


@pytest.mark.real_data
def test_real_recordings_are_whole_and_their_doubles_and_poor_clips_are_found(real_data: Path, tmp_path: Path) -> None:
    archive = real_data / "speech_commands_real10.tar.gz"
    make = [sys.executable, str(TOOL.with_name("make_shards.py")), "speech-commands", "--archive", str(archive)]
    subprocess.run([*make, "--out", str(tmp_path)], check=True, capture_output=True, env=os.environ)
    found = json.loads(check(tmp_path, "--json").stdout)
    assert (found["is_fine"], found["clips"], found["faults"]) == (True, 6795, [])
    assert found["speakers"]["clips_with_speaker"] == 6789
    for kind in ("speaker_in_two_splits", "audio_in_two_splits", "audio_under_two_words", "silent"):
        assert found["findings"][kind]["items"] == []
    doubles = found["findings"]["audio_twice"]["items"]
    assert len(doubles) == 38
    assert ["cat/28ce0c58_nohash_0", "cat/28ce0c58_nohash_1"] in [item["keys"] for item in doubles]
    assert found["findings"]["clipped"]["clips"] == 43
    assert "no/712e4d58_nohash_4" in {item["keys"][0] for item in found["findings"]["near_empty"]["items"]}, (
        "noise only"
    )
    assert "yes/475b61f1_nohash_0" in {item["keys"][0] for item in found["findings"]["cut_off"]["items"]}
