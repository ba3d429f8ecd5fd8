"""`tools/make_shards.py` as it is used: run as a program, on real recordings, killed, and run again."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_corpus import content_of

from kws_dist.shards.read import open_dataset

TOOL = Path(__file__).parents[1] / "tools" / "make_shards.py"
REAL = "speech_commands_real10.tar.gz"


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(TOOL), *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=environment, check=False)


def test_an_archive_becomes_shards_and_a_table_of_what_is_in_them(tiny_archive: Path, tmp_path: Path) -> None:
    made = run("speech-commands", "--archive", tiny_archive, "--words", "up,yes", "--out", tmp_path / "out")
    assert (made.returncode, made.stderr) == (0, "")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.words == ("up", "yes")
    assert dataset.meta["task"] == "speech-commands 2 words"
    assert dataset.meta["command"][2:4] == ["speech-commands", "--archive"]
    for shown in (dataset.digest, "14", "2 noise clips", "clips/s", str(tmp_path / "out")):
        assert shown in made.stdout
    again = run("speech-commands", "--archive", tiny_archive, "--words", "up,yes", "--out", tmp_path / "out")
    assert again.returncode == 0
    assert "was complete already" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["speech-commands", "--archive", "nowhere.tar.gz"], 2, "--archive nowhere.tar.gz: there is no such file"),
        (["speech-commands"], 2, "pass either --archive FILE.tar.gz or --root DIR"),
        (["speech-commands", "--archive", TOOL], 1, f"{TOOL}: not a complete .tar.gz archive"),
        (["speech-commands", "--archive", "TINY", "--words", "yes,,no"], 2, "a word is missing between two commas"),
        (["speech-commands", "--archive", "TINY", "--words", "yes,maybe"], 2, "'maybe'"),
        (["speech-commands", "--archive", "TINY", "--shard_clips", "0"], 2, "--shard_clips 0"),
        (["speech-commands", "--archive", "TINY", "--out", "/dev/null/x"], 1, "/dev/null/x: Not a directory"),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr(
    tiny_archive: Path, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    arguments = [str(tiny_archive) if argument == "TINY" else argument for argument in arguments]
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    made = run(*arguments, *out)
    assert made.returncode == code
    assert says in made.stderr
    assert made.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    made = run("speech-commands", "--archive", "nowhere.tar.gz", "--out", tmp_path / "out", "--debug")
    assert made.returncode == 1
    assert "Traceback" in made.stderr


@pytest.mark.parametrize("flag", ["--shard-clip", "--sed"])
def test_a_mistyped_flag_is_wrong_use(tmp_path: Path, flag: str) -> None:
    assert run("speech-commands", "--out", tmp_path / "out", flag, "1").returncode == 2


@pytest.mark.real_data
def test_real_recordings_killed_on_the_way_and_run_again_give_the_same_bytes(real_data: Path, tmp_path: Path) -> None:
    archive = real_data / REAL
    arguments = ["speech-commands", "--archive", archive, "--words", "yes,no,up", "--shard_clips", 200, "--out"]
    made = run(*arguments, tmp_path / "whole")
    assert made.returncode == 0
    whole = open_dataset(tmp_path / "whole")
    assert whole.meta["clips"] == {"train": 1440, "val": 180, "test": 480, "noise": 6}

    out = tmp_path / "killed"
    with subprocess.Popen(command(*arguments, out)) as child:
        while not (out / "train-000001.tar").exists():
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended before it could be killed, with code {child.wait(timeout=0.005)}")
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert not (out / "dataset.json").exists()

    continued = run(*arguments, out)
    assert "shards were there already" in continued.stdout
    of_whole, of_killed = content_of(tmp_path / "whole"), content_of(out)
    assert of_whole.pop("dataset.json") != of_killed.pop("dataset.json"), "they differ in the command alone"
    assert of_killed == of_whole
    assert open_dataset(out).digest == whole.digest


def test_the_synthesiser_makes_shards_too(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    made = run("synth", "--words", "yes,no", "--voices", 6, "--per_word", 12, "--out", tmp_path / "out")
    assert (made.returncode, made.stderr) == (0, "")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.words == ("yes", "no")
    assert sum(dataset.meta["clips"][split] for split in ("train", "val", "test")) == 24
